"""`python -m worker.cli`, which is how the demo starts its worker."""

import sys

from worker.cli import main

if __name__ == "__main__":
    sys.exit(main())
