"""What importing costs: producers must not load what only workers need."""

import json
import subprocess
import sys

import pytest

LOADED = "import json, sys; {imports}; print(json.dumps(sorted(sys.modules)))"


def modules_after(imports: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED.format(imports=imports)], capture_output=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("module", ["worker.client", "worker.queue", "worker.protocol", "worker.settings", "gpner"])
def test_a_producer_loads_neither_torch_nor_transformers_nor_celery(module):
    loaded = modules_after(f"import {module}")

    assert module in loaded
    assert not loaded & {"torch", "transformers", "celery", "kombu", "prometheus_client", "numpy"}


def test_asking_for_help_loads_no_torch():
    loaded = modules_after("import gpner.cli; gpner.cli.build_parser()")

    assert "torch" not in loaded


def test_the_public_names_are_there():
    import gpner
    import worker.client

    for module in (gpner, worker.client):
        assert all(hasattr(module, name) for name in module.__all__)
