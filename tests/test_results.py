import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpner.entities import Entity, Extraction
from worker.outcomes import answered, buried
from worker.protocol import Document, Keys
from worker.queue import Entry
from worker.results import Answer, DeadLetter, Failure, Result

KEYS = Keys("gpner:")

texts = st.text(st.characters(exclude_categories=["Cs"]))
entities = st.builds(Entity, st.integers(0, 99), st.integers(0, 99), texts, texts, st.floats(0, 1))


def entry(fields: dict[bytes, bytes], deliveries: int = 1) -> Entry:
    return Entry(KEYS.normal, "5000-0", fields, deliveries)


@given(st.lists(entities, max_size=4), texts)
def test_a_result_reads_back_as_it_was_written(found: list[Entity], model: str) -> None:
    document = Document.new("text", id="Ж\u200d1", meta={"k": [1, None]}, reply_to="gpner:reply:a")
    extraction = Extraction(tuple(found), tokens=7, windows=2)

    outcome = answered(
        entry(document.to_fields()),
        document,
        extraction,
        KEYS,
        model=model,
        revision="5e1f",
        read_seconds=6.5,
        done_seconds=8.0,
    )

    result = Answer.validate_json(outcome.payload)
    assert isinstance(result, Result)
    assert result.entities == tuple(found)
    assert (result.id, result.model, result.revision) == (document.id, model, "5e1f")
    assert (result.tokens, result.windows) == (7, 2)
    assert (result.seconds.queued, result.seconds.total, result.meta) == (1.5, 3.0, {"k": [1, None]})
    assert (outcome.result_key, outcome.reply_to, outcome.dead) == ("gpner:result:Ж\u200d1", "gpner:reply:a", None)


def test_a_result_has_exactly_the_published_keys() -> None:
    document = Document.new("text", id="1")
    extraction = Extraction((Entity(0, 1, "PER", "t", 0.5),), tokens=1, windows=1)

    outcome = answered(
        entry({}), document, extraction, KEYS, model="m", revision="5e1f", read_seconds=5, done_seconds=5
    )

    assert outcome.payload == (
        b'{"v":1,"id":"1","status":"done","entities":[{"start":0,"end":1,"label":"PER","text":"t","score":0.5}],'
        b'"model":"m","revision":"5e1f","tokens":1,"windows":1,"seconds":{"queued":0.0,"total":0.0},"meta":null}'
    )


def test_meta_comes_back_untouched() -> None:
    meta = '{"amount": 1.00000000000000000001}'
    document = Document(id="1", text="", meta=meta)

    outcome = answered(
        entry({}), document, Extraction((), 0, 0), KEYS, model="m", revision="5e1f", read_seconds=5, done_seconds=5
    )

    assert outcome.payload.endswith(b',"meta":' + meta.encode() + b"}")


def test_clocks_that_disagree_give_no_negative_time() -> None:
    document = Document.new("text")

    outcome = answered(
        entry({}), document, Extraction((), 0, 0), KEYS, model="m", revision="5e1f", read_seconds=1.0, done_seconds=3.0
    )

    assert json.loads(outcome.payload)["seconds"] == {"queued": 0.0, "total": 2.0}


def test_a_buried_document_leaves_a_letter_and_a_failure_for_whoever_waits() -> None:
    fields = Document.new("text", id="7", meta=[1], reply_to="gpner:reply:a").to_fields()

    outcome = buried(entry(fields, deliveries=6), KEYS, "TooManyDeliveries", "why")

    failure, letter = Answer.validate_json(outcome.payload), DeadLetter.model_validate_json(outcome.dead or b"")
    assert isinstance(failure, Failure)
    assert (failure.id, failure.error.type, failure.error.message, failure.meta) == (
        "7",
        "TooManyDeliveries",
        "why",
        [1],
    )
    assert (outcome.result_key, outcome.reply_to) == ("gpner:result:7", "gpner:reply:a")
    assert (letter.reason, letter.deliveries) == (failure.error, 6)
    assert (letter.entry.stream, letter.entry.id) == (KEYS.normal, "5000-0")


@pytest.mark.parametrize("document_id", [b"", b"a\nb", b"\xff", b"x" * 10_000])
def test_a_document_without_a_valid_id_fails_under_its_entry_and_writes_no_result_key(document_id: bytes) -> None:
    outcome = buried(entry({b"id": document_id, b"reply_to": b"gpner:reply:a"}), KEYS, "DocumentError", "why")

    assert outcome.result_key is None
    assert outcome.reply_to == "gpner:reply:a"
    assert json.loads(outcome.payload)["id"] == "5000-0"


@given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=50), max_size=5))
def test_a_dead_letter_keeps_every_byte_of_the_entry(fields: dict[bytes, bytes]) -> None:
    outcome = buried(entry(fields), KEYS, "DocumentError", "why")

    assert DeadLetter.model_validate_json(outcome.dead or b"").entry.original_fields() == fields


def test_a_reader_ignores_what_a_later_release_adds() -> None:
    payload = b'{"v":1,"id":"1","status":"failed","error":{"type":"a","message":"b","more":1},"more":2}'

    assert isinstance(Answer.validate_json(payload), Failure)
