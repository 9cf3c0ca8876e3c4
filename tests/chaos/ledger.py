"""What producers sent and what they were told of it, so that an audit can hold the service to its word.

A submit that was cut off may or may not have been accepted. The producer submits again under the same id until one
submit is accepted; each of these attempts has a number, which travels in `meta` and comes back with the reply. So every
attempt is held to what its producer was told: accepted means exactly one reply, refused none, and unknown at most one.
A document, by its id, is counted once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

Told = Literal["accepted", "refused", "unknown"]


@dataclass
class Sent:
    """One document.

    Attributes:
        text: What it says.
        error_type: The error as which it must end, None if it must be done.
        attempts: What the producer was told of each submit, in their order.
    """

    text: str
    error_type: str | None = None
    attempts: list[Told] = field(default_factory=list)

    @property
    def accepted(self) -> bool:
        return "accepted" in self.attempts


@dataclass
class SentCall:
    """One call of the Celery task.

    Attributes:
        texts: Its documents.
        accepted: Whether its sender was told that Redis has it.
    """

    texts: list[str]
    accepted: bool = False


class Ledger:
    """All documents and calls of one scenario by id. Safe for threads, each of which sends some of its own."""

    def __init__(self) -> None:
        self.documents: dict[str, Sent] = {}
        self.calls: dict[str, SentCall] = {}
        self._numbers = count()

    def add(self, text: str, error_type: str | None = None) -> str:
        """Note a document before it is sent, and return the id that it shall have."""
        document_id = str(next(self._numbers))
        self.documents[document_id] = Sent(text, error_type)
        return document_id

    def add_call(self, texts: list[str]) -> str:
        """Note a call before it is sent, and return the task id that it shall have."""
        task_id = f"call-{len(self.calls)}"
        self.calls[task_id] = SentCall(texts)
        return task_id

    def note(self, ids: Iterable[str], told: Told) -> None:
        """Note what came of one submit of these documents."""
        for document_id in ids:
            self.documents[document_id].attempts.append(told)

    def accepted(self) -> int:
        """Documents that the service has promised to end."""
        return sum(sent.accepted for sent in list(self.documents.values()))
