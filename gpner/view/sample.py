"""Documents with their texts for people to read: the same ones whenever the same results are viewed."""

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.report.page import SCORE_DIGITS, embeddable, shortened
from gpner.view.problems import Problems, read_objects

MOST_DOCUMENTS = 200
# What they take in the page, all together and one of them.
MOST_BYTES = 20_000_000
LONGEST_BYTES = 5_000_000

# Start, end, label and score.
Mark = tuple[int, int, str, float | None]


@dataclass(frozen=True, slots=True, order=True)
class _Document:
    hash: str
    number: int
    id: str
    text: str
    marks: tuple[Mark, ...]

    def to_dict(self, number_of: Callable[[str], int]) -> dict[str, Any]:
        entities = [(start, end, number_of(label), score) for start, end, label, score in self.marks]
        return {"id": self.id, "length": len(self.text), "text": self.text, "entities": entities}


class Sample:
    """The documents whose ids have the smallest hashes, as many as there is room for."""

    def __init__(self) -> None:
        self._chosen: list[tuple[_Document, int]] = []
        self._offered = 0
        self._bytes = 0

    def has_room_for(self, identity: object) -> bool:
        """Whether a document of this id could be among them."""
        return len(self._chosen) < MOST_DOCUMENTS or _hash(identity) <= self._chosen[-1][0].hash

    def offer(self, row: dict[str, Any]) -> None:
        """Take a document if it is among them.

        Raises:
            DataError: If it has no text, or an entity does not lie in it.
        """
        self._offered += 1
        identity = row.get("id", "")
        if not self.has_room_for(identity):
            return
        document = _Document(_hash(identity), self._offered, shortened(str(identity)), *_read(row))
        size = len(embeddable(document.to_dict(lambda label: 0)).encode(errors="replace"))
        if size <= LONGEST_BYTES:
            bisect.insort(self._chosen, (document, size))
            self._bytes += size
        while len(self._chosen) > MOST_DOCUMENTS or self._bytes > MOST_BYTES:
            self._bytes -= self._chosen.pop()[1]

    def to_list(self, number_of: Callable[[str], int]) -> list[dict[str, Any]]:
        """As the page has them, in the order in which they came.

        Args:
            number_of: Gives the number of a label.
        """
        chosen = sorted((document for document, _ in self._chosen), key=lambda document: document.number)
        return [document.to_dict(number_of) for document in chosen]


def read_sample(file: Path, problems: Problems) -> Sample:
    """Read the documents that a job has chosen."""
    sample = Sample()
    for number, row in read_objects(file, problems):
        with problems.of(file, number):
            sample.offer(row)
    return sample


def _hash(identity: object) -> str:
    return sha256(str(identity).encode(errors="surrogatepass")).hexdigest()


def _read(row: dict[str, Any]) -> tuple[str, tuple[Mark, ...]]:
    text, entities = row.get("text"), row.get("entities")
    if not (isinstance(text, str) and isinstance(entities, list)):
        raise DataError("a document must have a text and a list of entities, had not")
    try:
        marks = [_mark(entity["start"], entity["end"], entity["label"], entity["score"], text) for entity in entities]
    except (KeyError, TypeError):
        raise DataError("an entity must have start and end, a label and a score, one had not") from None
    return text, tuple(sorted(marks, key=lambda mark: (mark[0], -mark[1])))


def _mark(start: int, end: int, label: str, score: float | None, text: str) -> Mark:
    if not (isinstance(start, int) and isinstance(end, int) and 0 <= start < end <= len(text)):
        raise DataError(f"an entity must lie in the text of {len(text)} characters, one was at {start}-{end}"[:200])
    known = round(score, SCORE_DIGITS) if score is not None and 0 <= score <= 1 else None
    return start, end, shortened(str(label)), known
