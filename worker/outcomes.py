"""How a document ends, done or failed with the reason, and what is committed for it: its result, or its burial."""

from typing import Literal, NamedTuple

from gpner.entities import Extraction
from worker.held import Held
from worker.protocol import Document, Keys, address_of
from worker.queue import Entry, Outcome
from worker.results import dead_letter_json, failure_json, result_json

MESSAGE_CHARACTERS = 500
# The values of `reason` in gpner_documents_total.
FailureReason = Literal["malformed", "unknown_label", "out_of_memory", "engine_error", "too_many_deliveries"]


class Done(NamedTuple):
    """A document with its entities, of the labels that it asks for, and the model that found them."""

    held: Held
    extraction: Extraction
    model: str
    revision: str

    @property
    def entry(self) -> Entry:
        """Where it lies in the queue."""
        return self.held.entry

    def outcome(self, keys: Keys, done_seconds: float) -> Outcome:
        """What is committed for it; `done_seconds` is when that was written, in seconds since the epoch."""
        return answered(
            self.held.entry,
            self.held.document,
            self.extraction,
            keys,
            model=self.model,
            revision=self.revision,
            read_seconds=self.held.read_seconds,
            done_seconds=done_seconds,
        )


class Failed(NamedTuple):
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

    def outcome(self, keys: Keys, done_seconds: float) -> Outcome:
        """What is committed for it; `done_seconds` plays no part."""
        return buried(self.entry, keys, self.error_type, self.message)


Finished = Done | Failed


def answered(
    entry: Entry,
    document: Document,
    extraction: Extraction,
    keys: Keys,
    *,
    model: str,
    revision: str,
    read_seconds: float,
    done_seconds: float,
) -> Outcome:
    """The outcome of a document that was read.

    Args:
        entry: The entry that brought the document.
        document: What was parsed from it.
        extraction: Its entities, already narrowed to the labels that it asks for.
        keys: Where the result goes.
        model: The name of the model.
        revision: The hash of its content.
        read_seconds: When a worker read the entry, in seconds since the epoch.
        done_seconds: When the entities were found.
    """
    # The clocks of two machines may disagree by more than a document takes.
    queued = max(0.0, read_seconds - entry.enqueued_seconds)
    total = queued + max(0.0, done_seconds - read_seconds)
    payload = result_json(
        document, extraction, model=model, revision=revision, queued_seconds=queued, total_seconds=total
    )
    return Outcome(entry, keys.result(document.id), payload, document.reply_to, None)


def buried(entry: Entry, keys: Keys, error_type: str, message: str) -> Outcome:
    """The outcome of a document that is given up, malformed ones too: a dead letter, and a failure for who waits.

    Args:
        entry: The entry as it came.
        keys: Where the failure goes.
        error_type: A stable name for programs, such as `DocumentError`.
        message: What must hold, what came, what to do.
    """
    address = address_of(entry.fields, keys)
    letter = dead_letter_json(
        stream=entry.stream,
        entry_id=entry.entry_id,
        fields=entry.fields,
        deliveries=entry.deliveries,
        error_type=error_type,
        message=message,
    )
    named = address.document_id is not None
    payload = failure_json(address.document_id or entry.entry_id, error_type, message, meta=address.meta)
    return Outcome(entry, keys.result(address.document_id or "") if named else None, payload, address.reply_to, letter)


def narrow(extraction: Extraction, document: Document) -> Extraction:
    """Keep the entities of the labels that the document asks for."""
    if document.labels is None:
        return extraction
    entities = tuple(entity for entity in extraction.entities if entity.label in document.labels)
    return Extraction(entities, tokens=extraction.tokens, windows=extraction.windows)


def reason_of(error: BaseException) -> str:
    """What an engine says of its failure, cut short: some messages quote what they were given."""
    return str(error)[:MESSAGE_CHARACTERS] or "the engine gave no reason"
