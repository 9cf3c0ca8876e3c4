"""Every form of input gives the same documents, whole or from any row on; what is broken is named and passed over."""

import bz2
import csv
import gzip
import io
import json
import os
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
from fsspec import AbstractFileSystem
from pyarrow import ipc, parquet

from gpner.errors import ConfigError
from tests.bulk_tools import row, write_jsonl, write_parquet
from worker.bulk.inputs import find_sources
from worker.bulk.reading import Part, Reading
from worker.bulk.rows import Block, Item, Position, Problem, Row
from worker.bulk.seen import SeenIds
from worker.bulk.tables import Columns
from worker.bulk.texts import BLOCK_BYTES, Progress, Record, read_jsonl

ROWS = [row(number) for number in range(10)]
LINES = "".join(json.dumps(each) + "\n" for each in ROWS).encode()


BEGINNING = Position()


def blocks_of(*inputs: object, start: Position = BEGINNING, **options: Any) -> Iterator[Block]:
    columns = Columns(options.pop("text_field", "text"), options.pop("id_field", "id"), options.pop("keep", ()))
    parts = [Part(source) for source in find_sources([str(name) for name in inputs]).sources]
    reading = Reading(
        parts, columns, SeenIds(None), **{"shard_items": 1000, "max_document_characters": 1000, **options}
    )
    yield from reading.blocks(start)


def items_of(*inputs: object, **options: Any) -> list[Item]:
    return [item for block in blocks_of(*inputs, **options) for item in block.items]


def found_in(*inputs: object, **options: Any) -> list[tuple[str, str]]:
    return [(item.id, item.text) for item in items_of(*inputs, **options) if isinstance(item, Row)]


def problems_in(*inputs: object, **options: Any) -> list[Problem]:
    return [item for item in items_of(*inputs, **options) if isinstance(item, Problem)]


def as_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def as_texts(folder: Path) -> Path:
    folder.mkdir()
    for each in ROWS:
        (folder / f"{each['id']}.txt").write_text(each["text"], "utf-8")
    return folder


def as_dataset(folder: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """What `save_to_disk` of Hugging Face's datasets writes, in two files."""
    folder.mkdir(parents=True)
    names = []
    for number, part in enumerate((rows[:4], rows[4:])):
        names.append(f"data-{number:05d}-of-00002.arrow")
        table = pyarrow.Table.from_pylist(part)
        with ipc.new_stream(folder / names[-1], table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}), "utf-8")
    return folder


def corpora(folder: Path) -> dict[str, Path]:
    """The same rows in every form."""
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(LINES))
    with pyarrow.OSFile(str(folder / "a.jsonl.zst"), "w") as file, pyarrow.CompressedOutputStream(file, "zstd") as out:
        out.write(LINES)
    as_csv(folder / "plain.csv")
    (folder / "a.csv.gz").write_bytes(gzip.compress((folder / "plain.csv").read_bytes()))
    return {
        "jsonl": write_jsonl(folder / "a.jsonl", ROWS),
        "jsonl.gz": folder / "a.jsonl.gz",
        "jsonl.zst": folder / "a.jsonl.zst",
        "jsonl.bz2": folder / "a.jsonl.bz2",
        "csv": folder / "plain.csv",
        "csv.gz": folder / "a.csv.gz",
        "tsv": as_csv(folder / "a.tsv", "\t"),
        "parquet": write_parquet(folder / "a.parquet", ROWS, row_group_size=3),
        "data set": as_dataset(folder / "dataset"),
    }


FORMS = ("jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2", "csv", "csv.gz", "tsv", "parquet", "data set")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_gives_the_same_documents(tmp_path, form):
    assert found_in(corpora(tmp_path)[form]) == [(each["id"], each["text"]) for each in ROWS]


def test_how_much_of_a_table_is_read_grows_with_every_block_up_to_the_whole(tmp_path):
    path = corpora(tmp_path)["parquet"]

    read = [block.bytes_read for block in blocks_of(path, shard_items=1)]

    assert read == sorted(set(read))
    assert read[-1] == path.stat().st_size


@pytest.mark.parametrize("form", FORMS)
def test_reading_goes_on_from_any_row(tmp_path, form):
    path = corpora(tmp_path)[form]
    whole = list(blocks_of(path, shard_items=1))

    for number, block in enumerate(whole):
        rest = [item for block in blocks_of(path, start=block.end) for item in block.items]

        assert rest == [item for later in whole[number + 1 :] for item in later.items]


def test_a_folder_of_texts_is_read_by_name_with_the_names_as_ids(tmp_path):
    folder = as_texts(tmp_path / "texts")

    assert found_in(folder) == [(str(folder / f"{each['id']}.txt"), each["text"]) for each in ROWS]
    assert found_in(folder, start=Position(0, 7)) == found_in(folder)[7:]


def test_globs_folders_and_several_inputs_are_read_in_order_and_no_file_twice(tmp_path):
    for name, part in (("b.jsonl", ROWS[4:8]), ("a.jsonl", ROWS[:4]), ("c.jsonl", ROWS[8:])):
        write_jsonl(tmp_path / name, part)

    ids = [each["id"] for each in ROWS]
    assert [name for name, _ in found_in(tmp_path / "*.jsonl")] == ids
    assert [name for name, _ in found_in(tmp_path)] == ids
    assert [name for name, _ in found_in(tmp_path / "c.jsonl", tmp_path / "*.jsonl")] == ids[8:] + ids[:8]


def test_all_splits_of_a_data_set_are_read(tmp_path):
    as_dataset(tmp_path / "set" / "train", ROWS[:6])
    as_dataset(tmp_path / "set" / "test", ROWS[6:])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', "utf-8")

    assert [name for name, _ in found_in(tmp_path / "set")] == [each["id"] for each in ROWS]


def test_an_address_is_read_through_fsspec():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/corpus/a.jsonl.gz": gzip.compress(LINES), "/corpus/b.txt": b"PLAIN text", "/corpus/c.bin": b"?"})
    with memory.open("/corpus/c.parquet", "wb") as file:
        parquet.write_table(pyarrow.Table.from_pylist([row(100)]), file)

    everything = found_in("memory://corpus")
    only_one = found_in("memory://corpus/*.gz")

    assert [name for name, _ in everything[:11]] == [*(each["id"] for each in ROWS), "doc-100"]
    assert everything[11][1] == "PLAIN text"
    assert only_one == [(each["id"], each["text"]) for each in ROWS]
    memory.rm("/corpus", recursive=True)


def test_other_columns_can_be_the_text_and_the_id_and_numbers_are_ids_too(tmp_path):
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"number": 7, "body": "TEXT"}, {"body": "none"}, {"number": "", "body": "x"}]
    )

    found = found_in(path, text_field="body", id_field="number")

    assert found == [("7", "TEXT"), (f"{path}:2", "none"), (f"{path}:3", "x")]


def test_an_id_of_any_type_becomes_a_string_and_one_that_is_not_a_number_is_none(tmp_path):
    number = uuid.UUID(int=5)
    ids = {
        "bytes": (pyarrow.array([b"\xff\x00"]), "_wA="),
        "uuid": (pyarrow.array([number.bytes], pyarrow.uuid()), str(number)),
        "nan": (pyarrow.array([float("nan")]), f"{tmp_path / 'nan.parquet'}:0"),
        "list": (pyarrow.array([[1, 2]]), "[1, 2]"),
    }
    for name, (values, _) in ids.items():
        parquet.write_table(pyarrow.table({"id": values, "text": ["TEXT"]}), tmp_path / f"{name}.parquet")

    assert {name: found_in(tmp_path / f"{name}.parquet") for name in ids} == {
        name: [(expected, "TEXT")] for name, (_, expected) in ids.items()
    }


def test_rows_that_are_read_again_as_part_of_a_source_that_grew_are_no_duplicates(tmp_path):
    (source,) = find_sources([str(write_jsonl(tmp_path / "a.jsonl", ROWS))]).sources
    seen = SeenIds(None)
    for parts, start in (([Part(source)], BEGINNING), ([Part(source), Part(source, 3)], Position(1))):
        reading = Reading(parts, Columns("text", "id"), seen, shard_items=1000, max_document_characters=1000)

        items = [item for block in reading.blocks(start) for item in block.items]

        assert [type(item) for item in items] == [Row] * (len(ROWS) - parts[-1].first)


def test_broken_rows_are_named_with_their_line_and_the_others_are_read(tmp_path):
    lines = [b'{"id":"a","text":"one"}', b"{broken", b"", b'["no object"]', b'{"id":"b","text":"\xff"}', b'{"id":"c"}']
    lines += [b'{"id":"d","text":""}', b'{"id":"e","text":5}', b'{"id":"a","text":"two"}', b'{"id":"f","text":"last"}']
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))

    problems = problems_in(path)

    assert [name for name, _ in found_in(path)] == ["a", "f"]
    assert [(problem.row, problem.type) for problem in problems] == [
        (2, "BrokenRow"), (4, "BrokenRow"), (5, "BrokenRow"), (6, "MissingText"), (7, "EmptyText"), (8, "MissingText"),
        (9, "DuplicateId"),
    ]  # fmt: skip
    assert f"{path}:1" in problems[-1].message


def test_a_text_that_is_too_long_is_a_problem(tmp_path):
    (problem,) = problems_in(write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 1001}]))

    assert problem.type == "DocumentError"
    assert "at most 1000 characters" in problem.message


def test_a_csv_without_a_readable_first_line_is_a_problem_and_told_once(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('"id,text\nz1,b\n', "utf-8")

    (problem,) = problems_in(write_jsonl(tmp_path / "0.jsonl", ROWS[:1]), path)

    assert (problem.source, problem.row, problem.type) == (str(path), None, "BrokenSource")


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_csv_in_another_encoding_is_a_problem_that_says_so(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_text("id,täxt\na,ONE\n", encoding)

    (problem,) = problems_in(path)

    assert problem.type == "BrokenSource"
    assert b"the names of its columns must be UTF-8, were not; convert the file" in problem.line()


def test_columns_of_a_csv_that_nobody_asked_for_may_have_one_name_or_none(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,text,,,x,x\na,ONE,,,1,2\n", "utf-8")

    assert found_in(path) == [("a", "ONE")]


def rows_in(path: Path, **options: Any) -> list[tuple[int | None, str]]:
    """Line and text of each document, line and kind of each problem."""
    return [(item.row, item.text if isinstance(item, Row) else item.type) for item in items_of(path, **options)]


@pytest.mark.parametrize("closing", [b"", b'x,"end"\n'], ids=["never closed", "closed too late"])
def test_a_quote_that_is_not_closed_costs_its_line_alone(tmp_path, closing):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\na,one\nb,"two\n' + b"c,three\n" * 50 + closing)

    rows = rows_in(path, id_field="none")

    assert rows[:3] == [(2, "one"), (3, "BrokenRow"), (4, "three")]
    assert [text for _, text in rows[3:52]] == ["three"] * 49
    assert rows[52:] == ([(54, "end")] if closing else [])


def test_a_line_or_row_of_csv_that_is_too_long_is_one_problem_and_the_next_line_is_read(tmp_path):
    path = tmp_path / "a.csv"
    endless = b"x" * 1_500_000
    path.write_bytes(b"id,text\na," + endless + b'\nb,two\nc,"three\n' + 3 * (b"d," + endless[:500_000] + b"\n"))

    assert rows_in(path)[:3] == [(2, "BrokenRow"), (3, "two"), (4, "BrokenRow")]
    assert [row for row, _ in rows_in(path)[3:]] == [5, 6, 7]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_end_of_a_line_ends_a_row_of_csv_and_is_text_between_quotes(tmp_path, end):
    path = tmp_path / "a.csv"
    head = end.join([b"id,text", b'a,"one', b'two"', b"", b"b,three", b""])
    # The border between two blocks that are read falls behind the first byte of an end.
    long = b"c," + b"x" * (BLOCK_BYTES - 3 - len(head))
    path.write_bytes(head + long + end + b"d,last")

    rows = rows_in(path, max_document_characters=2_000_000)

    assert [(row, text[-10:]) for row, text in rows] == [
        (2, f"one{end.decode()}two"), (5, "three"), (6, "x" * 10), (7, "last"),
    ]  # fmt: skip


def test_rows_of_csv_are_read_on_from_behind_one_that_was_not_closed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\na,"one\nb,two\nc,"x"y\nd,four\n')
    whole = list(blocks_of(path, shard_items=1))

    for number, block in enumerate(whole):
        rest = [item for later in blocks_of(path, start=block.end) for item in later.items]
        assert rest == [item for later in whole[number + 1 :] for item in later.items]


def test_broken_rows_of_csv_are_named_and_quoted_line_ends_are_text(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\na,"one\ntwo"\nb\n\nc,three,four\nd,\xff\ne,five\n')

    assert found_in(path) == [("a", "one\ntwo"), ("e", "five")]
    assert [(problem.row, problem.type) for problem in problems_in(path)] == [
        (4, "BrokenRow"),
        (6, "BrokenRow"),
        (7, "BrokenRow"),
    ]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_of_a_file_with_a_broken_tail_what_comes_before_is_read(tmp_path, name):
    many = "".join(json.dumps({"text": f"{number:0900d}"}) + "\n" for number in range(4_000)).encode()
    path = tmp_path / name
    with (
        pyarrow.OSFile(str(path), "w") as file,
        pyarrow.CompressedOutputStream(file, "gzip" if name[-1] == "z" else "zstd") as out,
    ):
        out.write(many)
    path.write_bytes(path.read_bytes()[:-50])

    *rows, last = items_of(path, write_jsonl(tmp_path / "next.jsonl", ROWS))[: -len(ROWS)]

    assert len(rows) > 1000
    assert isinstance(last, Problem)
    assert (last.row, last.type) == (None, "BrokenSource")
    assert found_in(path, tmp_path / "next.jsonl")[-1] == (ROWS[-1]["id"], ROWS[-1]["text"])


def test_a_source_that_ended_broken_is_not_read_again(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES)[:-10])

    *_, last = blocks_of(path)

    assert list(blocks_of(path, start=last.end)) == []


def test_tables_of_another_schema_and_files_that_are_none_are_problems_of_the_file(tmp_path):
    write_parquet(tmp_path / "a.parquet", ROWS)
    write_parquet(tmp_path / "b.parquet", [{"id": "x", "body": "y"}])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 no more")
    write_parquet(tmp_path / "d.parquet", [row(50)])

    problems = problems_in(tmp_path)

    assert [(Path(problem.source).name, problem.row) for problem in problems] == [
        ("b.parquet", None),
        ("c.parquet", None),
    ]
    assert "must have a column text, has id, body" in problems[0].message
    assert len(found_in(tmp_path)) == len(ROWS) + 1


def test_texts_that_are_no_utf_8_are_problems(tmp_path):
    folder = as_texts(tmp_path / "texts")
    (folder / "bad.txt").write_bytes(b"\xff\xfe")

    assert [Path(problem.source).name for problem in problems_in(folder)] == ["bad.txt"]


def test_a_file_that_is_named_twice_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    as_texts(tmp_path / "texts")

    path = str(tmp_path / "a.jsonl")
    here = [f"{start}{path}" for start in ("file://", "local://", "file://localhost")]
    found = find_sources(["a.jsonl", "./a.jsonl", "*.jsonl", *here, str(tmp_path / "texts"), "texts/doc-1.txt"])

    assert [source.name for source in found.sources] == ["a.jsonl", str(tmp_path / "texts")]
    assert found.doubles == [
        *((name, "a.jsonl") for name in ("a.jsonl", "a.jsonl", "link.jsonl", path, path, path)),
        ("texts/doc-1.txt", str(tmp_path / "texts" / "doc-1.txt")),
    ]


def test_a_file_of_the_output_is_refused_by_its_address_too(tmp_path):
    write_jsonl(tmp_path / "part-00000.jsonl", ROWS)

    with pytest.raises(ConfigError, match="--output must not hold the input"):
        find_sources([f"local://{tmp_path}/part-00000.jsonl"], tmp_path)


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("end", [b"", b'{"id": "half'])
def test_what_is_written_to_a_file_while_it_is_read_waits_for_the_next_run(tmp_path, end, rows):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS[:rows])
    (source,) = find_sources([str(path)]).sources
    with path.open("ab") as file:
        file.write(json.dumps(ROWS[3]).encode() + b"\n" + end)

    records = list(read_jsonl(source, 0, Progress(), ["text", "id"]))

    assert [record.row for record in records if isinstance(record, Record)] == [1, 2, 3][:rows]
    assert len(records) == rows


def test_a_folder_is_read_behind_links_too_and_without_what_is_hidden(tmp_path):
    folder, behind = tmp_path / "folder", tmp_path / "elsewhere"
    for name in (folder / ".checkpoints", behind):
        name.mkdir(parents=True)
    (folder / "up").symlink_to(folder)
    (folder / "linked").symlink_to(behind)
    write_jsonl(folder / "a.jsonl", ROWS[:1])
    write_jsonl(behind / "b.jsonl", ROWS[1:2])
    for name in ("._a.jsonl", ".checkpoints/a.jsonl"):
        (folder / name).write_bytes(b"\x00 no line of anybody's")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/folder/.hidden/a.jsonl": b"no line", "/folder/sub/a.jsonl": LINES, "/folder/sub/.a.jsonl": b"?"})

    assert items_of(folder) == [*items_of(folder / "a.jsonl"), *items_of(folder / "linked" / "b.jsonl")]
    assert [item.source for item in items_of("memory://folder")] == ["memory:///folder/sub/a.jsonl"] * len(ROWS)
    memory.rm("/folder", recursive=True)


def test_names_in_capitals_tell_what_a_file_is_too(tmp_path):
    write_jsonl(tmp_path / "A.JSONL", ROWS[:3])
    (tmp_path / "B.CSV.GZ").write_bytes(gzip.compress(b"id,text\nx,TEXT\n"))
    (tmp_path / "C.Txt").write_text("plain")

    assert [text for _, text in found_in(tmp_path)] == [*(each["text"] for each in ROWS[:3]), "TEXT", "plain"]


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "gone.jsonl").symlink_to("nowhere.jsonl")

    for name in (tmp_path, tmp_path / "*.jsonl", tmp_path / "gone.jsonl"):
        with pytest.raises(ConfigError, match=r"must be readable, .*gone\.jsonl is not: No such file"):
            find_sources([str(name)])


class Unreachable(AbstractFileSystem):
    """A store as a package of its own reads it: its errors are no OSErrors."""

    protocol = "unreachable"

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        if "credentials" in path:
            raise RuntimeError("Unable to locate credentials")
        return {"name": path, "size": 100, "type": "file"}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return Unfinished(LINES)


class Unfinished(io.BytesIO):
    """A file that breaks off."""

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(100)
        if not content:
            raise RuntimeError("Payload is not complete")
        return content


def test_errors_of_the_packages_behind_fsspec_name_the_address(tmp_path):
    fsspec.register_implementation("unreachable", Unreachable, clobber=True)

    with pytest.raises(ConfigError, match=r"unreachable://credentials/a.jsonl is not: .*Unable to locate credentials"):
        find_sources(["unreachable://credentials/a.jsonl"])
    (problem,) = problems_in("unreachable://b.jsonl")

    assert (problem.row, problem.type) == (None, "BrokenSource")
    assert "unreachable://b.jsonl cannot be reached: RuntimeError: Payload is not complete" in problem.message


def test_what_is_carried_at_once_is_bounded_by_kept_columns_too(tmp_path):
    rows = [{**each, "kept": {"pages": ["x" * 50_000] * 4}, "other": "y" * 1_000_000} for each in ROWS]
    path = write_jsonl(tmp_path / "a.jsonl", rows)

    blocks = list(blocks_of(path, keep=("kept",)))

    assert [len(block.items) for block in blocks] == [2] * 5
    assert [len(block.items) for block in blocks_of(path)] == [10]


def test_columns_that_nobody_asked_for_are_dropped_as_lines_are_read(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{**each, "other": "y" * 1_000_000} for each in ROWS])
    (source,) = find_sources([str(path)]).sources

    records = list(read_jsonl(source, 0, Progress(), ["text", "id"]))

    assert [record.values.keys() for record in records if isinstance(record, Record)] == [{"text", "id"}] * len(ROWS)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_wide_rows_of_a_table_are_not_decoded_all_at_once(tmp_path, form):
    # Compressed, nothing tells how large they are.
    texts = pyarrow.array(["x" * 1_000_000] * 400).dictionary_encode()
    corpus = pyarrow.table({"id": [str(number) for number in range(400)], "text": texts})
    if form == "parquet":
        parquet.write_table(corpus, tmp_path / "a.parquet")
    else:
        with ipc.new_stream(tmp_path / "a.arrow", corpus.schema) as stream:
            stream.write_table(corpus)
    del corpus, texts
    before, most = pyarrow.total_allocated_bytes(), 0
    tracemalloc.start()

    for block in blocks_of(tmp_path / f"a.{form}", max_document_characters=10_000_000):
        most = max(most, pyarrow.total_allocated_bytes())
        del block

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most - before < 120_000_000
    assert peak < 60_000_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.jsonl", "names none"),
        ("*.nothing", "names none"),
        ("a.unknown", "must say what it is"),
        ("unknown-protocol://x/a.jsonl", "fsspec can open"),
        ("memory://nowhere/a.jsonl", "must be readable"),
    ],
)
def test_an_input_that_cannot_be_one_is_refused(tmp_path, name, message):
    (tmp_path / "a.unknown").touch()

    with pytest.raises(ConfigError, match=message):
        find_sources([name if "://" in name else str(tmp_path / name)])


def test_a_pipe_is_refused_before_anybody_waits_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")

    for name in (tmp_path, tmp_path / "a.jsonl"):
        with pytest.raises(ConfigError, match=r"a\.jsonl is neither; - reads standard input"):
            find_sources([str(name)])


def test_a_name_that_no_output_could_hold_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"\xff.jsonl")).touch()

    with pytest.raises(ConfigError, match=r"must be UTF-8, was: .*\\udcff.jsonl'; rename it"):
        find_sources([str(tmp_path)])


def test_half_a_surrogate_pair_breaks_its_row_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": "\\ud800"}\n{"id": "b", "text": "fine"}\n')

    assert found_in(path) == [("b", "fine")]
    assert [problem.row for problem in problems_in(path)] == [1]


def test_no_block_runs_over_the_end_of_a_shard(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS)

    blocks = list(blocks_of(path, shard_items=4))

    assert [(len(block.items), block.full) for block in blocks] == [(4, True), (4, True), (2, False)]
    assert blocks[-1].bytes_read == path.stat().st_size


def test_kept_columns_of_any_type_come_along(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x", "tags": ["a"], "year": 5}, {"text": "y"}])

    kept = [item.kept for item in items_of(tmp_path / "a.jsonl", keep=("tags", "year")) if isinstance(item, Row)]

    assert kept == [{"tags": ["a"], "year": 5}, {"tags": None, "year": None}]
