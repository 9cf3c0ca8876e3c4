"""Kept columns: every type comes out with nothing lost, whatever differs between files, and stays what it is."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import ipc, parquet

from gpner.errors import ConfigError
from tests.bulk_tools import bulk, failures_of, row, rows_of, told, write_jsonl
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES

OUT = Path("out")


def table(values: pyarrow.Array, first: int = 0) -> pyarrow.Table:
    """Documents with a column `kept` of these values."""
    rows = [row(first + number) for number in range(len(values))]
    names = {name: [each[name] for each in rows] for name in ("id", "text")}
    return pyarrow.table({**names, "kept": values})


def write(path: Path, values: pyarrow.Array, first: int = 0) -> Path:
    parquet.write_table(table(values, first), path)
    return path


def kept() -> list[Any]:
    return [each["kept"] for each in rows_of(OUT)]


def as_text(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def kept_types() -> set[str]:
    return {str(parquet.read_schema(shard).field("kept").type) for shard in OUT.glob("part-*.parquet")}


@pytest.mark.parametrize(
    ("first", "second", "kind", "values"),
    [
        (pyarrow.nulls(2), pyarrow.array([5, 6]), "int64", [None, None, 5, 6]),
        (pyarrow.array([1, 2], "int32"), pyarrow.array([2**40]), "int64", [1, 2, 2**40]),
        (pyarrow.array([0.5], "float32"), pyarrow.array([0.1]), "double", [0.5, 0.1]),
        (pyarrow.array([1]), pyarrow.array([0.5]), "double", [1.0, 0.5]),
        (pyarrow.array([[], None], pyarrow.list_(pyarrow.null())), pyarrow.array([["a"]]), "list<element: string>",
         [[], None, ["a"]]),
        (pyarrow.array([{"a": 1}]), pyarrow.array([{"b": "x"}]), "struct<a: int64, b: string>",
         [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        (pyarrow.array([1]), pyarrow.array(["x"]), "string", ["1", "x"]),
        (pyarrow.array([[1]]), pyarrow.array([True]), "string", ["[1]", "true"]),
    ],
    ids=["null", "int32", "float32", "int and float", "empty lists", "structs", "string", "nothing alike"],
)  # fmt: skip
def test_types_that_differ_between_files_are_widened_and_a_dry_run_says_the_same(tmp_path, first, second, kind, values):
    inputs = [write(tmp_path / "a.parquet", first), write(tmp_path / "b.parquet", second, first=10)]

    dry, words = told(OUT, *inputs, keep=["kept"], dry_run=True)
    code = bulk(OUT, *inputs, keep=["kept"], shard_documents=1)

    assert (dry, code) == (DONE, DONE)
    assert kept() == values
    assert kept_types() == {kind}
    (line,) = (line for line in words.splitlines() if "--keep kept" in line)
    assert line.split("│")[2].strip() == kind.replace("element", "item")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pyarrow.array([[[("k", 1)]], None], pyarrow.list_(pyarrow.map_(pyarrow.string(), pyarrow.int32()))),
         ['[[["k", 1]]]', None]),
        (pyarrow.array([[("k", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int32())), ['[["k", 1]]', None]),
        (pyarrow.array([{}, None], pyarrow.struct([])), ["{}", None]),
        (pyarrow.array([1.5, None]).cast("float32").cast("float16"), [1.5, None]),
        (pyarrow.array([b"\xff\x00", None]), ["_wA=", None]),
        (pyarrow.array([[b"\xff\x00"], None]), [["_wA="], None]),
        (pyarrow.array([Decimal("1.50"), None]), ["1.50", None]),
        (pyarrow.array([(1, 2, 3), None], pyarrow.month_day_nano_interval()), ["[1, 2, 3]", None]),
        (pyarrow.array([2**64 - 1, None], "uint64"), [2**64 - 1, None]),
        (pyarrow.array(["x", None]).dictionary_encode(), ["x", None]),
        (pyarrow.array([[1, 2], None], pyarrow.list_(pyarrow.int16(), 2)), [[1, 2], None]),
        (pyarrow.nulls(2), [None, None]),
    ],
    ids=["maps in lists", "maps", "no fields", "half floats", "bytes", "bytes in lists", "decimals", "intervals",
         "uint64", "dictionaries", "fixed lists", "nulls"],
)  # fmt: skip
@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_kept_values_of_every_type_come_out_with_nothing_lost(tmp_path, values, expected, output_format):
    folder = tmp_path / "dataset"
    folder.mkdir()
    with ipc.new_stream(folder / "a.arrow", table(values).schema) as stream:
        stream.write_table(table(values))
    (folder / "state.json").write_text('{"_data_files": [{"filename": "a.arrow"}]}')

    assert bulk(OUT, folder, keep=["kept"], format=output_format) == DONE

    # What is a string of JSON in Parquet is JSON in lines of JSON.
    assert list(map(as_text, kept())) == list(map(as_text, expected))


def test_a_job_keeps_its_types_when_its_input_grows(tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write(corpus / "a.parquet", pyarrow.array([1, 2], "int8"))
    assert bulk(OUT, corpus, keep=["kept"]) == DONE

    write(corpus / "b.parquet", pyarrow.array([2**40, None]), first=10)
    write(corpus / "c.parquet", pyarrow.array([2.0, 2.5, 2.0**60]), first=20)
    write(corpus / "d.parquet", pyarrow.array(["x"]), first=30)
    dry, _ = told(OUT, corpus, keep=["kept"], dry_run=True)

    assert dry == bulk(OUT, corpus, keep=["kept"]) == DONE_WITH_FAILURES
    assert kept_types() == {"int64"}
    assert kept() == [1, 2, 2**40, None, 2, 2**60]
    assert [failure["reason"]["message"] for failure in failures_of(OUT)] == [
        "column kept must be int64 in all of this job, was: 2.5",
        "column kept must be int64 in all of this job, was: 'x'",
    ]


def test_an_object_with_more_in_it_than_its_column_holds_is_a_failure(tmp_path):
    first = write(tmp_path / "a.parquet", pyarrow.array([{"n": 1}]))
    second = write_jsonl(tmp_path / "b.jsonl", [{"id": "x", "text": "X", "kept": {"n": 1, "more": 2}}])

    assert bulk(OUT, first, second, keep=["kept"]) == DONE_WITH_FAILURES

    assert kept() == [{"n": 1}]
    assert [failure["id"] for failure in failures_of(OUT)] == ["x"]


def test_two_columns_of_one_name_are_refused(tmp_path):
    doubled = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, ["id", "text", "text"])
    parquet.write_table(doubled, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("id,text,text\n1,x,y\n")

    for path in (tmp_path / "a.parquet", tmp_path / "a.csv"):
        with pytest.raises(ConfigError, match=r"has two called text; rename one"):
            bulk(OUT, path)
        later = write_jsonl(tmp_path / "first.jsonl", [row(1)])
        assert bulk(f"out of {path.name}", later, path) == DONE_WITH_FAILURES
        assert [each["reason"]["type"] for each in failures_of(Path(f"out of {path.name}"))] == ["BrokenSource"]
