"""Standard output as the output: rows as lines of JSON, failures as lines on standard error, nothing remembered."""

import os
import sys
from collections.abc import Sequence
from contextlib import closing

from rich.console import Console

from gpner.errors import GpnerError
from worker.bulk.columns import Columns
from worker.bulk.flow import Answering, Flow
from worker.bulk.inputs import Source
from worker.bulk.options import DONE, DONE_WITH_FAILURES, STOPPED, Options
from worker.bulk.reading import Part, Reading
from worker.bulk.rows import Answer, Block, Found, Position, Row
from worker.bulk.seen import SeenIds
from worker.bulk.show import Display, print_words
from worker.settings import Settings


def write_to_standard_output(
    options: Options, settings: Settings, sources: Sequence[Source], answering: Answering, err: Console
) -> int:
    """Run a job whose output is standard output, and return the exit code; stopped, it begins anew the next time."""
    output = StandardOutput()
    with closing(answering), closing(SeenIds(None)) as seen:
        reading = Reading(
            [Part(source) for source in sources],
            Columns(options.text_field, options.id_field, options.keep),
            seen,
            shard_items=options.shard_documents,
            max_document_characters=settings.max_document_characters,
        )
        total_bytes = sum(source.size for source in sources)
        display = Display(None if options.quiet else err, total_bytes=total_bytes, failures=0)
        flow = Flow(display, strict=options.strict, most_failures=options.max_failures)
        try:
            with flow.signals(), display:
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
