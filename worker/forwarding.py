"""Runs packs on the device: watched, measured, and each document ends as its own result or failure."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpner.entities import Extraction
from gpner.errors import OutOfMemoryError, ServiceError
from worker.blame import PROBE, PackRun
from worker.budget import TokenBudget
from worker.engine import Engine
from worker.held import Held
from worker.metrics import Metrics
from worker.outcomes import Done, Failed, FailureReason, Finished, narrow, reason_of
from worker.watch import Watch

logger = logging.getLogger(__name__)


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
        now = time.monotonic()
        self._metrics.stages.add([now - held.ready_at for held in pack], "batch")
        pack = [held for held in pack if not held.taken_over]
        documents = [held.tokenized for held in pack]
        try:
            results = PackRun(documents, self._budget, self._forward, self._forward_probe).run()
        except ServiceError as error:
            self._watch.end_process(str(error))
        forwarded = Forwarded()
        for held, result in zip(pack, results, strict=True):
            if result is None:
                forwarded.deferred.append(held)
            else:
                forwarded.finished.append(self._end(held, result))
        return forwarded

    def _forward(self, documents: Sequence[Any]) -> Sequence[Extraction]:
        tokens = sum(document.n_window_tokens for document in documents)
        self.engine.max_batch_tokens = self._budget.tokens
        try:
            with self._watch.forward(len(documents), tokens):
                result = self.engine.run(documents)
        except (OutOfMemoryError, MemoryError):
            self._metrics.out_of_memory.inc()
            raise
        self._metrics.stages.add([result.forward_seconds], "forward")
        self._metrics.stages.add([result.decode_seconds], "decode")
        self._metrics.model_flops.inc(result.flops)
        self._metrics.batch_documents.observe(len(documents))
        self._metrics.batch_tokens.observe(tokens)
        self._metrics.batch_fill_ratio.observe(tokens / self._budget.max_tokens)
        return result.extractions

    def _forward_probe(self) -> None:
        with self._watch.forward(1, 1):
            self.engine.run(self._probe)

    def _end(self, held: Held, result: Extraction | Exception) -> Finished:
        if isinstance(result, Extraction):
            extraction = narrow(result, held.document)
            return Done(held, extraction, self.engine.model_name, self.engine.model_revision)
        name = type(result).__name__
        logger.warning("document %s buried: %s", held.document.id, name, extra={"documents": [held.document.id]})
        reason: FailureReason = "out_of_memory" if isinstance(result, OutOfMemoryError) else "engine_error"
        return Failed(held.entry, reason, name, reason_of(result))
