"""What is committed for one entry: the result of a document, or its burial."""

from gpner.entities import Extraction
from worker.protocol import Document, Keys, address_of
from worker.queue import Entry, Outcome
from worker.results import dead_letter_json, failure_json, result_json


def answered(
    entry: Entry,
    document: Document,
    extraction: Extraction,
    keys: Keys,
    *,
    model: str,
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
        read_seconds: When a worker read the entry, in seconds since the epoch.
        done_seconds: When the entities were found.
    """
    # The clocks of two machines may disagree by more than a document takes.
    queued = max(0.0, read_seconds - entry.enqueued_seconds)
    total = queued + max(0.0, done_seconds - read_seconds)
    payload = result_json(document, extraction, model=model, queued_seconds=queued, total_seconds=total)
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
