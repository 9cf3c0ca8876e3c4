"""What comes out: results, failures and dead letters of protocol version 1.

Readers get pydantic models. Writers build the JSON by hand, because that happens for every document; the tests read it
back through the models.
"""

import base64
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

from gpner.entities import Entity, Extraction
from worker.protocol import PROTOCOL_VERSION, Document


class Seconds(BaseModel):
    """How long the document took, by the clocks of Redis and the worker."""

    queued: float = Field(description="From its arrival in Redis until a worker read it.")
    total: float = Field(description="From its arrival in Redis until the result was ready.")


class Result(BaseModel):
    """The entities of one document. Readers ignore fields that they do not know; later releases may add some."""

    model_config = ConfigDict(title="gpner result, version 1")

    v: Literal[1]
    id: str
    status: Literal["done"]
    entities: tuple[Entity, ...] = Field(description="Ordered by start, then longest first, then label.")
    model: str = Field(description="The name of the model that read the document.")
    revision: str = Field(
        default="",
        description="The hash of that model's content: two results of one revision come from the same weights.",
    )
    tokens: int = Field(description="The document's tokens, each counted once.")
    windows: int = Field(description="In how many contexts it was read.")
    seconds: Seconds
    meta: JsonValue = Field(default=None, description="What the document brought along.")


class Reason(BaseModel):
    """Why there are no entities."""

    type: str = Field(description="For programs: a stable name such as DocumentError.")
    message: str = Field(description="For people: what must hold, what came, what to do.")


class Failure(BaseModel):
    """What stands in the place of a result when there will be none."""

    model_config = ConfigDict(title="gpner failure, version 1")

    v: Literal[1]
    id: str = Field(description="The document's id; that of the stream entry if the document has no valid one.")
    status: Literal["failed"]
    error: Reason
    meta: JsonValue = Field(default=None, description="What the document brought along, if it was valid.")


class DeadEntry(BaseModel):
    """The stream entry as it came, so that it can be looked at and enqueued again."""

    stream: str
    id: str
    encoding: Literal["utf-8", "base64"] = Field(
        description="How names and values of `fields` are written: as they are, or in base64 if one is not UTF-8."
    )
    fields: dict[str, str]

    def original_fields(self) -> dict[bytes, bytes]:
        """The fields, byte for byte."""
        if self.encoding == "utf-8":
            return {name.encode(): value.encode() for name, value in self.fields.items()}
        return {base64.b64decode(name): base64.b64decode(value) for name, value in self.fields.items()}


class DeadLetter(BaseModel):
    """One document that the service gave up: in the field `letter` of an entry of the stream `gpner:dead`."""

    model_config = ConfigDict(title="gpner dead letter, version 1")

    v: Literal[1]
    reason: Reason
    deliveries: int = Field(description="How often the document was handed to a worker.")
    entry: DeadEntry


Answer: TypeAdapter[Result | Failure] = TypeAdapter(Annotated[Result | Failure, Field(discriminator="status")])


def result_json(
    document: Document,
    extraction: Extraction,
    *,
    model: str,
    revision: str,
    queued_seconds: float,
    total_seconds: float,
) -> bytes:
    """A `Result`, built by hand because it happens for every document (measured: half the time of the model's dump)."""
    result = {
        "v": PROTOCOL_VERSION,
        "id": document.id,
        "status": "done",
        "entities": [
            {"start": e.start, "end": e.end, "label": e.label, "text": e.text, "score": e.score}
            for e in extraction.entities
        ],
        "model": model,
        "revision": revision,
        "tokens": extraction.tokens,
        "windows": extraction.windows,
        "seconds": {"queued": round(queued_seconds, 6), "total": round(total_seconds, 6)},
    }
    return _with_meta(result, document.meta)


def failure_json(document_id: str, error_type: str, message: str, *, meta: str | None = None) -> bytes:
    """A `Failure`."""
    reason = {"type": error_type, "message": message}
    return _with_meta({"v": PROTOCOL_VERSION, "id": document_id, "status": "failed", "error": reason}, meta)


def dead_letter_json(
    *, stream: str, entry_id: str, fields: Mapping[bytes, bytes], deliveries: int, error_type: str, message: str
) -> bytes:
    """A `DeadLetter`."""
    encoding = "utf-8"
    try:
        written = {name.decode(): value.decode() for name, value in fields.items()}
    except UnicodeDecodeError:
        encoding = "base64"
        written = {base64.b64encode(name).decode(): base64.b64encode(value).decode() for name, value in fields.items()}
    letter = {
        "v": PROTOCOL_VERSION,
        "reason": {"type": error_type, "message": message},
        "deliveries": deliveries,
        "entry": {"stream": stream, "id": entry_id, "encoding": encoding, "fields": written},
    }
    return pydantic_core.to_json(letter)


def _with_meta(message: dict[str, Any], meta: str | None) -> bytes:
    # The sender's own JSON text goes in unparsed: handed back untouched, to the last digit.
    return b'%b,"meta":%b}' % (pydantic_core.to_json(message)[:-1], b"null" if meta is None else meta.encode())
