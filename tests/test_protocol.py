import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpner.errors import DocumentError
from worker.protocol import Document, Keys, address_of, fields_of

KEYS = Keys("gpner:")
LONGEST = 1000

names = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=256)
labels = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"], exclude_characters=","), min_size=1)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def read(**fields: bytes) -> Document:
    return Document.from_fields({name.encode(): value for name, value in fields.items()}, KEYS, LONGEST)


def test_id_and_text_are_enough() -> None:
    document = read(id=b"42", text=b"Ada met Babbage.")

    assert (document.id, document.text, document.meta, document.labels) == ("42", "Ada met Babbage.", None, None)


@given(
    id=names,
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=LONGEST),
    meta=json_data,
    reply_to=st.none() | st.text("abc:-", min_size=1, max_size=100),
    wanted=st.none() | st.lists(labels.map(str.strip).filter(bool), min_size=1, max_size=5),
)
def test_what_a_producer_writes_is_what_a_worker_reads(
    id: str,  # noqa: A002 - the field's name on the wire
    text: str,
    meta: object,
    reply_to: str | None,
    wanted: list[str] | None,
) -> None:
    stream = None if reply_to is None else KEYS.reply(reply_to)
    document = Document.new(text, id=id, meta=meta, labels=wanted, reply_to=stream)

    arrived = Document.from_fields(document.to_fields(), KEYS, LONGEST)

    assert arrived == document
    assert arrived.meta is None or json.loads(arrived.meta) == meta


def test_meta_stays_the_very_text_that_was_sent() -> None:
    meta = '{ "amount": 1.00000000000000000001, "b": 1, "b": 2 }'

    assert read(id=b"1", text=b"", meta=meta.encode()).meta == meta


def test_labels_are_names_separated_by_commas() -> None:
    assert read(id=b"1", text=b"", labels=b"PER, LOC").labels == ("PER", "LOC")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": b"x"}, "must have the field id"),
        ({"id": b"1"}, "must have the field text"),
        ({"id": b"", "text": b"x"}, "id must have 1 to 256 characters"),
        ({"id": b"x" * 257, "text": b"x"}, "id must have 1 to 256 characters"),
        ({"id": b"a\nb", "text": b"x"}, r"control character, was: 'a\nb'"),
        ({"id": "a\u2028b".encode(), "text": b"x"}, "control character"),
        ({"id": b"\xff", "text": b"x"}, "id must be UTF-8"),
        ({"id": b"1", "text": b"\xed\xa0\x80"}, "text must be UTF-8"),
        ({"id": b"1", "text": b"x" * (LONGEST + 1)}, "at most 1000 characters, had 1001"),
        ({"id": b"1", "text": b"x", "v": b"2"}, "v must be 1, was: '2'; a newer release wrote this entry"),
        ({"id": b"1", "text": b"x", "txt": b"x"}, "unknown field 'txt'; known are id, text, meta"),
        ({"id": b"1", "text": b"x", "meta": b"{"}, "meta must be JSON"),
        ({"id": b"1", "text": b"x", "meta": b"NaN"}, "meta must be JSON"),
        ({"id": b"1", "text": b"x", "meta": b"[" * 100_000}, "nested at most 200 deep"),
        ({"id": b"1", "text": b"x", "meta": b'"' + b"x" * 1_000_000 + b'"'}, "at most 1000000 characters"),
        ({"id": b"1", "text": b"x", "meta": b"1" * 5_000_000}, "more than any field may have"),
        ({"id": b"1", "text": b"x", "labels": b""}, "labels must be names"),
        ({"id": b"1", "text": b"x", "labels": b"PER,,LOC"}, "labels must be names"),
        ({"id": b"1", "text": b"x", "reply_to": b"gpner:result:7"}, "reply_to must begin with gpner:reply:"),
        ({"id": b"1", "text": b"x", "reply_to": b"sessions"}, "reply_to must begin with gpner:reply:"),
    ],
)
def test_a_malformed_entry_says_which_rule_it_breaks(fields: dict[str, bytes], message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read(**fields)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@given(
    st.dictionaries(st.sampled_from([b"id", b"text", b"meta", b"reply_to", b"labels", b"v"]) | st.binary(), st.binary())
)
def test_any_bytes_are_a_document_or_a_document_error(fields: dict[bytes, bytes]) -> None:
    try:
        document = Document.from_fields(fields, KEYS, LONGEST)
    except DocumentError:
        return

    assert Document.from_fields(document.to_fields(), KEYS, LONGEST) == document


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "\ud800"}, "half a surrogate pair at character 0"),
        ({"text": 5}, "text must be a string"),
        ({"text": "x", "id": 5}, "id must have 1 to 256 characters"),
        ({"text": "x", "id": ""}, "id must have 1 to 256 characters"),
        ({"text": "x", "meta": {1, 2}}, "meta must be data that JSON can hold"),
        ({"text": "x", "meta": float("nan")}, "meta must be data that JSON can hold"),
        ({"text": "x", "meta": "\ud800"}, "meta must be JSON"),
        ({"text": "x", "labels": []}, "labels must be names"),
        ({"text": "x", "labels": ["PER,LOC"]}, "labels must be names"),
    ],
)
def test_a_producer_hears_of_a_mistake_before_anything_is_sent(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        Document.new(**arguments).to_fields()


@given(st.text() | st.from_regex(r"(gpner:)?(dead|documents(:high)?|workers|reply:.*|call:.*|_kombu\..*)"), st.text())
def test_no_id_reaches_a_key_that_is_not_its_own_result(name: str, other: str) -> None:
    key = KEYS.result(name)

    assert key not in {
        *KEYS.streams,
        KEYS.dead,
        KEYS.workers,
        KEYS.clock,
        KEYS.reply(other),
        f"gpner:_kombu.binding.{other}",
    }
    assert key.startswith("gpner:result:")
    assert (key == KEYS.result(other)) == (name == other)


def test_whom_to_answer_is_found_in_a_broken_entry() -> None:
    fields = {b"id": b"7", b"reply_to": b"gpner:reply:a", b"meta": b"{", b"text": b"\xff", b"more": b"x"}

    assert address_of(fields, KEYS) == ("7", "gpner:reply:a", None)
    assert address_of({b"id": b"\n", b"reply_to": b"sessions", b"meta": b"[1]"}, KEYS) == (None, None, "[1]")


def test_a_field_that_stands_twice_in_an_entry_is_no_field_of_a_document() -> None:
    flat = [b"id", b"7", b"text", b"ADA", b"text (2)", b"x", b"text", b"BABBAGE", b"text", b""]

    fields = fields_of(flat)

    expected = {b"id": b"7", b"text": b"ADA", b"text (2)": b"x", b"text (3)": b"BABBAGE", b"text (4)": b""}
    assert fields == expected
    with pytest.raises(DocumentError, match=r"known are .*, each once"):
        Document.from_fields(fields, KEYS, LONGEST)
