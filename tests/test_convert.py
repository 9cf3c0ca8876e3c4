"""`gpner convert`, run as a user runs it."""

import gzip
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from gpner.cli import main
from gpner.examples import read_corpus
from tests.corpora import write_lines
from tests.tokenizers_fixtures import SHARED_DATA

LINES = [
    {
        "id": "a",
        "text": "Ada met Grace in 北京 👩",
        "entities": [[0, 3, "PER"], [0, 13, "PAIR"], [17, 19, "[bold]LOC"]],
    },
    {"id": "b", "text": "", "entities": []},
]


def conll(folder: Path) -> Path:
    path = folder / "train.conll"
    path.write_text("Ada B-PER\nmet O\n\nbroken\n\nGrace I-PER\n", encoding="utf-8")
    return path


def decompressed(path: Path) -> bytes:
    if path.suffix == ".jsonl":
        return path.read_bytes()
    with pyarrow.input_stream(str(path), compression={".gz": "gzip", ".zst": "zstd"}[path.suffix.lower()]) as file:
        return file.read()


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.GZ", "out.jsonl.zst"])
def test_valid_examples_of_ours_come_out_as_they_went_in(tmp_path, name):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES), encoding="utf-8")

    assert main(["convert", str(path), str(tmp_path / name)]) == 0

    assert decompressed(tmp_path / name) == path.read_bytes()
    assert read_corpus(tmp_path / name) == read_corpus(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.jsonl", name]


@pytest.mark.parametrize("name", ["cluener.dev", "litbank", "wnut17.dev"])
def test_a_real_corpus_comes_out_byte_for_byte(tmp_path, name):
    path = SHARED_DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the shared data")

    assert main(["convert", str(path), str(tmp_path / "out.jsonl"), "--strict"]) == 0

    assert (tmp_path / "out.jsonl").read_bytes() == gzip.decompress(path.read_bytes())


def test_counts_go_to_standard_output_and_problems_to_standard_error(tmp_path, capsys):
    path = conll(tmp_path)

    assert main(["convert", str(path), str(tmp_path / "out.jsonl")]) == 0

    out, err = capsys.readouterr()
    assert [example.text for example in read_corpus(tmp_path / "out.jsonl").examples] == ["Ada met", "Grace"]
    assert "documents: 2, problems: 2" in out
    assert [line.split() for line in out.splitlines() if "PER" in line or "(all)" in line] == [
        ["│", "PER", "│", "2", "│"],
        ["│", "(all)", "│", "2", "│"],
    ]
    assert err.splitlines()[0].startswith(f"{path}:4: a line must hold a token and its tag")


def test_only_twenty_problems_are_listed(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", LINES[0], *[b"{\x1b"] * 23)

    assert main(["convert", str(path), str(tmp_path / "out.jsonl")]) == 0

    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1] for line in lines[:-1]] == [str(number) for number in range(2, 22)]
    assert lines[-1] == "and 3 more"
    assert all(line.isprintable() for line in lines)


def test_a_hyphen_writes_to_standard_output_and_nothing_else_does(tmp_path, capsysbinary):
    path = write_lines(tmp_path / "in.jsonl", *LINES)

    assert main(["convert", str(path), "-"]) == 0

    out, err = capsysbinary.readouterr()
    assert [json.loads(line) for line in out.splitlines()] == LINES
    assert b"documents: 2, problems: 0" in err


def test_strict_conversion_stops_at_the_first_problem_and_leaves_the_old_file(tmp_path, capsys):
    path = conll(tmp_path)
    output = tmp_path / "out.jsonl"
    output.write_text("old")

    assert main(["convert", str(path), str(output), "--strict"]) == 2

    assert output.read_text() == "old"
    assert capsys.readouterr().err.startswith(f"error: {path}:4: a line must hold a token and its tag")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out.jsonl", "train.conll"]


def test_a_named_format_is_taken_without_looking(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", *LINES)

    assert main(["convert", str(path), str(tmp_path / "out.jsonl"), "--format", "cluener"]) == 2

    assert "must have the keys 'text' and 'label', was without: 'label'" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_one_line(tmp_path, capsys):
    path = write_lines(tmp_path / "in.jsonl", *LINES)

    assert main(["convert", str(path), str(tmp_path / "none" / "out.jsonl")]) == 2
    assert main(["convert", str(path), os.devnull]) == 2

    first, second = capsys.readouterr().err.splitlines()
    assert "output must be a file that can be written" in first
    assert second == f"error: output must be a file, {os.devnull} is none; name another"


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.zst"])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, capsys, name):
    resource = pytest.importorskip("resource")
    big = [{"id": str(number), "text": secrets.token_hex(500), "entities": []} for number in range(50)]
    path = write_lines(tmp_path / "in.jsonl", *big)
    output = tmp_path / name
    output.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # writing past it fails as on a full disk

    try:
        code = main(["convert", str(path), str(output)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert code == 2
    assert output.read_text() == "old"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in.jsonl", name]
    assert "output must be a file that can be written" in capsys.readouterr().err


def test_standard_output_on_a_full_disk_is_one_line(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    path = write_lines(tmp_path / "in.jsonl", *LINES)
    command = [sys.executable, "-m", "gpner.cli", "convert", str(path), "-"]

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line.lower()] == [
        "error: every file must be readable or writable, the system refused one: [Errno 28] No space left on device"
    ]


def test_a_path_that_is_too_long_is_one_line(tmp_path, capsys):
    assert main(["convert", str(tmp_path / ("x" * 300)), "-"]) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert "File name too long" in line


def test_labels_are_shown_whole_and_without_the_terminals_escapes(tmp_path, capsys):
    label = "[bold]" + "x" * 200
    path = write_lines(tmp_path / "in.jsonl", {"text": "Ada", "entities": [[0, 3, label], [0, 3, "\x1b[2J"]]})

    assert main(["convert", str(path), str(tmp_path / "out.jsonl")]) == 0

    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert out.count("[bold]") == 1
    assert out.count("x") == 200
    assert read_corpus(tmp_path / "out.jsonl").examples[0].entities == ((0, 3, label),)


@pytest.mark.parametrize(
    "line",
    [
        {"id": ["x" * 10_000], "text": "", "entities": []},
        {"text": "Ada", "entities": [["x" * 10_000, 3, "PER"]]},
        {"text": "Ada", "label": {"PER": {"x" * 10_000: [[0, 2]]}}},
    ],
)
def test_a_message_quotes_no_more_than_the_beginning_of_what_came(tmp_path, capsys, line):
    path = write_lines(tmp_path / "in.jsonl", line)

    main(["convert", str(path), "-"])

    assert 0 < len(capsys.readouterr().err) < 500
