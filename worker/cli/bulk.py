"""`gpner-worker bulk`."""

import argparse
import os
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from rich.console import Console

from gpner.errors import ConfigError, GpnerError
from worker.bulk.exit_codes import STOPPED
from worker.bulk.signals import handling_signals, leave
from worker.cli.command import console, new_command

MODULES = ("pyarrow", "fsspec")


def add_command(commands: Any) -> None:
    """Add `bulk` and its flags to the parser."""
    parser = new_command(
        commands, "bulk", _bulk, "extract a whole corpus into files; run it again to go on after a stop"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IN",
        help="JSONL, CSV or TSV (.gz, .zst, .bz2 too), Parquet, folders of these or of .txt, data sets of Hugging "
        "Face on disk; globs; addresses that fsspec opens; - is JSONL from standard input",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FOLDER",
        help="a new folder, or that of this job; - writes JSONL to standard output",
    )
    parser.add_argument(
        "--local", action="store_true", help="run GPNER_MODEL in this process, instead of sending documents to workers"
    )
    parser.add_argument(
        "--format", default="parquet", metavar="FORMAT", help="parquet (default), jsonl, jsonl.gz or jsonl.zst"
    )
    parser.add_argument("--text-field", default="text", metavar="COLUMN", help="the text's column; default: text")
    parser.add_argument(
        "--id-field",
        default="id",
        metavar="COLUMN",
        help="the id's column; default: id. A row without one gets its file and row as its id",
    )
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMN",
        help="copy this column into the output; may be repeated",
    )
    parser.add_argument(
        "--shard-documents", type=int, default=10_000, metavar="N", help="rows of the input in a shard; default: 10000"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows of the input")
    parser.add_argument("--strict", action="store_true", help="stop at the first row that cannot be read")
    parser.add_argument("--max-failures", type=int, metavar="N", help="stop when more than N documents have failed")
    parser.add_argument("--retry-failures", action="store_true", help="only try those again that are in failures.jsonl")
    parser.add_argument(
        "--dry-run", action="store_true", help="read the input, say what is wrong with it, write nothing"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress and no summary")
    parser.epilog = (
        "Exit codes: 0 all is done, 1 done with failures (failures.jsonl names them), 2 wrong use, "
        "3 stopped: the same command goes on. Ctrl-C finishes what is under way, twice stops at once."
    )


def _bulk(options: argparse.Namespace) -> None:
    has_job = options.output != "-" and not options.dry_run
    next_step = "; the same command goes on" if has_job else ""
    with handling_signals(partial(leave, next_step)):  # from here on, as what is to be loaded takes seconds
        _end(_run({name: value for name, value in vars(options).items() if name != "run"}))


def _run(flags: dict[str, Any]) -> int:
    """Run a job and return the exit code."""
    try:
        from worker.bulk.options import Options
        from worker.bulk.run import run
    except ModuleNotFoundError as error:
        if error.name not in MODULES:
            raise
        raise ConfigError(f"bulk needs the package {error.name}; run `pip install 'gpner[bulk]'`") from None
    wanted = Options(**flags)
    try:
        return run(wanted, console, Console(stderr=True))
    except (GpnerError, BrokenPipeError, ModuleNotFoundError):
        raise
    except Exception:  # noqa: BLE001 - a fault of ours: Python's own exit code, 1, would say that all is done
        with suppress(OSError):  # nobody may read it
            traceback.print_exc()
        return STOPPED


def _end(code: int) -> NoReturn:
    """End this process without its threads."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):  # what must arrive was flushed where it was written
            stream.flush()
    # One that a stop did not wait for is still in native code, which must not meet a dying interpreter.
    os._exit(code)
