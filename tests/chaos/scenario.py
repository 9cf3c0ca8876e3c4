"""One scenario: a service at work, a fault done so many times, and the audit of what is left."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from subprocess import TimeoutExpired

from redis.exceptions import RedisError

from gpner.entities import Extraction
from tests.chaos.audit import Audit, audit
from tests.chaos.caller import Caller
from tests.chaos.faults import Fault, Scene
from tests.chaos.ledger import Ledger
from tests.chaos.producer import Producer, Workload
from tests.chaos.service import Service
from tests.engines import extract

# A fault strikes at a random moment of this time, after a document was done.
MOMENT_SECONDS = 0.4


@dataclass(frozen=True)
class Reader:
    """What reads the documents, and what it must find in them.

    Attributes:
        engine: As `module:function`.
        extract: What the engine must find in a text.
        pieces: What the texts are made of.
        tolerance: How far a score may be from that.
        settings: What the workers need for it.
    """

    engine: str
    extract: Callable[[str], Extraction]
    pieces: Sequence[str]
    tolerance: float = 0.0
    settings: dict[str, object] = field(default_factory=dict)


WORDS = ("word", "two", "ADA", "in", "LONDON", "the", "MÜNCHEN", "东京", "IBM", "😀", "e\u0301t\u00e9", "PARIS")
BRISK = Reader("tests.chaos.engine:load_brisk", extract, WORDS)


@dataclass(frozen=True)
class Load:
    """What the service has to do, and with how many workers."""

    workload: Workload
    workers: int

    def __str__(self) -> str:
        return f"{self.workload}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass
class Run:
    """What one scenario came to.

    Attributes:
        fault: The fault's name.
        load: What the service had to do.
        faults: How often the fault was done.
        replaced: Workers that ended and were replaced.
        audit: What became of the documents.
        seconds: How long it took.
    """

    fault: str
    load: Load
    faults: int = 0
    replaced: int = 0
    audit: Audit = field(default_factory=Audit)
    seconds: float = 0.0


def run(
    fault: Fault, load: Load, times: int, seed: int, folder: Path, reader: Reader = BRISK, *, long: bool = False
) -> Run:
    """Run one scenario to its end, whatever happens in it.

    Args:
        fault: What to do.
        load: What the service has to do meanwhile.
        times: How often to do it.
        seed: The same one sends the same texts and makes the same choices; what happens when still differs.
        folder: An empty one for the data of Redis and the logs of workers.
        reader: What reads the documents.
        long: Whether there is time for a fault to last.

    Raises:
        NotPossible: If this machine cannot have the fault.
    """
    report = Run(fault.name, load)
    started = time.monotonic()
    ledger = Ledger()
    with (
        fault.site(folder) as site,
        Service(
            site.redis,
            folder,
            reader.engine,
            load.workers,
            site.worker_environment,
            **{**reader.settings, **fault.settings},
        ) as service,
        Producer(service, ledger, load.workload, reader.pieces, seed) as producer,
        Caller(service, ledger, reader.pieces, seed) as caller,
    ):
        try:
            service.wait_until_ready()
            _strike(fault, Scene(service, producer, Random(seed), long), times, report)
            caller.finish()
            producer.finish()
            caller.wait_for_answers()
            service.wait_until_quiet()
        except (AssertionError, RedisError, TimeoutExpired) as error:
            stuck = str(error)
        else:
            stuck = None
        try:
            report.audit = audit(
                service.store, service.settings, ledger, service.reply_to, cache(reader.extract), reader.tolerance
            )
        except RedisError as error:
            report.audit.tell("no audit", str(error))
        if stuck:
            report.audit.tell(f"stuck after {report.faults} faults", stuck)
        ends = list(service.workers.ends)
    report.replaced = len(ends)
    if report.audit.calls_lost and fault.keeps_calls:
        report.audit.tell("calls without an answer", str(report.audit.calls_lost))
    report.audit.tell("workers that ended by themselves, with exit code", *unexplained(ends, fault))
    report.seconds = time.monotonic() - started
    return report


def _strike(fault: Fault, scene: Scene, times: int, report: Run) -> None:
    for _ in range(times):
        scene.service.wait_for_progress()
        time.sleep(scene.random.uniform(0, MOMENT_SECONDS))
        fault.act(scene)
        report.faults += 1


def unexplained(ends: Iterable[int], fault: Fault) -> list[str]:
    """Exit codes of workers for which the fault is no reason."""
    return [str(code) for code in ends if code not in fault.exits]
