"""The engine of the chaos suite: cheap and deterministic, and slow enough that faults strike in the middle of work."""

from tests.engines import CapitalsEngine
from worker.settings import Settings


def load_brisk(settings: Settings) -> CapitalsEngine:
    """A thousand tokens a second."""
    return CapitalsEngine(settings, seconds_per_token=0.001)
