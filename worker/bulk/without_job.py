"""Runs of which nothing is remembered: one to standard output, and a dry one, which says what a run would do."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console
from rich.table import Table

from gpner.errors import GpnerError
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.bulk.flow import Answering, Flow
from worker.bulk.inputs import Source
from worker.bulk.job import Job
from worker.bulk.options import Options
from worker.bulk.reading import Part, Reading
from worker.bulk.rows import Answer, Block, Found, Position, Problem, Row
from worker.bulk.seen import SeenIds
from worker.bulk.show import Display, print_words, readable
from worker.bulk.signals import handling_signals
from worker.bulk.tables import Columns, Types
from worker.settings import Settings


def write_to_standard_output(
    options: Options, settings: Settings, sources: Sequence[Source], answering: Answering, err: Console
) -> int:
    """Run a job whose output is standard output, and return the exit code; stopped, it begins anew the next time."""
    output = StandardOutput()
    with closing(answering), closing(SeenIds(None)) as seen:
        reading = _reading(options, settings, sources, seen, {})
        total_bytes = sum(source.size for source in sources)
        display = Display(None if options.quiet else err, total_bytes=total_bytes, failures=0)
        flow = Flow(display, strict=options.strict, most_failures=options.max_failures)
        try:
            with handling_signals(flow.stop_at_signal), display:
                flow.run(reading.blocks(Position(), options.limit), answering, output)
        except KeyboardInterrupt:
            os._exit(STOPPED)  # other threads are in native code, which must not meet a dying interpreter
        except GpnerError as error:
            flow.stopped = str(error)
    if flow.stopped is not None:
        print_words(err, f"stopped: {flow.stopped}")
        return STOPPED
    return DONE_WITH_FAILURES if output.failures else DONE


class StandardOutput:
    """Writes rows as they come.

    Attributes:
        failures: How many there were.
    """

    def __init__(self) -> None:
        self.failures = 0

    def known(self, block: Block) -> Sequence[Answer] | None:
        """None: nothing is remembered."""
        return None

    def write(self, block: Block, answers: Sequence[Answer], *, known: bool = False) -> None:
        """Write a block."""
        for item, answer in zip(block.items, answers, strict=True):
            if not isinstance(answer, Found):
                self.failures += 1
                sys.stderr.buffer.write(answer.line() + b"\n")
            elif isinstance(item, Row):
                sys.stdout.buffer.write(answer.line(item) + b"\n")
        sys.stdout.buffer.flush()
        sys.stderr.buffer.flush()


def dry_run(options: Options, settings: Settings, sources: Sequence[Source], out: Console) -> int:
    """Read everything, write nothing, print what a run would do, and return the exit code.

    Raises:
        ConfigError: If a run would be refused.
    """
    types, finished = _look_at_job(options, settings, sources)
    problems: Counter[str] = Counter()
    documents = characters = 0
    examples: dict[str, Problem] = {}
    with closing(SeenIds(None)) as seen:
        reading = _reading(options, settings, sources, seen, types)
        for block in reading.blocks(Position(), options.limit):
            for item in block.items:
                if isinstance(item, Row):
                    documents += 1
                    characters += len(item.text)
                else:
                    problems[item.type] += 1
                    examples.setdefault(item.type, item)
    items = documents + problems.total()
    numbers = {
        "sources": len(sources),
        "bytes": sum(source.size for source in sources),
        "documents": documents,
        "characters": characters,
        "shards": -(-items // options.shard_documents),
        "shards that are finished": finished,
        "problems": problems.total(),
        **{f"  {name}": count for name, count in problems.most_common()},
    }
    rows = {name: f"{number:,}" for name, number in numbers.items()}
    _print(rows | {f"--keep {readable(name)}": str(kind) for name, kind in types.items()}, out)
    for problem in examples.values():
        print_words(out, f"{problem.place}: {problem.message}")
    return DONE_WITH_FAILURES if problems else DONE


def _look_at_job(options: Options, settings: Settings, sources: Sequence[Source]) -> tuple[Types, int]:
    """The types of kept columns in the job that there is, or would be, and how many of its shards are finished."""
    if options.to_standard_output:
        return {}, 0
    fingerprint = options.fingerprint(settings.max_document_characters)
    with closing(Job.open(options.folder, fingerprint, sources, retry=options.retry_failures)) as job:
        return job.kept, len(job.manifests)


def _reading(options: Options, settings: Settings, sources: Sequence[Source], seen: SeenIds, types: Types) -> Reading:
    return Reading(
        [Part(source) for source in sources],
        Columns(options.text_field, options.id_field, options.keep, types),
        seen,
        shard_items=options.shard_documents,
        max_document_characters=settings.max_document_characters,
    )


def _print(rows: dict[str, str], out: Console) -> None:
    table = Table(title="dry run: nothing was written")
    table.add_column("")
    table.add_column("", justify="right")
    for name, value in rows.items():
        table.add_row(name, value)
    out.print(table, markup=False)
