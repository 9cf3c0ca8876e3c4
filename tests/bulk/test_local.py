"""A job in this process: what comes out, of every row of the input, in every format, and what fails by itself."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from gpner.errors import CheckpointError, ConfigError, OutOfMemoryError
from tests.bulk_tools import bulk, digests, failures_of, row, rows_of, summary_of, told, write_jsonl, write_parquet
from tests.engines import CapitalsEngine, Run, Words, extract, load_capitals
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.bulk.local import MOST_CHARACTERS, LocalReader
from worker.bulk.output import SAMPLE_DOCUMENTS
from worker.bulk.rows import Block, Position, Problem, Row

ROWS = [row(number) for number in range(25)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", ROWS)


class WithoutMemoryAtFirst(CapitalsEngine):
    def run(self, documents: Sequence[Words]) -> Run:
        if not self.runs:
            self.runs.append([])
            raise OutOfMemoryError("no memory at first")
        return super().run(documents)


def expected(given: dict[str, Any], source: Path, number: int) -> dict[str, Any]:
    found = extract(given["text"])
    entities = [
        {"start": e.start, "end": e.end, "label": e.label, "text": e.text, "score": e.score} for e in found.entities
    ]
    model = {"model": "capitals", "revision": "0123456789ab"}
    place = {"source": str(source), "row": number}
    return {"id": given["id"], "entities": entities, "tokens": found.tokens, "windows": 1, **model, **place}


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "jsonl.gz", "jsonl.zst"])
def test_every_document_comes_out_in_order_with_its_entities_in_every_format(corpus, output_format):
    assert bulk("out", corpus, format=output_format, shard_documents=10) == DONE

    out = Path("out")
    assert rows_of(out) == [expected(each, corpus, number) for number, each in enumerate(ROWS, start=1)]
    assert sorted(path.name for path in out.glob("part-*")) == [f"part-0000{n}.{output_format}" for n in range(3)]
    assert [json.loads(path.read_bytes())["items"] for path in sorted(out.glob(".job/part-*.json"))] == [10, 10, 5]


def test_a_parquet_shard_is_typed_even_where_nothing_was_found(tmp_path):
    nothing = write_jsonl(tmp_path / "nothing.jsonl", [{"id": "a", "text": "nothing here"}])

    bulk("out", nothing)

    schema = parquet.read_schema("out/part-00000.parquet")
    entity = schema.field("entities").type.value_type
    assert {name: str(entity.field(name).type) for name in entity.names} == {
        "start": "int32", "end": "int32", "label": "string", "text": "string", "score": "double",
    }  # fmt: skip
    assert {field.name: str(field.type) for field in schema if field.name != "entities"} == {
        "id": "string", "tokens": "int32", "windows": "int32", "model": "string", "revision": "string",
        "source": "string", "row": "int64",
    }  # fmt: skip


def test_kept_columns_keep_their_types_and_the_text_can_be_kept(tmp_path):
    table = [{**each, "score": 0.5, "tags": ["a", None], "about": {"n": 1}, "when": None} for each in ROWS]
    source = write_parquet(tmp_path / "corpus.parquet", table)
    keep = ["text", "year", "tags", "about", "when"]

    bulk("as-parquet", source, keep=keep)
    bulk("as-jsonl", source, keep=keep, format="jsonl")

    schema = parquet.read_schema("as-parquet/part-00000.parquet")
    assert [str(schema.field(name).type) for name in ("text", "year", "tags", "when")] == [
        "string", "int64", "list<element: string>", "string",
    ]  # fmt: skip
    kept = [{name: each[name] for name in keep} for each in table]
    assert [{name: each[name] for name in keep} for each in rows_of(Path("as-parquet"))] == kept
    assert [{name: each[name] for name in keep} for each in rows_of(Path("as-jsonl"))] == kept


def test_a_kept_value_that_its_column_cannot_hold_is_a_failure(tmp_path):
    first = write_parquet(tmp_path / "a.parquet", ROWS[:2])
    years = ["nineteen", 5, 2**70]
    second = write_jsonl(tmp_path / "b.jsonl", [{**ROWS[3 + n], "year": year} for n, year in enumerate(years)])

    assert bulk("out", first, second, keep=["year"]) == DONE_WITH_FAILURES

    failed, too_large = failures_of(Path("out"))
    assert "column year must be int64 in all of this job, was: 'nineteen'" in failed["reason"]["message"]
    assert "column year must be int64" in too_large["reason"]["message"]
    assert [each["year"] for each in rows_of(Path("out"))] == [1900, 1901, 5]


@pytest.mark.parametrize("keep", [[], ["year"]])
def test_a_first_table_that_is_broken_stops_nobody(tmp_path, keep):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 is not all that it takes")

    done = bulk("out", tmp_path / "a.parquet", write_jsonl(tmp_path / "b.jsonl", ROWS[:2]), keep=keep)

    assert done == DONE_WITH_FAILURES
    assert [each["reason"]["type"] for each in failures_of(Path("out"))] == ["BrokenSource"]
    assert len(rows_of(Path("out"))) == 2


def test_a_first_file_that_is_empty_stops_nobody(tmp_path):
    (tmp_path / "a.csv").touch()
    (tmp_path / "b.csv").write_text("id,text\nb,TEXT\n")

    assert bulk("out", tmp_path) == DONE

    assert [each["id"] for each in rows_of(Path("out"))] == ["b"]


def test_a_csv_without_column_names_is_refused_in_a_few_words_however_long_its_first_line_is(tmp_path):
    (tmp_path / "a.csv").write_text(f"a,{200_000 * 'x'}\n")

    with pytest.raises(ConfigError, match=r"--text-field must name a column of .*, was: text") as refused:
        bulk("out", tmp_path / "a.csv")

    assert len(str(refused.value)) < 1000


def test_hostile_texts_ids_and_columns_pass_unharmed(tmp_path):
    texts = ["A\u2028B \x00\x1b[31m <script>EVIL</script>", "\r\n", "\U0001f600 ABC", "', DROP TABLE; --"]
    ids = ["\n", "gpner:result:x", "ä" * 1000, "\u202e"]
    rows = [{"id": name, "text": text, "evil": text} for name, text in zip(ids, texts, strict=True)]

    for output_format in ("parquet", "jsonl"):
        source = write_jsonl(tmp_path / "hostile.jsonl", rows)
        assert bulk(f"out-{output_format}", source, keep=["text", "evil"], format=output_format) == DONE

        found = rows_of(Path(f"out-{output_format}"))
        assert [(each["id"], each["text"], each["evil"]) for each in found] == [
            (name, text, text) for name, text in zip(ids, texts, strict=True)
        ]
        for each in found:
            assert all(each["text"][e["start"] : e["end"]] == e["text"] for e in each["entities"])


def test_failures_are_listed_with_their_place_and_reason_and_stop_nobody(tmp_path):
    lines = [ROWS[0], "broken", {"id": "x"}, {"id": "bad", "text": "!raise"}, ROWS[0], ROWS[1]]
    source = write_jsonl(tmp_path / "a.jsonl", lines)

    assert bulk("out", source, tmp_path / "a.jsonl", format="jsonl") == DONE_WITH_FAILURES

    out = Path("out")
    assert [(each["id"], each["row"], each["reason"]["type"]) for each in failures_of(out)] == [
        (None, 2, "BrokenRow"),
        ("x", 3, "MissingText"),
        ("bad", 4, "ValueError"),
        ("doc-0", 5, "DuplicateId"),
    ]
    assert failures_of(out)[2]["reason"]["message"] == "an order to raise"
    assert [each["id"] for each in rows_of(out)] == ["doc-0", "doc-1"]
    assert summary_of(out)["failures"] == {"BrokenRow": 1, "DuplicateId": 1, "MissingText": 1, "ValueError": 1}


@pytest.mark.parametrize(
    ("engine", "bad"),
    [("load_capitals", "!untokenizable"), ("load_capitals", "!raise"), ("load_small_memory", "word " * 21)],
)
def test_one_document_that_an_engine_cannot_read_costs_the_others_nothing(tmp_path, monkeypatch, engine, bad):
    monkeypatch.setenv("GPNER_ENGINE", f"tests.engines:{engine}")
    rows = [{"id": str(number), "text": "ONE two three"} for number in range(300)]
    rows[137]["text"] = bad

    assert bulk("out", write_jsonl(tmp_path / "a.jsonl", rows)) == DONE_WITH_FAILURES

    assert [each["id"] for each in failures_of(Path("out"))] == ["137"]
    assert len(rows_of(Path("out"))) == 299


def test_a_document_that_fails_otherwise_once_the_memory_suffices_is_a_failure_of_its_own(settings):
    reader = LocalReader(WithoutMemoryAtFirst(settings))
    block = Block([Row("a", "!raise", "a.jsonl", 1)], Position(), {}, 0, full=True)

    ((_, (answer,)),) = reader.answer(reader.tokenize(iter([block])))

    assert answer == Problem("a", "a.jsonl", 1, "ValueError", "an order to raise")


def test_an_engine_that_fails_on_everything_stops_the_job_and_blames_no_document(corpus, monkeypatch):
    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_broken")

    assert bulk("out", corpus) == STOPPED
    assert failures_of(Path("out")) == []

    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_capitals")
    assert bulk("out", corpus) == DONE
    assert len(rows_of(Path("out"))) == len(ROWS)


def test_the_summary_counts_what_there_is(corpus):
    bulk("out", corpus, shard_documents=10)

    summary = summary_of(Path("out"))
    rows = rows_of(Path("out"))
    labels = [entity["label"] for each in rows for entity in each["entities"]]
    assert summary["state"] == "done"
    assert summary["documents"] == len(ROWS)
    assert summary["shards"] == 3
    assert summary["tokens"] == sum(each["tokens"] for each in rows)
    assert summary["entities"] == {label: labels.count(label) for label in sorted(set(labels))}
    assert summary["failures"] == {}
    assert summary["model"] == {"name": "capitals", "revision": "0123456789ab"}


def test_the_sample_holds_the_same_documents_however_the_job_was_cut_up(tmp_path):
    rows = [row(number, words=1) for number in range(3 * SAMPLE_DOCUMENTS)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)

    bulk("in-one", corpus)
    bulk("in-parts", corpus, shard_documents=70, limit=200)
    bulk("in-parts", corpus, shard_documents=70)

    samples = [Path(name, "sample.jsonl").read_bytes() for name in ("in-one", "in-parts")]
    lines = [json.loads(line) for line in samples[0].splitlines()]
    assert samples[0] == samples[1]
    assert len(lines) == SAMPLE_DOCUMENTS
    by_id = {each["id"]: each["text"] for each in rows}
    assert all(line["text"] == by_id[line["id"]] and line["entities"] for line in lines)


def test_the_same_command_elsewhere_gives_the_same_bytes_and_again_does_nothing(corpus):
    bulk("one", corpus, shard_documents=10)
    bulk("two", corpus, shard_documents=10)
    before = {path: path.stat().st_mtime_ns for path in Path("one").glob("part-*")}

    assert bulk("one", corpus, shard_documents=10) == DONE

    assert digests(Path("one")) == digests(Path("two"))
    assert {path: path.stat().st_mtime_ns for path in Path("one").glob("part-*")} == before


def test_large_rows_make_small_row_groups(tmp_path):
    text = "ABC " + 2_000_000 * "x"
    corpus = write_jsonl(tmp_path / "large.jsonl", [{"id": str(number), "text": text} for number in range(10)])

    bulk("out", corpus, keep=["text"])

    about = parquet.read_metadata("out/part-00000.parquet")
    assert about.num_row_groups > 1
    assert {each["text"] for each in rows_of(Path("out"))} == {text}


def test_documents_are_held_in_groups_that_kept_columns_bound_too(settings):
    def blocks(size: int) -> list[Block]:
        rows = [Row(str(number), "ABC", "a", number, {}, size) for number in range(10)]
        return [Block(rows, Position(), {}, 0, full=False)] * 20

    reader = LocalReader(load_capitals(settings))

    assert len(list(reader.tokenize(iter(blocks(1))))) == 1
    assert [len(group) for group in reader.tokenize(iter(blocks(MOST_CHARACTERS // 40)))] == [4] * 5


def test_names_and_messages_of_others_cannot_rewrite_a_terminal(tmp_path):
    evil = tmp_path / "\x1b[31m[red]a\x9b.jsonl"
    write_jsonl(evil, [{"id": "a", "text": "ABC", "\x1b[2J[b]": 1}, "broken"])

    codes, shown = zip(
        told("out", evil, evil, strict=True),
        told("dry", evil, evil, dry_run=True, keep=["\x1b[2J[b]"]),
        strict=True,
    )

    assert codes == (STOPPED, DONE_WITH_FAILURES)
    for words in shown:
        assert r"\x1b[31m[red]a\x9b.jsonl:2: a line must be one JSON object" in words
        assert r"a file is read once, however often it is named: " in words
        assert not {"\x1b", "\x9b"} & set(words)
    assert r"--keep \x1b[2J[b]" in shown[1]


def test_without_a_model_a_local_job_is_refused(corpus, monkeypatch):
    monkeypatch.delenv("GPNER_ENGINE")

    with pytest.raises(ConfigError, match="--local needs GPNER_MODEL"):
        bulk("out", corpus)
    monkeypatch.setenv("GPNER_MODEL", "nowhere")
    with pytest.raises(CheckpointError):
        bulk("out", corpus)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "xml"}, "--format must be one of"),
        ({"keep": ["entities"]}, "--keep must name columns that the output does not have already"),
        ({"shard_documents": 0}, "must be at least 1"),
        ({"limit": 0}, "must be at least 1"),
        ({"output": "s3://bucket/out"}, "--output must be a folder of this machine"),
        ({"max_failures": -1}, "--max-failures must be at least 0"),
        ({"output": "-", "retry_failures": True}, "--retry-failures needs the folder of a job"),
        ({"of": "-", "retry_failures": True}, "--retry-failures needs input that can be read again"),
        ({"output": "."}, "--output must not hold the input"),
        ({"text_field": "txet", "of": "a.parquet"}, "was: txet; did you mean text"),
        ({"keep": ["yaer"], "of": "a.csv"}, "was: yaer; did you mean year"),
        ({"id_field": "yaer", "of": "a.parquet"}, "--id-field must name a column .* was: yaer; did you mean year"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_written(tmp_path, options, message):
    (tmp_path / "a.csv").write_text("id,text,year\n1,x,2\n", "utf-8")
    write_parquet(tmp_path / "a.parquet", ROWS)
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    options = dict(options)

    with pytest.raises(ConfigError, match=message):
        bulk(options.pop("output", "out"), options.pop("of", "a.jsonl"), **options)

    assert not Path("out").exists()
