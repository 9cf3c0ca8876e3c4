"""How a document ends: done, or failed with the reason."""

from dataclasses import dataclass
from typing import Literal

from gpner.entities import Extraction
from worker.held import Held
from worker.protocol import Document
from worker.queue import Entry

MESSAGE_CHARACTERS = 500
# The values of `reason` in gpner_documents_total.
FailureReason = Literal["malformed", "unknown_label", "out_of_memory", "engine_error", "too_many_deliveries"]


@dataclass(frozen=True, slots=True)
class Done:
    """A document with its entities, of the labels that it asks for."""

    held: Held
    extraction: Extraction
    model_name: str


@dataclass(frozen=True, slots=True)
class Failed:
    """A document that is buried: a dead letter for operators, and a failed result so that nobody waits forever.

    Attributes:
        entry: Where it lies in the queue, and what it says, readable or not.
        reason: One word for counters.
        error_type: A stable name for programs.
        message: For people: what must hold, what came, what to do.
    """

    entry: Entry
    reason: FailureReason
    error_type: str
    message: str


Finished = Done | Failed


def narrow(extraction: Extraction, document: Document) -> Extraction:
    """Keep the entities of the labels that the document asks for."""
    if document.labels is None:
        return extraction
    entities = tuple(entity for entity in extraction.entities if entity.label in document.labels)
    return Extraction(entities, tokens=extraction.tokens, windows=extraction.windows)


def reason_of(error: Exception) -> str:
    """What an engine says of its failure, cut short: some messages quote what they were given."""
    return str(error)[:MESSAGE_CHARACTERS] or "the engine gave no reason"
