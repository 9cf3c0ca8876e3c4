"""The service's command line: `gpner-worker start | status | submit | bulk | dead | demo`, one module a command."""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from gpner.errors import GpnerError
from worker.cli import bulk, dead, demo, start, status, submit

# Exit code of a command that could not do its work because of what the user gave it.
WRONG_USE = 2
# As shells count it: 128 and the number of SIGINT.
INTERRUPTED = 130
COMMANDS = (start, status, submit, bulk, dead, demo)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends as one line on standard error and exit code 2."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except GpnerError as error:
        message = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever reads our output, `head` for instance, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        message = f"this command needs the package {error.name}, it is not installed; run `pip install 'gpner[worker]'`"
    else:
        return 0
    # Names of others may be in it, and control characters in them could rewrite what the terminal shows.
    readable = "".join(character if character.isprintable() else " " for character in message)
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {readable}", markup=False, style="red")
    return WRONG_USE


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="gpner-worker",
        description="Entities from a queue of long documents. Set up by environment variables: see docs/operations.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    return parser
