"""The tokenizer threads: documents in groups from the intake to the batcher."""

import logging
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from gpner.errors import DocumentError
from worker.batcher import Batcher
from worker.engine import Engine
from worker.held import Held, Holdings, TokenEstimate
from worker.metrics import Metrics
from worker.outcomes import Failed, FailureReason, Finished, reason_of
from worker.watch import Watch

logger = logging.getLogger(__name__)


class Tokenizers:
    """Work for the tokenizer threads, each of which runs `run`.

    Args:
        current_engine: Says what tokenizes; its native code lets other threads work meanwhile.
        holdings: Learns what documents really have.
        batcher: Gets them.
        estimate: Learns from them.
        watch: Ends the process if the tokenizer hangs.
        finish: Takes documents that failed.
    """

    def __init__(
        self,
        current_engine: Callable[[], Engine],
        *,
        holdings: Holdings,
        batcher: Batcher,
        estimate: TokenEstimate,
        watch: Watch,
        metrics: Metrics,
        finish: Callable[[list[Finished]], None],
    ) -> None:
        self._current_engine = current_engine
        self._holdings = holdings
        self._batcher = batcher
        self._estimate = estimate
        self._watch = watch
        self._metrics = metrics
        self._finish = finish
        # Bounded by what may be held.
        self._groups: SimpleQueue[list[Held]] = SimpleQueue()

    def put(self, group: list[Held]) -> None:
        """Hand over a group that the batcher expects."""
        self._groups.put(group)

    def run(self) -> None:
        """Tokenize one group after the other, as long as the process lives."""
        while True:
            self._tokenize(self._groups.get())

    def _tokenize(self, group: Sequence[Held]) -> None:
        started = time.perf_counter()
        try:
            with self._watch.tokenizing(len(group), sum(held.tokens for held in group)):
                windows = self._current_engine().tokenize([held.document.text for held in group])
            for held, tokenized in zip(group, windows, strict=True):
                held.tokenized = tokenized
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one document's fault
            self._find_culprit(group, error)
            return
        self._metrics.stages.add([time.perf_counter() - started], "tokenize")
        self._estimate.learn(sum(len(h.document.text) for h in group), sum(h.n_window_tokens for h in group))
        self._holdings.measure(group)
        self._batcher.add(group)

    def _find_culprit(self, group: Sequence[Held], error: Exception) -> None:
        if len(group) > 1:
            for held in group:
                self._tokenize([held])
            return
        entry, name = group[0].entry, group[0].document.id
        logger.warning(
            "document %s buried: %s while tokenizing", name, type(error).__name__, extra={"documents": [name]}
        )
        self._batcher.expect(-1)
        reason: FailureReason = "malformed" if isinstance(error, DocumentError) else "engine_error"
        self._finish([Failed(entry, reason, type(error).__name__, reason_of(error))])
