"""Documents with their texts for people to look at: the same ones in every run, however the job was cut up."""

import bisect
from hashlib import sha256

import pydantic_core

from worker.bulk.rows import Found, Row

SAMPLE_DOCUMENTS = 200
SAMPLE_BYTES = 20_000_000
# One that is larger would leave little room for others.
LONGEST_BYTES = 1_000_000

Chosen = tuple[str, bytes]


class Sample:
    """The documents whose ids have the smallest hashes, as many as there is room for.

    Attributes:
        chosen: Hash of the id and line of each, in the order of the hashes.
        limit: Greater hashes have no chance any more. Without it what is chosen would depend on who came first.
    """

    def __init__(self) -> None:
        self.chosen: list[Chosen] = []
        self.limit = "~"
        self._bytes = 0

    def offer(self, row: Row, found: Found) -> None:
        """Take a document if it is among them."""
        key = sample_key(row.id)
        if key > self.limit or len(row.text) > LONGEST_BYTES:
            return
        line = pydantic_core.to_json({"id": row.id, "text": row.text, "entities": found.entities})
        if len(line) <= LONGEST_BYTES:
            self.add((key, line))

    def add(self, chosen: Chosen) -> None:
        """Take one that was chosen before, if it still is."""
        if chosen[0] > self.limit:
            return
        bisect.insort(self.chosen, chosen)
        self._bytes += len(chosen[1])
        while len(self.chosen) > SAMPLE_DOCUMENTS or self._bytes > SAMPLE_BYTES:
            key, line = self.chosen.pop()
            self._bytes -= len(line)
            self.limit = key


def sample_key(document_id: str) -> str:
    """What decides whether a document is in the sample: the smallest are."""
    return sha256(document_id.encode("utf-8", "surrogatepass")).hexdigest()
