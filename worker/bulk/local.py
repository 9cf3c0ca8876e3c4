"""`--local`: the documents of a job through a model in this very process, without Redis."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from gpner.entities import Extraction
from gpner.errors import ConfigError, OutOfMemoryError, ServiceError
from gpner.packing import pack_by_length
from worker.budget import TokenBudget
from worker.bulk.flow import BLOCKS_AHEAD, Ahead
from worker.bulk.rows import Answer, Answered, Block, Found, Problem, Row, plain
from worker.devices import claim_device
from worker.engine import Engine, load_engine
from worker.outcomes import reason_of
from worker.settings import Settings

logger = logging.getLogger(__name__)

# So many full packs are held at a time: enough neighbours in length to choose from.
PACKS = 8
# Short documents are held no more than so many at a time, whatever the packs could take, nor more characters than this
# with all that is kept beside them.
MOST_DOCUMENTS = 4096
MOST_CHARACTERS = 16_000_000
# A document that every engine can read.
PROBE = "gpner"

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

    def __init__(self, settings: Settings) -> None:
        if settings.engine == Settings.model_fields["engine"].default and not settings.model:
            raise ConfigError("--local needs GPNER_MODEL, the folder of a trained model, it is not set")
        self._claim = claim_device(settings)  # holds the lock as long as the process lives
        self._engine = load_engine(settings)
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
            prepared = [each for _, tokenized in group for each in tokenized]
            results = iter(self._run_all(prepared))
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

    def _run_all(self, prepared: Sequence[Any]) -> list[Extraction | Exception]:
        results: list[Any] = list(prepared)  # those that could not be tokenized are their own result
        good = [index for index, each in enumerate(prepared) if not isinstance(each, Exception)]
        lengths = [prepared[index].n_window_tokens for index in good]
        for pack in pack_by_length(lengths, self._budget.tokens):
            indices = [good[number] for number in pack]
            for index, result in zip(indices, self._run([prepared[index] for index in indices]), strict=True):
                results[index] = result
        return results

    def _run(self, pack: Sequence[Any]) -> list[Extraction | Exception]:
        """Run a pack; if it fails, its halves, until a document fails alone."""
        try:
            extractions = self._forward(pack)
        except OutOfMemoryError as error:
            if len(pack) == 1:
                return [self._run_alone(pack[0], error)]
            self._budget.shrink(sum(each.n_window_tokens for each in pack))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, one document must not stop the others
            if len(pack) == 1:
                self._check_engine(error)
                return [error]
        else:
            self._budget.record_clean_run()
            return extractions
        middle = len(pack) // 2
        return self._run(pack[:middle]) + self._run(pack[middle:])

    def _run_alone(self, document: Any, error: Exception) -> Extraction | Exception:
        """Run one document that the device has no memory for, in ever smaller packs of its windows."""
        before = self._budget.tokens
        tokens = min(before, document.n_window_tokens)
        while self._budget.shrink(tokens):
            tokens = self._budget.tokens
            try:
                return self._forward([document])[0]
            except OutOfMemoryError as again:
                error = again
        self._budget.restore(before)
        self._check_engine(error)
        return error

    def _forward(self, pack: Sequence[Any]) -> list[Extraction | Exception]:
        self._engine.max_batch_tokens = self._budget.tokens
        try:
            return list(self._engine.run(pack).extractions)
        except (OutOfMemoryError, MemoryError) as error:
            why = reason_of(error)
        # Raised here, not above: the old error's traceback would keep alive what filled the memory.
        raise OutOfMemoryError(why)

    def _check_engine(self, error: Exception) -> None:
        """Blame a document only if the engine still reads one word; after some faults a GPU fails every run."""
        try:
            self._engine.run(self._engine.tokenize([PROBE]))
        except Exception as probe_error:
            raise ServiceError(
                f"the engine must read the word {PROBE}, fails on every document, at last with "
                f"{type(error).__name__}: {probe_error}; run the same command again to go on"
            ) from probe_error

    def _answer(self, row: Row, result: Extraction | Exception) -> Answer:
        if isinstance(result, Exception):
            return Problem(row.id, row.source, row.row, type(result).__name__, reason_of(result))
        name, revision = self._engine.model_name, self._engine.model_revision
        return Found(plain(result.entities), result.tokens, result.windows, name, revision)
