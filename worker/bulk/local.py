"""`--local`: the documents of a job through a model in this very process, without Redis."""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gpner.entities import Extraction
from gpner.errors import ConfigError
from gpner.packing import pack_by_length
from worker.blame import PROBE, PackRun
from worker.budget import TokenBudget
from worker.bulk.flow import BLOCKS_AHEAD, Ahead
from worker.bulk.rows import Answer, Answered, Block, Found, Problem, Row, plain
from worker.devices import claim_device
from worker.engine import Engine, load_engine
from worker.outcomes import reason_of
from worker.settings import Settings

# So many full packs are held at a time: enough neighbours in length to choose from.
PACKS = 8
# Short documents are held no more than so many at a time, whatever the packs could take, nor more characters than this
# with all that is kept beside them.
MOST_DOCUMENTS = 4096
MOST_CHARACTERS = 16_000_000
# Groups that tokenizing may be ahead of the device, and answering ahead of the writing. A stop finishes them.
GROUPS_AHEAD = 1

Group = list[tuple[Block, list[Any]]]


class Local:
    """Answers in this process, on its GPU or CPU as the settings say.

    Attributes:
        name: The model's name.
        revision: The hash of its content.

    Raises:
        ConfigError: If no model is set.
        CheckpointError: If there is none.
        ServiceError: If no GPU is free.
    """

    workers: int | None = None
    obstacle: str | None = None
    is_stuck = False
    # Few batches are under way, and what is not finished here would be computed again.
    longest_stop_seconds = math.inf

    def __init__(self, settings: Settings) -> None:
        if settings.engine == Settings.model_fields["engine"].default and not settings.model:
            raise ConfigError("--local needs GPNER_MODEL, the folder of a trained model, it is not set")
        self._claim = claim_device(settings)  # holds the lock as long as the process lives
        # In a thread that ends: OpenMP keeps a team of threads for each thread that ever computed, and beside a second
        # team those of the one that answers fall asleep between any two operations, which costs a sixth of the speed.
        with ThreadPoolExecutor(1) as loading:
            self._engine = loading.submit(load_engine, settings).result()
        self.name, self.revision = self._engine.model_name, self._engine.model_revision

    def answers(self, blocks: Iterator[Block], round_name: str) -> Iterator[Answered]:
        """Answer blocks in order: while the device works others are tokenized, and the last are being written."""
        reader = LocalReader(self._engine)
        tokenized = Ahead(reader.tokenize(blocks), GROUPS_AHEAD)
        answered = Ahead(reader.answer(tokenized), BLOCKS_AHEAD)
        try:
            yield from answered
        finally:
            tokenized.close()
            answered.close()

    def close(self) -> None:
        """Nothing is left to do."""


class LocalReader:
    """Answers blocks with an engine. Only one thread may take answers; tokenizing may run in another.

    Args:
        engine: The model.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._budget = TokenBudget(engine.max_batch_tokens)
        self._probe = engine.tokenize([PROBE])

    def tokenize(self, blocks: Iterator[Block]) -> Iterator[Group]:
        """Prepare blocks, in groups of some packs; what cannot be tokenized is an error in its place."""
        group: Group = []
        tokens = documents = characters = 0
        for block in blocks:
            tokenized = self._tokenize([row.text for row in block.rows])
            group.append((block, tokenized))
            documents += len(block.items)
            tokens += sum(each.n_window_tokens for each in tokenized if not isinstance(each, Exception))
            characters += sum(row.size for row in block.rows)
            is_full = documents >= MOST_DOCUMENTS or characters >= MOST_CHARACTERS
            if is_full or tokens >= PACKS * self._engine.max_batch_tokens:
                yield group
                group, tokens, documents, characters = [], 0, 0, 0
        if group:
            yield group

    def answer(self, groups: Iterator[Group]) -> Iterator[Answered]:
        """Run groups on the device; blocks come out with their answers, in order.

        Raises:
            ServiceError: If the engine fails on everything.
        """
        for group in groups:
            results = iter(self._run([each for _, tokenized in group for each in tokenized]))
            for block, _ in group:
                yield (
                    block,
                    [self._answer(item, next(results)) if isinstance(item, Row) else item for item in block.items],
                )

    def _tokenize(self, texts: Sequence[str]) -> list[Any]:
        try:
            return list(self._engine.tokenize(texts))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one document's fault
            return [error] if len(texts) == 1 else [each for text in texts for each in self._tokenize([text])]

    def _run(self, tokenized: Sequence[Any]) -> list[Extraction | Exception]:
        results: list[Any] = list(tokenized)  # those that could not be tokenized are their own result
        good = [index for index, each in enumerate(tokenized) if not isinstance(each, Exception)]
        lengths = [tokenized[index].n_window_tokens for index in good]
        for pack in pack_by_length(lengths, self._budget.tokens):
            waiting = [good[number] for number in pack]
            while waiting:
                documents = [tokenized[index] for index in waiting]
                run = PackRun(documents, self._budget, self._forward, self._forward_probe)
                for index, result in zip(waiting, run.run(), strict=True):
                    results[index] = result
                waiting = [index for index in waiting if results[index] is None]
        return results

    def _forward(self, documents: Sequence[Any]) -> Sequence[Extraction]:
        self._engine.max_batch_tokens = self._budget.tokens
        return self._engine.run(documents).extractions

    def _forward_probe(self) -> None:
        self._engine.run(self._probe)

    def _answer(self, row: Row, result: Extraction | Exception) -> Answer:
        if isinstance(result, Exception):
            return Problem(row.id, row.source, row.row, type(result).__name__, reason_of(result))
        name, revision = self._engine.model_name, self._engine.model_revision
        return Found(plain(result.entities), result.tokens, result.windows, name, revision)
