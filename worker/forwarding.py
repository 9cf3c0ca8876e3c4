"""Runs packs on the device, and finds out which document is to blame when a run fails.

Two kinds of failure. The device ran out of memory: the pack is halved, and later packs are smaller. Anything else: one
document is at fault, and bisection finds it. Either way the results of every run that succeeded are kept.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gpner.errors import OutOfMemoryError
from worker.budget import TokenBudget
from worker.engine import Engine
from worker.held import Held
from worker.metrics import Metrics
from worker.outcomes import Done, Failed, Finished, narrow, reason_of
from worker.watch import Watch

logger = logging.getLogger(__name__)

# A document that every engine can read.
PROBE = "gpner"


@dataclass
class Forwarded:
    """What became of a pack: documents that ended, and those to run again in another pack."""

    finished: list[Finished] = field(default_factory=list)
    deferred: list[Held] = field(default_factory=list)


class Forwarder:
    """Runs packs. Used by the forward thread alone."""

    def __init__(self, engine: Engine, budget: TokenBudget, watch: Watch, metrics: Metrics) -> None:
        self.engine = engine
        self._budget = budget
        self._watch = watch
        self._metrics = metrics
        self._probe = engine.tokenize([PROBE])

    def run(self, pack: Sequence[Held]) -> Forwarded:
        """Run one pack; every document of it is in the answer, unless another worker took it over meanwhile."""
        forwarded = Forwarded()
        now = time.monotonic()
        self._metrics.stages.add([now - held.ready_at for held in pack], "batch")
        self._run(pack, forwarded)
        return forwarded

    def _run(self, documents: Sequence[Held], forwarded: Forwarded, *, engine_works: bool = False) -> None:
        documents = [held for held in documents if not held.taken_over]
        if not documents:
            return
        answer = self._attempt(documents)
        if isinstance(answer, list):
            forwarded.finished += answer
            self._budget.record_clean_run()
        elif isinstance(answer, OutOfMemoryError):
            self._run_smaller(documents, answer, forwarded)
        else:
            self._bisect(documents, answer, forwarded, engine_works=engine_works)

    def _attempt(self, documents: Sequence[Held]) -> list[Finished] | Exception:
        """Run documents together: either all have a result, or the answer is what went wrong."""
        tokens = sum(held.n_window_tokens for held in documents)
        self.engine.max_batch_tokens = self._budget.tokens
        try:
            with self._watch.forward(len(documents), tokens):
                result = self.engine.run([held.tokenized for held in documents])
            pairs = list(zip(documents, result.extractions, strict=True))
        except (OutOfMemoryError, MemoryError) as error:
            self._metrics.out_of_memory.inc()
            # A new error: with the old one's traceback what filled the memory would live on through the smaller runs.
            return OutOfMemoryError(reason_of(error))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, one document must not stop the others
            return error
        self._metrics.stages.add([result.forward_seconds], "forward")
        self._metrics.stages.add([result.decode_seconds], "decode")
        self._metrics.model_flops.inc(result.flops)
        self._metrics.batch_documents.observe(len(documents))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.batch_fill_ratio.observe(tokens / self._budget.max_tokens)
        model, revision = self.engine.model_name, self.engine.model_revision
        return [Done(held, narrow(extraction, held.document), model, revision) for held, extraction in pairs]

    def _run_smaller(self, documents: Sequence[Held], error: OutOfMemoryError, forwarded: Forwarded) -> None:
        """Lower the budget and run the halves."""
        if len(documents) == 1:
            self._run_alone(documents[0], error, forwarded)
            return
        self._budget.shrink(sum(held.n_window_tokens for held in documents))
        middle = len(documents) // 2
        self._run(documents[:middle], forwarded)
        self._run(documents[middle:], forwarded)

    def _run_alone(self, held: Held, error: OutOfMemoryError, forwarded: Forwarded) -> None:
        """Run one document, whose windows the engine packs under the budget, in ever smaller packs; bury it at last."""
        before = self._budget.tokens
        answer: list[Finished] | Exception = error
        tokens = min(before, held.n_window_tokens)
        while isinstance(answer, OutOfMemoryError) and self._budget.shrink(tokens):
            tokens = self._budget.tokens
            answer = self._attempt([held])
        if isinstance(answer, list):
            forwarded.finished += answer
            return
        self._budget.restore(before)
        self._bury(held, answer, forwarded, engine_works=False)

    def _bisect(
        self, documents: Sequence[Held], failure: Exception, forwarded: Forwarded, *, engine_works: bool
    ) -> None:
        """Find the document that fails a run, in at most log2(n) + 1 further runs: 7 for a pack of 64.

        Each run tries half of the suspects. If it succeeds its results are kept and the other half is suspect. If it
        fails the other half is deferred to a later pack: it may well be good. The last suspect is buried only if it
        failed alone.
        """
        logger.warning("a run of %d documents failed with %s, looking for the culprit", len(documents), _name(failure))
        suspects = documents
        alone: Exception | None = failure  # what the suspects raised when they ran without others, if they did
        while len(suspects) > 1:
            half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
            answer = self._attempt(half)
            if isinstance(answer, list):
                forwarded.finished += answer
                suspects, alone, engine_works = rest, None, True
            elif isinstance(answer, OutOfMemoryError):
                self._run_smaller(half, answer, forwarded)
                suspects, alone = rest, None
            else:
                forwarded.deferred += rest
                suspects, alone = half, answer
        if alone is None:
            self._run(suspects, forwarded, engine_works=engine_works)
        else:
            self._bury(suspects[0], alone, forwarded, engine_works=engine_works)

    def _bury(self, held: Held, error: Exception, forwarded: Forwarded, *, engine_works: bool) -> None:
        """Blame one document, after making sure that it is not the device that is broken."""
        if not engine_works:
            self._check_engine(error)
        out_of_memory = isinstance(error, OutOfMemoryError)
        logger.warning(
            "document %s buried: %s", held.document.id, _name(error), extra={"documents": [held.document.id]}
        )
        forwarded.finished.append(
            Failed(
                held.entry,
                "out_of_memory" if out_of_memory else "engine_error",
                _name(error),
                reason_of(error),
            )
        )

    def _check_engine(self, error: Exception) -> None:
        """End the process if not even one word can be read.

        After some faults a GPU fails every run, and would have us bury every document of the queue.
        """
        try:
            with self._watch.forward(1, 1):
                self.engine.run(self._probe)
        except Exception as probe_error:  # noqa: BLE001 - whatever it is, this process is of no more use
            self._watch.end_process(f"the engine fails on every document, at last with {_name(error)}: {probe_error}")


def _name(error: Exception) -> str:
    return type(error).__name__
