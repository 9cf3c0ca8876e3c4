"""Runs documents together, and finds out which of them is to blame when a run fails.

Two kinds of failure. The device ran out of memory: the pack is halved, and later packs are smaller. Anything else: one
document is at fault, and bisection finds it. Either way the results of every run that succeeded are kept.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from gpner.entities import Extraction
from gpner.errors import OutOfMemoryError, ServiceError
from worker.budget import TokenBudget
from worker.outcomes import reason_of

logger = logging.getLogger(__name__)

# A document that every engine can read.
PROBE = "gpner"


class PackRun:
    """One pack's way over the device.

    Args:
        documents: What the engine has tokenized.
        budget: Lowered when the device runs out of memory.
        forward: Runs documents together, and returns their extractions.
        forward_probe: Runs the document `PROBE`.
    """

    def __init__(
        self,
        documents: Sequence[Any],
        budget: TokenBudget,
        forward: Callable[[Sequence[Any]], Sequence[Extraction]],
        forward_probe: Callable[[], object],
    ) -> None:
        self._documents = documents
        self._budget = budget
        self._forward = forward
        self._forward_probe = forward_probe
        self._results: dict[int, Extraction | Exception] = {}

    def run(self) -> list[Extraction | Exception | None]:
        """What each document came to: its extraction, or the error it is to blame for; None: run it in another pack.

        At least one of them comes to something.

        Raises:
            ServiceError: If not even one word can be read: the engine is broken, and no document is to blame.
        """
        if self._documents:
            self._run(range(len(self._documents)))
        return [self._results.get(number) for number in range(len(self._documents))]

    def _run(self, numbers: range) -> None:
        error = self._attempt(numbers)
        if error is None:
            self._budget.record_clean_run()
        elif isinstance(error, OutOfMemoryError):
            self._run_smaller(numbers, error)
        else:
            self._bisect(numbers, error)

    def _attempt(self, numbers: range) -> Exception | None:
        """Run documents together: either all have a result, or what went wrong is returned."""
        try:
            found = self._forward([self._documents[number] for number in numbers])
            self._results |= dict(zip(numbers, found, strict=True))
        except (OutOfMemoryError, MemoryError) as error:
            # Neither the error itself nor, below, its traceback: they would keep alive what filled the memory.
            return OutOfMemoryError(reason_of(error))
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, one document must not stop the others
            return error.with_traceback(None)
        return None

    def _run_smaller(self, numbers: range, error: Exception) -> None:
        """Lower the budget and run the halves."""
        if len(numbers) == 1:
            self._run_alone(numbers, error)
            return
        self._budget.shrink(sum(self._documents[number].n_window_tokens for number in numbers))
        middle = len(numbers) // 2
        self._run(numbers[:middle])
        self._run(numbers[middle:])

    def _run_alone(self, number: range, failure: Exception) -> None:
        """Run one document, whose windows the engine packs under the budget, in ever smaller packs, then blame it."""
        error: Exception | None = failure
        before = self._budget.tokens
        tokens = min(before, self._documents[number[0]].n_window_tokens)
        while isinstance(error, OutOfMemoryError) and self._budget.shrink(tokens):
            tokens = self._budget.tokens
            error = self._attempt(number)
        if error is not None:
            self._budget.restore(before)
            self._blame(number, error)

    def _bisect(self, numbers: range, failure: Exception) -> None:
        """Find the document that fails a run, in at most log2(n) + 1 further runs: 7 for a pack of 64.

        Each run tries half of the suspects. If it succeeds its results are kept and the other half is suspect. If it
        fails the other half is left to another pack: it may well be good. The last suspect is blamed only if it failed
        alone.
        """
        name = type(failure).__name__
        logger.warning("a run of %d documents failed with %s, looking for the culprit", len(numbers), name)
        suspects = numbers
        alone: Exception | None = failure  # what the suspects raised when they ran without others, if they did
        engine_works = False
        while len(suspects) > 1:
            half, rest = suspects[: len(suspects) // 2], suspects[len(suspects) // 2 :]
            error = self._attempt(half)
            if error is None:
                suspects, alone, engine_works = rest, None, True
            elif isinstance(error, OutOfMemoryError):
                self._run_smaller(half, error)
                suspects, alone = rest, None
            else:
                suspects, alone = half, error
        error = alone or self._attempt(suspects)
        if isinstance(error, OutOfMemoryError):
            self._run_alone(suspects, error)
        elif error is not None:
            self._blame(suspects, error, engine_works=engine_works)

    def _blame(self, number: range, error: Exception, *, engine_works: bool = False) -> None:
        """Blame one document, after making sure that it is not the engine that is broken.

        After some faults a GPU fails every run, and would have us blame every document there is.
        """
        if not engine_works:
            try:
                self._forward_probe()
            except Exception as probe_error:
                raise ServiceError(
                    f"the engine fails on every document, even on the word {PROBE}, at last with "
                    f"{type(error).__name__}: {probe_error}"
                ) from probe_error
        self._results[number[0]] = error
