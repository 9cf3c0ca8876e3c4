"""What goes in: the document of protocol version 1, checked on arrival, and the map of Redis keys.

This is the contract with programs that we never see, in any language. What comes out again stands in worker/results.py;
the JSON Schemas of both (docs/schemas) are written by worker/reference.py.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self

import pydantic_core
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)
from pydantic.json_schema import SkipJsonSchema

from gpner.errors import DocumentError

PROTOCOL_VERSION = 1
Priority = Literal["high", "normal", "bulk"]

# Control characters, and the two separators that some programs take for line ends: an id stands in logs and keys.
_NO_CONTROLS = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_MAX_FIELD_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Keys:
    """Every Redis key of the service; all begin with the namespace.

    No id can reach another key: `gpner:result:` + id is a result key whatever the id is, and no other key begins so.
    Only the document streams and the dead letters live without a time to live.
    """

    namespace: str
    group: str = "workers"

    @property
    def high(self) -> str:
        """Documents that overtake all others."""
        return f"{self.namespace}documents:high"

    @property
    def normal(self) -> str:
        """Where documents go unless told otherwise."""
        return f"{self.namespace}documents"

    @property
    def bulk(self) -> str:
        """Documents that wait for the others."""
        return f"{self.namespace}documents:bulk"

    @property
    def streams(self) -> tuple[str, str, str]:
        """The document streams in the order in which they are preferred."""
        return self.high, self.normal, self.bulk

    @property
    def dead(self) -> str:
        """The stream of dead letters, each in the field `letter`."""
        return f"{self.namespace}dead"

    @property
    def workers(self) -> str:
        """The hash in which each worker says what it does, under its name in the consumer group."""
        return f"{self.namespace}workers"

    @property
    def clock(self) -> str:
        """The time of Redis when a worker last looked for abandoned documents, in milliseconds since the epoch."""
        return f"{self.namespace}clock"

    def stream(self, priority: Priority) -> str:
        """The stream of a priority."""
        streams = {"high": self.high, "normal": self.normal, "bulk": self.bulk}
        if priority not in streams:
            raise DocumentError(f"priority must be high, normal or bulk, was: {shorten(priority)}")
        return streams[priority]

    def result(self, document_id: str) -> str:
        """Where the result of a document stands, as JSON."""
        return f"{self.namespace}result:{document_id}"

    def call(self, name: str) -> str:
        """How many documents of one call of the Celery task were accepted, for the case that it is run again."""
        return f"{self.namespace}call:{name}"

    def reply(self, name: str) -> str:
        """A stream that a document may name in `reply_to`."""
        return f"{self.namespace}reply:{name}"


def _json_text(text: str) -> str:
    # Only checked, never rebuilt: the sender gets back the very characters. Nesting deeper than 200 is refused here.
    pydantic_core.from_json(text, allow_inf_nan=False)
    return text


def _split_labels(labels: object) -> object:
    return [label.strip() for label in labels.split(",")] if isinstance(labels, str) else labels


def _without_defaults(schema: dict[str, Any]) -> None:
    # The wire knows no null: what has no value is left out.
    for field in schema["properties"].values():
        field.pop("default", None)


Line = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_CONTROLS)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_NO_CONTROLS.replace("[^", "[^,"))]
JsonText = Annotated[str, StringConstraints(max_length=_MAX_FIELD_CHARACTERS), AfterValidator(_json_text)]
Labels = Annotated[
    tuple[Label, ...],
    Field(min_length=1),
    BeforeValidator(_split_labels),
    WithJsonSchema({"type": "string", "minLength": 1, "examples": ["PER,LOC"]}),
]


class Document(BaseModel):
    """One document, as the fields of one stream entry. Every value is a UTF-8 string.

    From any shell: `redis-cli XADD gpner:documents '*' id 42 text "Ada met Babbage in London."`
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", title="gpner document, version 1", json_schema_extra=_without_defaults
    )

    id: Line = Field(
        description="Names the document; its result stands in `gpner:result:<id>`, where a second document of the same "
        "id overwrites it. 1 to 256 characters, no control characters."
    )
    text: str = Field(description="The text, whole. Offsets of entities count its Unicode code points.")
    meta: JsonText | SkipJsonSchema[None] = Field(
        default=None,
        description="Any JSON text, handed back untouched with the result. At most 1,000,000 characters.",
    )
    reply_to: Line | SkipJsonSchema[None] = Field(
        default=None,
        description="A stream that gets the result too, in the field `result`. Its name must begin with `gpner:reply:` "
        "(the namespace and `reply:`), because a worker writes no key that is not gpner's own: else anyone who may "
        "enqueue could have any key of this Redis written. It gets the time to live of results.",
    )
    labels: Labels | SkipJsonSchema[None] = Field(
        default=None,
        description="Only entities of these labels are wanted: names separated by commas, as in `PER,LOC`.",
    )
    v: Annotated[Literal[1], WithJsonSchema({"const": "1"})] = Field(
        default=1, description="The version of this format; 1 where it is missing."
    )

    @classmethod
    def new(
        cls,
        text: str,
        *,
        id: str | None = None,  # noqa: A002 - the field's name on the wire
        meta: JsonValue = None,
        labels: Iterable[str] | None = None,
        reply_to: str | None = None,
    ) -> Self:
        """A document to be submitted; a random id unless one is given, `meta` as Python data.

        Raises:
            DocumentError: If a field breaks its rule.
        """
        try:
            written = None if meta is None else json.dumps(meta, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise DocumentError(f"meta must be data that JSON can hold; {error}") from None
        values = {"id": uuid.uuid4().hex if id is None else id, "text": text, "meta": written}
        return cls._validated(values | {"labels": labels, "reply_to": reply_to})

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes], keys: Keys, max_document_characters: int) -> Self:
        """Read one stream entry, trusting nothing.

        Raises:
            DocumentError: Says which field breaks which rule; never quotes the text.
        """
        if fields.get(b"v", b"1") != b"1":
            raise DocumentError(
                f"v must be {PROTOCOL_VERSION}, was: {shorten(fields[b'v'])}; "
                "a newer release wrote this entry: upgrade the workers"
            )
        values: dict[str, Any] = {}
        # Four bytes a character at most: what is longer is refused before it is decoded.
        max_bytes = 4 * max(max_document_characters, _MAX_FIELD_CHARACTERS)
        for name, value in fields.items():
            if name not in _FIELDS:
                raise DocumentError(
                    f"unknown field {shorten(name)}; known are {', '.join(Document.model_fields)}, each once"
                )
            if len(value) > max_bytes:
                raise DocumentError(f"{_FIELDS[name]} has {len(value)} bytes, more than any field may have")
            try:
                values[_FIELDS[name]] = value.decode()
            except UnicodeDecodeError as error:
                raise DocumentError(f"{_FIELDS[name]} must be UTF-8, was not; {error.reason}") from None
        values.pop("v", None)
        document = cls._validated(values)
        document.check(keys, max_document_characters)
        return document

    @classmethod
    def _validated(cls, values: dict[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DocumentError(_explain(dict(error.errors(include_url=False)[0]))) from None

    def check(self, keys: Keys, max_document_characters: int) -> None:
        """The two rules that depend on the deployment: the longest text, and where replies may go.

        Raises:
            DocumentError: If one is broken.
        """
        if len(self.text) > max_document_characters:
            raise DocumentError(
                f"text must have at most {max_document_characters} characters, had {len(self.text)}; "
                "split the document or raise GPNER_MAX_DOCUMENT_CHARACTERS"
            )
        if self.reply_to is not None and not self.reply_to.startswith(keys.reply("")):
            raise DocumentError(f"reply_to must begin with {keys.reply('')}, was: {shorten(self.reply_to)}")

    def to_fields(self) -> dict[bytes, bytes]:
        """The fields of a stream entry.

        Raises:
            DocumentError: If the text holds half a surrogate pair, which UTF-8 cannot express.
        """
        fields = {"id": self.id, "text": self.text, "meta": self.meta, "reply_to": self.reply_to, "v": str(self.v)}
        if self.labels is not None:
            fields["labels"] = ",".join(self.labels)
        try:
            return {name.encode(): value.encode() for name, value in fields.items() if value is not None}
        except UnicodeEncodeError as error:
            raise DocumentError(f"text must be Unicode, has half a surrogate pair at character {error.start}") from None


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """The fields of a stream entry by their names.

    Args:
        flat: Names and values in turn, as they stand in the stream; Redis lets a name stand there more than once.

    Returns:
        Names and values. One whose name stood there before is called `text (2)` or so: nothing that came is lost, and
        nobody takes such an entry for a document.
    """
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if 2 * len(fields) == len(flat):
        return fields
    fields.clear()
    last_numbers: dict[bytes, int] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        numbered, number = name, last_numbers.get(name, 1)
        while numbered in fields:
            number += 1
            numbered = b"%b (%d)" % (name, number)
        fields[numbered] = value
        last_numbers[name] = number
    return fields


class Address(NamedTuple):
    """What can be trusted of an entry, however broken the rest of it is."""

    document_id: str | None
    reply_to: str | None
    meta: str | None


def address_of(fields: Mapping[bytes, bytes], keys: Keys) -> Address:
    """Whom to answer: each of id, reply_to and meta that is valid by itself."""
    valid: dict[str, str | None] = {}
    for name in ("id", "reply_to", "meta"):
        try:
            value = fields[name.encode()].decode()
            document = Document(**{"id": "x", "text": "", name: value})
            document.check(keys, 0)
            valid[name] = value
        except (KeyError, UnicodeDecodeError, ValidationError, DocumentError):
            valid[name] = None
    return Address(valid["id"], valid["reply_to"], valid["meta"])


_FIELDS = {name.encode(): name for name in Document.model_fields}
_RULES = {
    "id": "id must have 1 to 256 characters, none of them a control character",
    "reply_to": "reply_to must have 1 to 256 characters, none of them a control character",
    "labels": "labels must be names separated by commas",
    "meta": f"meta must be JSON of at most {_MAX_FIELD_CHARACTERS} characters, nested at most 200 deep",
    "text": "text must be a string of Unicode characters",
}


def _explain(detail: dict[str, Any]) -> str:
    """One line about the first thing that pydantic found wrong."""
    name = str(detail["loc"][0])
    if detail["type"] == "missing":
        return f"a document must have the field {name}, had none; it needs id and text"
    if name in ("text", "meta"):
        return f"{_RULES[name]}; {detail['msg'].removeprefix('Value error, ')}"
    return f"{_RULES[name]}, was: {shorten(detail['input'])}"


def shorten(value: object) -> str:
    """A foreign value in a message: escaped, and not the megabyte that it may be."""
    if isinstance(value, bytes):
        value = value[:100].decode("utf-8", "replace")
    text = ascii(value[:100] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
