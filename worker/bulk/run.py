"""One run of a bulk job: begins it or goes on with it, until the input ends or somebody stops it."""

import difflib
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pyarrow
from rich.console import Console

from gpner.errors import ConfigError, GpnerError
from worker.bulk.ends import Answering
from worker.bulk.flow import Flow
from worker.bulk.inputs import STANDARD_INPUT, Source, find_sources, is_remote
from worker.bulk.job import Job
from worker.bulk.local import Local
from worker.bulk.options import DONE, DONE_WITH_FAILURES, STOPPED, Options
from worker.bulk.over_queue import OverQueue
from worker.bulk.publish import SUMMARY, failures, publish, tally_of
from worker.bulk.reading import Columns, Reading, kept_types, known_columns
from worker.bulk.rows import Block
from worker.bulk.seen import SeenIds
from worker.bulk.shards import Shards, read_sample
from worker.bulk.show import Display, print_summary
from worker.bulk.stream import write_to_standard_output
from worker.settings import Settings, load_settings

# To try these again is of no use: the input would have to change, and is then another.
FINAL_TYPES = ("DuplicateId",)


def run(options: Options, out: Console, err: Console) -> int:
    """Run a job and return the exit code.

    Args:
        options: What to do.
        out: Gets the summary.
        err: Gets progress, and the reason of a stop.

    Raises:
        GpnerError: If it cannot begin: a flag, an input, the output, the model, Redis.
    """
    settings = load_settings()
    sources = find_sources(options.inputs)
    _check_columns(options, sources[0])
    if options.to_standard_output:
        answering: Answering = (
            Local(settings) if options.local else OverQueue(settings, uuid.uuid4().hex, lambda name, revision: None)
        )
        return write_to_standard_output(options, settings, sources, answering, err)
    _refuse_own_output(options.folder, sources)
    try:
        with closing(Job.open(options.folder, options.fingerprint, sources)) as job:
            return JobRun(options, settings, job, out, err).run()
    except (OSError, sqlite3.Error) as error:  # the disk, which may have no room for a summary either
        return _give_up(err, str(error))


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
        self._answering = self._make_answering(settings)
        self._kept = kept_types(job.parts[0].source, options.keep) if options.format == "parquet" else {}
        self._seen = SeenIds(job.file("seen.sqlite"))
        self._reading = Reading(
            job.parts,
            Columns(options.text_field, options.id_field, options.keep, self._kept),
            self._seen,
            shard_items=options.shard_documents,
            max_document_characters=settings.max_document_characters,
        )
        self._display = Display(
            None if options.quiet else err,
            total_bytes=sum(part.source.size for part in job.parts),
            failures=tally_of(job).n_failures,
            answering=self._answering,
        )
        self._flow = Flow(self._display, strict=options.strict, most_failures=options.max_failures)

    def run(self) -> int:
        """Do what is to be done, and say what came out."""
        (self._job.folder / SUMMARY).unlink(missing_ok=True)  # what it says of the last run may no longer be so
        try:
            with self._flow.signals(), self._display:
                if self._options.retry_failures:
                    self._retry_rows()
                    self._retry_sources()
                if self._flow.stopped is None:
                    self._read_on()
        except KeyboardInterrupt:
            self._leave_at_once()
        except GpnerError as error:
            self._flow.stopped = str(error)
        finally:
            self._answering.close()
            self._seen.close()
        return self._finish()

    def _make_answering(self, settings: Settings) -> Answering:
        if not self._options.local:
            return OverQueue(settings, self._job.name, self._job.check_model)
        local = Local(settings)
        self._job.check_model(local.name, local.revision)
        return local

    def _read_on(self) -> None:
        """Everything that no finished shard has."""
        limit = self._options.limit
        most = None if limit is None else limit - self._job.items
        if most is None or most > 0:
            self._write(self._reading.blocks(self._job.position, most), retry=False)

    def _retry_rows(self) -> None:
        wanted: dict[str, set[int]] = {}
        for _, failure in failures(self._job):
            if failure["row"] is not None and failure["reason"]["type"] not in FINAL_TYPES:
                wanted.setdefault(failure["source"], set()).add(failure["row"])
        self._display.failures -= sum(map(len, wanted.values()))
        self._write(self._reading.again(wanted, self._job.position), retry=True)

    def _retry_sources(self) -> None:
        """Have sources that broke read once more, from where they broke."""
        broken = {failure["source"] for _, failure in failures(self._job) if failure["row"] is None}
        self._display.failures -= len(broken)
        for name in sorted(broken):
            self._job.retry_source(name)

    def _write(self, blocks: Iterator[Block], *, retry: bool) -> None:
        with closing(Shards(self._job, self._seen, self._kept, retry=retry)) as shards:
            round_name = f"retry {len(self._job.manifests)}" if retry else ""
            self._flow.run(blocks, self._answering, shards, round_name)
            if self._flow.stopped is None:
                shards.seal()

    def _finish(self) -> int:
        stopped = self._flow.stopped
        seconds = self._display.seconds
        state = "done" if stopped is None else "stopped"
        summary = publish(self._job, read_sample(self._job), state=state, seconds=seconds, tokens=self._display.tokens)
        tally = tally_of(self._job)
        if not self._options.quiet:
            print_summary(self._out, summary, tally)
        if stopped is not None:
            return _give_up(self._err, stopped)
        return DONE_WITH_FAILURES if tally.n_failures else DONE

    def _leave_at_once(self) -> None:
        _give_up(self._err, "at once")
        # Other threads are in native code, which must not meet a dying interpreter.
        os._exit(STOPPED)


def _give_up(err: Console, reason: str) -> int:
    """Say why a job stopped; returns the exit code for that."""
    words = f"stopped: {reason}; the same command goes on from here"
    err.print(words, markup=False, highlight=False, soft_wrap=True)
    return STOPPED


def _check_columns(options: Options, source: Source) -> None:
    """Find a wrong name of a column before millions of rows fail for it."""
    try:
        columns = known_columns(source)
    except (OSError, ValueError, pyarrow.ArrowException):
        return  # this source is broken; that is a failure of its own, and the next may be whole
    for flag, names in (("--text-field", [options.text_field]), ("--keep", options.keep)):
        for name in names:
            if columns is not None and name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(
                    f"{flag} must name a column of {source.name}, which has {', '.join(columns)}, was: {name}{hint}"
                )


def _refuse_own_output(folder: Path, sources: Sequence[Source]) -> None:
    """A job must not read what it writes."""
    for source in sources:
        if source.name == STANDARD_INPUT or is_remote(source.name):
            continue
        for name in source.names:
            if folder.resolve() in Path(name).resolve().parents:
                raise ConfigError(f"--output must not hold the input, {folder} holds {name}; choose another folder")
