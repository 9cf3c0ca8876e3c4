"""The dead letters: documents that the service gave up, to be looked at, put back onto their stream, or dropped."""

import binascii
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError

from gpner.errors import DocumentError, QueueFull
from worker.connection import connect, explaining
from worker.protocol import Keys, shorten
from worker.queue import load_script
from worker.results import DeadLetter, Reason
from worker.settings import Settings

# Letters carry whole documents: so many are in memory at once.
PAGE_LETTERS = 16
DROPPED_AT_ONCE = 500
# The arguments of one command in a script of Redis are bounded; a document has six fields.
MOST_FIELDS = 1000
LETTER_ID = re.compile(r"[0-9]{1,18}-[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter.

    Attributes:
        letter_id: Its id in the stream of dead letters, unique.
        reason: Why the document was given up.
        deliveries: How often it was handed to a worker.
        stream: Where the document was read.
        fields: The document's fields, byte for byte.
    """

    letter_id: str
    reason: Reason
    deliveries: int
    stream: str
    fields: dict[bytes, bytes]

    @property
    def document_id(self) -> str | None:
        """The document's id as it came, valid or not; None if it had none."""
        found = self.fields.get(b"id")
        return None if found is None else found.decode("utf-8", "backslashreplace")

    @property
    def buried_seconds(self) -> float:
        """When it was given up, in seconds since the epoch, by the clock of Redis."""
        return int(self.letter_id.partition("-")[0]) / 1000


class DeadLetters:
    """The dead letters of one service.

    Args:
        settings: Where Redis is, the namespace, and how many documents may be queued.

    Every method raises `ServiceError` when Redis is away or refuses.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = Keys(settings.namespace)
        self._url = settings.redis_url
        self._max_queued_documents = settings.max_queued_documents
        self._redis = connect(settings.redis_url)
        self._retry = load_script(self._redis, "retry")

    def newest(self, reason_type: str | None = None) -> Iterator[Letter]:
        """Go through the letters, newest first; ones that arrive meanwhile are not met.

        Args:
            reason_type: Only letters of this type of reason.
        """
        last = "+"
        while page := self._page("-", last, PAGE_LETTERS):
            yield from (letter for letter in page if reason_type in (None, letter.reason.type))
            last = f"({page[-1].letter_id}"

    def find(self, ids: Iterable[str]) -> dict[str, list[str]]:
        """The ids of the letters that each id names: that of a letter, or of a document, which may have several.

        Returns:
            For each id its letters, newest first; empty for an id that names none.
        """
        found = {name: [name] if LETTER_ID.fullmatch(name) and self.get(name) else [] for name in ids}
        documents = {name for name, letters in found.items() if not letters}
        for letter in self.newest() if documents else ():
            if letter.document_id in documents:
                found[letter.document_id].append(letter.letter_id)
        return found

    def get(self, letter_id: str) -> Letter | None:
        """One letter; None if it is not there any more."""
        page = self._page(letter_id, letter_id, 1)
        return page[0] if page else None

    def retry(self, letter_id: str) -> bool:
        """Put a document back onto its stream with all its fields, and delete the letter, in one step.

        The document is a new one to the workers. What comes of it overwrites its failed result.

        Returns:
            False if the letter is not there any more: somebody else was faster.

        Raises:
            QueueFull: If the queue is at its limit; the letter stays.
            DocumentError: If the letter does not tell what to put where; it stays.
        """
        letter = self.get(letter_id)
        if letter is None:
            return False
        self._check(letter)
        arguments: list[Any] = [self._max_queued_documents, self.keys.streams.index(letter.stream) + 1, letter_id]
        arguments += [part for field in letter.fields.items() for part in field]
        with explaining(self._url):
            answer = self._retry(keys=(*self.keys.streams, self.keys.dead), args=arguments)
        if isinstance(answer, int):
            raise QueueFull(
                f"the queue may hold {self._max_queued_documents} unfinished documents and holds {answer}: "
                "wait, start more workers, or raise GPNER_MAX_QUEUED_DOCUMENTS"
            )
        return answer is not None

    def drop(self, letter_ids: Sequence[str]) -> int:
        """Delete letters for good; returns how many were still there."""
        dropped = 0
        for start in range(0, len(letter_ids), DROPPED_AT_ONCE):
            with explaining(self._url):
                dropped += int(self._redis.xdel(self.keys.dead, *letter_ids[start : start + DROPPED_AT_ONCE]))
        return dropped

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page(self, first: str, last: str, count: int) -> list[Letter]:
        with explaining(self._url):
            rows: Any = self._redis.xrevrange(self.keys.dead, max=last, min=first, count=count)
        return [_open(letter_id.decode(), fields) for letter_id, fields in rows]

    def _check(self, letter: Letter) -> None:
        problem = None
        if letter.stream not in self.keys.streams:
            problem = f"its stream must be one of {', '.join(self.keys.streams)}, was: {shorten(letter.stream)}"
        elif not 0 < len(letter.fields) <= MOST_FIELDS:
            problem = f"its document must have 1 to {MOST_FIELDS} fields, had {len(letter.fields)}"
        if problem:
            raise DocumentError(f"dead letter {letter.letter_id} cannot be put back: {problem}; drop it")


def _open(letter_id: str, fields: dict[bytes, bytes]) -> Letter:
    """Read an entry of the dead letters; what somebody else wrote there is a letter with nothing in it."""
    try:
        letter = DeadLetter.model_validate_json(fields.get(b"letter", b""))
        return Letter(letter_id, letter.reason, letter.deliveries, letter.entry.stream, letter.entry.original_fields())
    except (ValidationError, binascii.Error, UnicodeError):
        reason = Reason(type="UnreadableLetter", message="must be a dead letter of protocol version 1, is not; drop it")
        return Letter(letter_id, reason, 0, "", {})
