"""The command line of the model: `gpner train | tune | evaluate | ...`, a module for each command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from gpner.cli import convert, evaluate, extend, extract, pretrain, train, tune, view
from gpner.errors import GpnerError
from gpner.process import prepare_process

# Exit code of a command that could not do its work because of what the user gave it.
WRONG_USE = 2
# Exit code of one that Ctrl-C ended, as shells have it: 128 and the number of the signal.
INTERRUPTED = 130
RESUMED = ("train", "pretrain")
COMMANDS = (convert, train, tune, evaluate, extract, view, extend, pretrain)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends as one line on standard error and exit code 2."""
    options = build_parser().parse_args(arguments)
    try:
        if options.loads_models:
            _quiet_libraries()
            prepare_process()
        options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted" + ("; the same command with --resume continues" if options.command in RESUMED else ""))
        return INTERRUPTED
    except GpnerError as error:
        message = str(error)
    except BrokenPipeError:  # whoever reads our output, `head` for instance, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a disk that is full, a path that is too long
        message = f"every file must be readable or writable, the system refused one: {error}"
        _give_up_output()
    except ModuleNotFoundError as error:
        message = f"this command needs the package {error.name}, it is not installed; run `pip install 'gpner[train]'`"
    else:
        return 0
    _complain(f"error: {message}")
    return WRONG_USE


def _complain(message: str) -> None:
    line = " ".join(message.split())  # libraries that we quote write several
    Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False, style="red")


def _give_up_output() -> None:
    """Keep Python from complaining once more, at its exit, of an output that takes nothing."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands and their flags."""
    parser = argparse.ArgumentParser(prog="gpner", description="Nested named entities over whole long documents.")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_command(commands)
    return parser


def _quiet_libraries() -> None:
    """Leave out the progress bar of every file, the log of every retry and warnings of what we check ourselves."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
