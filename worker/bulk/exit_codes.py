"""Exit codes of `gpner-worker bulk`; 2 is wrong use, as everywhere. Light, for what runs before packages are loaded."""

DONE, DONE_WITH_FAILURES = 0, 1
# The same command goes on.
STOPPED = 3
