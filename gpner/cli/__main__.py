"""`python -m gpner.cli`, which is how `torchrun` starts it on every GPU."""

from gpner.cli import main

raise SystemExit(main())
