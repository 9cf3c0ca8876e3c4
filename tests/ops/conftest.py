"""One measured service for all tests here: it takes longer to start than any of them."""

from collections.abc import Iterator

import pytest

from tests.ops.observed import Observed, observed
from tests.ops.servers import missing_programs


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """A service under load and under faults, and the Prometheus that measures it."""
    if missing := missing_programs():
        pytest.skip(f"needs {', '.join(missing)}: apt-get install prometheus prometheus-redis-exporter")
    with observed(tmp_path_factory.mktemp("observed")) as running:
        yield running
