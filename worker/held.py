"""What this worker holds: every document between its reading and its commit, and how many tokens they are.

The bound on held tokens is the bound on the worker's memory, and what it leaves in the queue for other workers.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.protocol import Document
from worker.queue import Entry

if TYPE_CHECKING:
    from worker.engine import Tokenized

# What even an empty document counts: its entry, its place in the lease, its share of a commit.
DOCUMENT_TOKENS = 16
# A first guess, for English; Chinese has about one token per character, and the estimate learns it.
TOKENS_PER_CHARACTER = 0.25
LEARNING_RATE = 0.2
# Texts without a single token must not make us believe that any text fits.
LEAST_TOKENS_PER_CHARACTER = 0.01


@dataclass(slots=True, eq=False)
class Held:
    """One document on its way through this worker.

    Attributes:
        entry: Where it lies in the queue.
        document: What it says.
        tokens: What it counts against the bound: an estimate until it is tokenized.
        read_seconds: When it was read, in seconds since the epoch.
        tokenized: The document as the engine wants it; None until it is tokenized.
        ready_at: When it was tokenized, on the monotonic clock.
        taken_over: Whether it left the register, since another worker owns it or it is finished: running it would be
            wasted.
    """

    entry: Entry
    document: Document
    tokens: int
    read_seconds: float
    tokenized: "Tokenized | None" = None
    ready_at: float = 0.0
    taken_over: bool = False

    @property
    def n_window_tokens(self) -> int:
        """What it costs in a pack; 0 until it is tokenized."""
        return self.tokenized.n_window_tokens if self.tokenized else 0


@dataclass
class TokenEstimate:
    """Guesses a text's tokens from its characters, and learns from every group that was tokenized."""

    tokens_per_character: float = TOKENS_PER_CHARACTER

    def guess(self, characters: int) -> int:
        """Tokens that a text of so many characters probably has."""
        return DOCUMENT_TOKENS + int(characters * self.tokens_per_character)

    def characters(self, tokens: int) -> int:
        """Characters that so many tokens probably make."""
        return int(tokens / max(self.tokens_per_character, LEAST_TOKENS_PER_CHARACTER))

    def learn(self, characters: int, tokens: int) -> None:
        """Move towards the ratio of a group that was tokenized."""
        if characters:
            self.tokens_per_character += LEARNING_RATE * (tokens / characters - self.tokens_per_character)


class Holdings:
    """The register of all held documents, and the bound on their tokens. Safe for threads.

    Args:
        max_tokens: At or above this no more is read; may be changed while nothing is held. A document larger than all
            of it is still taken when nothing else is held, since it would never be read otherwise.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._tokens = 0
        self._held: dict[tuple[str, str], Held] = {}
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, entry: Entry) -> bool:
        return (entry.stream, entry.entry_id) in self._held

    @property
    def tokens(self) -> int:
        """Tokens of all held documents together."""
        return self._tokens

    def add(self, documents: Iterable[Held]) -> None:
        """Take documents into the register."""
        with self._changed:
            for held in documents:
                self._held[held.entry.stream, held.entry.entry_id] = held
                self._tokens += held.tokens

    def measure(self, documents: Iterable[Held]) -> None:
        """Replace the estimates of documents that were tokenized, and are still held, by what they really have."""
        with self._changed:
            for held in documents:
                # Its entry may be held again: taken over, handed back and read anew while this one was tokenized.
                if held.taken_over:
                    continue
                tokens = DOCUMENT_TOKENS + held.n_window_tokens
                self._tokens += tokens - held.tokens
                held.tokens = tokens
            self._changed.notify_all()

    def remove(self, entries: Iterable[Entry]) -> list[Held]:
        """Let documents go that are finished or taken over, and mark them; what is not held is passed over."""
        removed = []
        with self._changed:
            for entry in entries:
                if held := self._held.pop((entry.stream, entry.entry_id), None):
                    self._tokens -= held.tokens
                    held.taken_over = True
                    removed.append(held)
            self._changed.notify_all()
        return removed

    def documents(self) -> list[Held]:
        """All held documents, in the order of their reading."""
        with self._changed:
            return list(self._held.values())

    def wait_for_room(self, timeout_seconds: float) -> int:
        """Return how many more tokens may be read, 0 if no room came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._tokens < self.max_tokens, timeout_seconds)
            return max(0, self.max_tokens - self._tokens)

    def wait_until_empty(self, timeout_seconds: float) -> bool:
        """Return whether nothing is held any more, at the latest after the time given."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout_seconds)
