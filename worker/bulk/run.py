"""One run of a bulk job: begins it or goes on with it, until the input ends or somebody stops it."""

import operator
import os
import sqlite3
import uuid
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from itertools import islice

from rich.console import Console

from gpner.errors import GpnerError
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.bulk.flow import Answering, Flow
from worker.bulk.inputs import Source, find_sources
from worker.bulk.job import Job
from worker.bulk.local import Local
from worker.bulk.manifests import spans
from worker.bulk.options import Options
from worker.bulk.output import SUMMARY, Shards, count_failures, failures, is_done, publish
from worker.bulk.over_queue import OverQueue
from worker.bulk.reading import Reading
from worker.bulk.rows import Block
from worker.bulk.seen import SeenIds
from worker.bulk.show import Display, print_summary, print_words
from worker.bulk.signals import handling_signals
from worker.bulk.tables import Columns, check_columns
from worker.bulk.without_job import dry_run, write_to_standard_output
from worker.settings import Settings, load_settings

# To try these again is of no use: the input would have to change, and is then another.
FINAL_TYPES = ("DuplicateId",)
GOES_ON = "; the same command goes on from here"
GOES_ON_WITHOUT_RETRY = "; the same command without --retry-failures goes on from here"


def run(options: Options, out: Console, err: Console) -> int:
    """Run a job and return the exit code.

    Args:
        options: What to do.
        out: Gets the summary, or what a dry run has found.
        err: Gets progress, and the reason of a stop.

    Raises:
        GpnerError: If it cannot begin: a flag, an input, the output, the model, Redis.
    """
    settings = load_settings()
    sources = _find_input(options, err)
    try:
        if options.dry_run:
            return dry_run(options, settings, sources, out)
        if options.to_standard_output:
            answering: Answering = (
                Local(settings) if options.local else OverQueue(settings, uuid.uuid4().hex, lambda name, revision: None)
            )
            return write_to_standard_output(options, settings, sources, answering, err)
        fingerprint = options.fingerprint(settings.max_document_characters)
        with closing(Job.open(options.folder, fingerprint, sources, retry=options.retry_failures)) as job:
            return JobRun(options, settings, job, out, err).run()
    except (BrokenPipeError, SystemExit):  # whoever read our output has enough; rich says it by SystemExit
        return STOPPED
    except (OSError, sqlite3.Error) as error:  # the disk, which may have no room for a summary either
        with suppress(OSError, SystemExit):  # standard error may have no reader or no room
            _give_up(err, str(error), GOES_ON if options.has_job else "")
        return STOPPED


def _find_input(options: Options, err: Console) -> list[Source]:
    """The sources of the input, checked as far as that is quick.

    Args:
        options: What the user asks.
        err: Is told of files that are named twice.

    Raises:
        ConfigError: If there are none, or they lack a column.
    """
    found = find_sources(options.inputs, None if options.to_standard_output else options.folder)
    if found.doubles and not options.quiet:
        more = f", and {len(found.doubles) - 1:,} more" if len(found.doubles) > 1 else ""
        name, first = found.doubles[0]
        print_words(err, f"a file is read once, however often it is named: {name} is {first}{more}")
    check_columns(found.sources[0], options.required_columns)
    return found.sources


class JobRun:
    """One run of a job that has a folder.

    Args:
        options: What to do.
        settings: Where the model or Redis is.
        job: What is done already.
        out: Gets the summary.
        err: Gets progress, and the reason of a stop.
    """

    def __init__(self, options: Options, settings: Settings, job: Job, out: Console, err: Console) -> None:
        self._options = options
        self._job = job
        self._out = out
        self._err = err
        self._next_step = GOES_ON
        with ExitStack() as opened:
            self._answering = self._begin(settings, opened)
            self._seen = opened.enter_context(closing(SeenIds(job.file("seen.sqlite"))))
            self._reading = Reading(
                job.parts,
                Columns(options.text_field, options.id_field, options.keep, job.kept),
                self._seen,
                shard_items=options.shard_documents,
                max_document_characters=settings.max_document_characters,
            )
            self._note_lost_ids()
            self._display = Display(
                None if options.quiet else err,
                total_bytes=sum(part.source.size for part in job.parts),
                failures=count_failures(job),
            )
            self._flow = Flow(self._display, strict=options.strict, most_failures=options.max_failures)
            self._opened = opened.pop_all()

    def run(self) -> int:
        """Do what is to be done, and say what came out."""
        was_done = is_done(self._job)
        with self._opened:
            (self._job.folder / SUMMARY).unlink(missing_ok=True)  # what it says of the last run may no longer be so
            try:
                with handling_signals(self._flow.stop_at_signal), self._display:
                    if self._options.retry_failures:
                        self._retry()
                    else:
                        self._read_on()
            except KeyboardInterrupt:
                self._leave_at_once()
            except GpnerError as error:
                self._flow.stopped = str(error)
        if self._options.retry_failures and self._flow.stopped is None and not was_done:
            self._flow.stopped = "what failed was tried again, the input is not read to its end"
            self._next_step = GOES_ON_WITHOUT_RETRY
        return self._finish()

    def _begin(self, settings: Settings, opened: ExitStack) -> Answering:
        """Find out whether the job can be done before anything of it is written down."""
        if not self._options.local:
            over_queue = opened.enter_context(closing(OverQueue(settings, self._job.name, self._job.check_model)))
            self._job.begin()
            return over_queue
        local = opened.enter_context(closing(Local(settings)))
        self._job.begin()
        self._job.check_model(local.name, local.revision)
        return local

    def _note_lost_ids(self) -> None:
        """Read the ids of shards again that are not noted, in the order in which they were noted before."""
        lost = list(spans(self._job.manifests))[self._seen.shards :]
        if lost and not self._options.quiet:
            words = "does not hold the ids of all that was read: reading them again"
            print_words(self._err, f"{self._job.file('seen.sqlite')} {words}")
        for number, each in enumerate(lost, start=self._seen.shards + 1):
            self._reading.note(each)
            self._seen.commit(number)

    def _read_on(self) -> None:
        """Everything that no finished shard has."""
        limit = self._options.limit
        most = None if limit is None else limit - self._job.items
        if most is None or most > 0:
            self._write(self._reading.blocks(self._job.position, most), retry=False)

    def _retry(self) -> None:
        """Try failed rows again, and read sources that broke from where they broke."""
        rows: dict[str, array[int]] = {}  # numbers and no objects: there may be very many
        broken: set[str] = set()
        for _, failure in failures(self._job):
            if failure["row"] is None:
                broken.add(failure["source"])
            elif failure["reason"]["type"] not in FINAL_TYPES:
                rows.setdefault(failure["source"], array("q")).append(failure["row"])
        self._display.failures -= sum(map(len, rows.values()))
        wanted = {source: _ascending(numbers) for source, numbers in rows.items()}
        self._write(self._reading.again(wanted, self._job.position), retry=True)
        for name in sorted(broken):
            self._read_rest(name)

    def _read_rest(self, name: str) -> None:
        if self._flow.stopped is None:
            number, shards = self._job.broken_part(name), len(self._job.manifests)
            self._display.failures -= 1
            first = self._job.ended[number].items
            self._write(self._reading.rest(number, first, self._job.position), retry=True)
        if self._flow.stopped is None:
            self._job.note_retried(name, shards)

    def _write(self, blocks: Iterator[Block], *, retry: bool) -> None:
        with closing(Shards(self._job, self._seen, retry=retry)) as shards:
            round_name = f"retry {len(self._job.manifests)}" if retry else ""
            self._flow.run(blocks, self._answering, shards, round_name)
            if self._flow.stopped is None:
                shards.seal()

    def _finish(self) -> int:
        stopped = self._flow.stopped
        state = "done" if stopped is None else "stopped"
        summary, tally = publish(self._job, state=state, seconds=self._display.seconds, tokens=self._display.tokens)
        if not self._options.quiet:
            print_summary(self._out, summary, tally)
        if stopped is not None:
            return _give_up(self._err, stopped, self._next_step)
        return DONE_WITH_FAILURES if tally.n_failures else DONE

    def _leave_at_once(self) -> None:
        _give_up(self._err, "at once", GOES_ON)
        # Other threads are in native code, which must not meet a dying interpreter.
        os._exit(STOPPED)


def _ascending(rows: "array[int]") -> "array[int]":
    """Rows in order, without objects for those that are already."""
    return rows if all(map(operator.lt, rows, islice(rows, 1, None))) else array("q", sorted(rows))


def _give_up(err: Console, reason: str, next_step: str) -> int:
    """Say why a job stopped, and what goes on with it; returns the exit code for that."""
    print_words(err, f"stopped: {reason}{next_step}")
    return STOPPED
