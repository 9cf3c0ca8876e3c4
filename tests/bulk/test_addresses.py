"""Addresses: of a web server, with secrets in them that nobody may read; of archives."""

import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from gpner.errors import ConfigError
from tests.bulk_tools import bulk, digests, failures_of, row, rows_of, told
from worker.bulk.addresses import shown
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES
from worker.bulk.inputs import find_sources
from worker.bulk.options import Options
from worker.bulk.reading import Part, Reading
from worker.bulk.rows import Item, Position, Problem, Row
from worker.bulk.seen import SeenIds
from worker.bulk.tables import Columns

OUT = Path("out")
ROWS = [row(number) for number in range(25)]
# A token that is also what a name could end in.
SECRET = "s3cr3t/x.csv"


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


class Server(ThreadingHTTPServer):
    """Serves contents by path and query, as pages, and answers 403 to anything else."""

    contents: ClassVar[dict[str, bytes]] = {}
    tells_lengths: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        content = self.server.contents.get(self.path)
        self.server.asked.append(self.command)
        self.send_response(403 if content is None else 200)
        self.send_header("Content-Type", "text/html")
        if self.server.tells_lengths:
            self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.server.contents.get(self.path, b""))

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        server.contents = {}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def items_of(*inputs: str) -> list[Item]:
    parts = [Part(source) for source in find_sources(inputs).sources]
    reading = Reading(parts, Columns("text", "id"), SeenIds(None), shard_items=1000, max_document_characters=1000)
    return [item for block in reading.blocks(Position()) for item in block.items]


def written(folder: Path) -> str:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file()).decode(errors="replace")


def test_what_a_file_is_stands_in_the_path_of_its_address_and_its_query_nowhere(server, tmp_path):
    server.contents[f"/a.jsonl?token={SECRET}"] = lines([*ROWS, "broken", {"text": "NO id"}])
    server.contents["/a.csv?token=new"] = b"id,text\nx,TEXT\n"
    common = {"format": "jsonl", "shard_documents": 10, "keep": ["text"]}
    address = f"{server.address}/a.jsonl"

    code, words = told(OUT, f"{address}?token={SECRET}", f"{server.address}/a.csv?token=new", **common)

    assert code == DONE_WITH_FAILURES
    assert {each["source"] for each in rows_of(OUT)} == {address, f"{server.address}/a.csv"}
    assert [each["id"] for each in rows_of(OUT)] == [*(each["id"] for each in ROWS), f"{address}:27", "x"]
    assert [(each["source"], each["row"]) for each in failures_of(OUT)] == [(address, 26)]
    assert not any(word in text for word in ("token=", SECRET) for text in (words, written(OUT)))


def test_a_job_goes_on_with_another_token_for_the_same_file_and_with_no_other_file(server):
    server.contents[f"/a.jsonl?token={SECRET}"] = server.contents["/a.jsonl?token=new"] = lines(ROWS)
    server.contents["/a.jsonl?token=other"] = lines([row(100 + number) for number in range(25)])
    common = {"format": "jsonl", "shard_documents": 10}
    bulk(OUT, f"{server.address}/a.jsonl?token={SECRET}", **common, limit=12)

    with pytest.raises(ConfigError, match=r"/a\.jsonl has changed"):
        bulk(OUT, f"{server.address}/a.jsonl?token=other", **common)
    assert bulk(OUT, f"{server.address}/a.jsonl?token=new", **common) == DONE

    assert [each["id"] for each in rows_of(OUT)] == [each["id"] for each in ROWS]


def test_files_that_only_their_query_tells_apart_have_names_of_their_own(server):
    for part in range(2):
        server.contents[f"/a.jsonl?part={part}"] = lines([{"text": f"PART {part}"}])
    one, two = (f"{server.address}/a.jsonl?part={part}" for part in range(2))

    assert bulk(OUT, one, two, one, format="jsonl") == DONE

    rows = rows_of(OUT)
    assert [each["tokens"] for each in rows] == [2, 2]
    assert rows[0]["source"] == f"{server.address}/a.jsonl"
    assert rows[1]["source"].startswith(f"{server.address}/a.jsonl?")
    assert len({each["id"] for each in rows}) == 2
    assert "part=" not in written(OUT)
    assert bulk(OUT, one, two, format="jsonl") == DONE


def test_texts_that_only_their_query_tells_apart_are_all_read_when_the_job_goes_on(server, tmp_path):
    for name in ("ONE", "TWO"):
        archive = as_zip(tmp_path / "x.zip", {"a.txt": f"{name} A".encode(), "b.txt": f"{name} B".encode()})
        server.contents[f"/x.zip?t={name}"] = archive.read_bytes()
    inputs = [f"zip://*.txt::simplecache::{server.address}/x.zip?t={name}" for name in ("ONE", "TWO")]
    common = {"format": "jsonl", "keep": ["text"]}

    bulk(OUT, *inputs, **common, limit=1)
    bulk(OUT, *inputs, **common)

    assert [each["text"] for each in rows_of(OUT)] == ["ONE A", "ONE B", "TWO A", "TWO B"]
    assert "t=TWO" not in written(OUT)


def test_what_a_file_of_a_server_that_tells_no_length_has_grown_by_is_read(server):
    server.tells_lengths = False
    # Longer than the two ends by which files are told.
    large = {"id": "large", "text": 200_000 * "x"}
    server.contents |= {"/a.jsonl": lines([large]), "/b.jsonl": lines([row(1)])}
    inputs = [f"{server.address}/{name}.jsonl" for name in "ab"]
    bulk(OUT, *inputs, format="jsonl")

    server.contents |= {"/a.jsonl": lines([large, row(2)]), "/b.jsonl": lines([row(1), row(3)])}
    assert bulk(OUT, *inputs, format="jsonl") == DONE

    assert [each["id"] for each in rows_of(OUT)] == ["large", "doc-1", "doc-3", "doc-2"]
    server.contents["/a.jsonl"] = lines([{**large, "text": 200_000 * "y"}, row(2)])
    with pytest.raises(ConfigError, match=r"a\.jsonl has changed"):
        bulk(OUT, *inputs, format="jsonl")


def test_a_file_of_a_server_that_tells_no_length_may_not_grow_within_its_last_line(server):
    server.tells_lengths = False
    server.contents["/a.jsonl"] = lines([{"id": "large", "text": 200_000 * "x"}]) + b'{"id": "half'
    address = f"{server.address}/a.jsonl"
    bulk(OUT, address, format="jsonl")

    server.contents["/a.jsonl"] += b'", "text": "WHOLE"}\n'

    with pytest.raises(ConfigError, match=r"a\.jsonl has grown within its last line"):
        bulk(OUT, address, format="jsonl")


def test_a_long_text_of_a_server_that_tells_no_length_is_read_whole(server):
    server.tells_lengths = False
    server.contents["/a.txt"] = 5_000_000 * b"x"

    bulk(OUT, f"{server.address}/a.txt", format="jsonl", keep=["text"])

    assert [len(each["text"]) for each in rows_of(OUT)] == [5_000_000]


def test_what_is_wrong_with_the_content_behind_an_address_is_not_laid_to_the_address(server):
    server.contents = {"/a.jsonl": lines(ROWS), "/b.csv": b"id,words\n1,a\n", "/c.parquet": b"no table at all"}

    bulk(OUT, *(f"{server.address}{path}" for path in server.contents), format="jsonl")

    messages = [each["reason"]["message"] for each in failures_of(OUT)]
    assert messages[0] == "it must be readable as csv, was not at all: it must have a column text, has id, words"
    assert "Parquet" in messages[1]
    assert "reached" not in messages[1]


def test_an_error_names_an_address_without_its_secrets(server):
    address = f"{server.address}/a.jsonl?token={SECRET}'quoted' and more"
    with pytest.raises(ConfigError, match="must be readable") as refused:
        find_sources([address])
    server.contents["/a.jsonl?token=short"] = lines(ROWS)
    (source,) = find_sources([f"{server.address}/a.jsonl?token=short"]).sources
    server.contents.clear()
    reading = Reading(
        [Part(source)], Columns("text", "id"), SeenIds(None), shard_items=10, max_document_characters=1000
    )
    (problem,) = (item for block in reading.blocks(Position()) for item in block.items)
    server.contents[f"/unknown?token={SECRET}"] = b"<p>"
    with pytest.raises(ConfigError, match=r"must say what it is, http://.*/unknown does not") as unknown:
        find_sources([f"{server.address}/unknown?token={SECRET}"])
    with pytest.raises(ConfigError, match="folder of this machine") as output:
        Options(["a.jsonl"], f"http://x?token={SECRET}")
    users = []
    for user in ("token", "me:token", "me:token@token", "me:to/token"):
        with pytest.raises(ConfigError, match=r"http://127.* is not") as of_user:
            find_sources([f"http://{user}@127.0.0.1:{server.server_port}/a.jsonl"])
        users.append(of_user.value)

    assert isinstance(problem, Problem)
    for words in (refused.value, problem.message, unknown.value, output.value, *users):
        assert "token" not in str(words)
        assert "quoted" not in str(words)
    assert "/a.jsonl cannot be reached" in problem.message


def test_a_file_is_not_fetched_to_find_out_whether_it_is_a_page_of_links(server):
    server.contents["/a.jsonl"] = lines(ROWS)

    find_sources([f"{server.address}/a.jsonl"])

    assert server.asked == ["HEAD"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://me:pass@host/a.jsonl?x=y#z", "https://host/a.jsonl"),
        ("ftp://me:pass@host/a?.jsonl", "ftp://host/a?.jsonl"),
        ("s3://bucket/a-?.jsonl", "s3://bucket/a-?.jsonl"),
        ("abfs://container@account/a.jsonl", "abfs://container@account/a.jsonl"),
        ("zip://a.jsonl::https://host/a.zip?token=x", "zip://a.jsonl::https://host/a.zip"),
        ("simplecache::https://host/a.jsonl?token=x", "simplecache::https://host/a.jsonl"),
        ("ftp://user:p@ss@host/a.jsonl", "ftp://host/a.jsonl"),
        ("https://TOKEN@host/a.jsonl", "https://host/a.jsonl"),
        ("s3://key:sec/ret@bucket/a.jsonl", "s3://bucket/a.jsonl"),
        ("HTTPS://host/a.jsonl?token=x", "HTTPS://host/a.jsonl"),
        ("http://host/a b.jsonl?token=x y", "http://host/a b.jsonl"),
        ("http://me:p?ss@host/a.jsonl?token=x", "http://host/a.jsonl"),
        ("https://host:80/@me/a.jsonl?mail=x@y", "https://host:80/@me/a.jsonl"),
        ("s3://bucket/a:b@c.jsonl", "s3://bucket/a:b@c.jsonl"),
    ],
)
def test_an_address_is_shown_without_passwords_and_queries(address, expected):
    assert shown(address) == expected


def as_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def as_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


MEMBERS = {
    "corpus/a.jsonl": lines(ROWS[:5]),
    "corpus/b.jsonl": lines(ROWS[5:10]),
    "corpus/.hidden.jsonl": b"?",
    "corpus/c.txt": b"PLAIN",
    "other.jsonl": lines(ROWS[10:]),
}


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_files_in_an_archive_are_read_like_others(tmp_path, kind):
    archive = {"zip": as_zip, "tar": as_tar}[kind](tmp_path / f"archive.{kind}", MEMBERS)

    one = items_of(f"{kind}://corpus/b.jsonl::{archive}")
    some = items_of(f"{kind}://corpus/*.jsonl::file://{archive}")
    folder = items_of(f"{kind}://corpus::{archive}")

    assert [(item.id, item.source) for item in one if isinstance(item, Row)] == [
        (each["id"], f"{kind}://corpus/b.jsonl::{archive}") for each in ROWS[5:10]
    ]
    assert [item.id for item in some] == [each["id"] for each in ROWS[:10]]
    assert [item.id for item in folder] == [
        *(each["id"] for each in ROWS[:10]), f"{kind}://corpus/c.txt::{archive}"
    ]  # fmt: skip


def test_a_job_over_archives_goes_on_like_others(tmp_path):
    archives = [as_zip(tmp_path / f"{number}.zip", MEMBERS) for number in range(2)]
    inputs = [
        f"zip://other.jsonl::{archives[0]}",
        f"zip://corpus::{archives[0]}",
        f"zip://corpus/a.jsonl::{archives[1]}",
    ]
    common = {"format": "jsonl", "shard_documents": 10}
    bulk("whole", *inputs, **common)

    for limit in (12, 28, None):
        bulk(OUT, *inputs, **common, limit=limit)

    assert digests(OUT).keys() <= digests(Path("whole")).keys() | {"part-00003.jsonl", "part-00004.jsonl"}
    assert [each["id"] for each in rows_of(OUT)] == [each["id"] for each in rows_of(Path("whole"))]
    as_zip(archives[1], {"corpus/a.jsonl": lines(ROWS[5:10])})
    with pytest.raises(ConfigError, match=r"zip://corpus/a\.jsonl::.*1\.zip has changed"):
        bulk(OUT, *inputs, **common)


def test_archives_behind_a_cache_are_told_apart(tmp_path):
    archives = [as_zip(tmp_path / f"{number}.zip", {"a.jsonl": lines([row(number)])}) for number in range(2)]

    items = items_of(*(f"simplecache::zip://a.jsonl::{archive}" for archive in archives), f"zip://*::{archives[0]}")

    assert [(item.id, item.source) for item in items] == [
        (f"doc-{number}", f"zip://a.jsonl::{archive}") for number, archive in enumerate(archives)
    ]


def test_an_archive_may_lie_behind_an_address_and_one_that_is_none_is_named(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe({"/a.zip": as_zip(tmp_path / "a.zip", MEMBERS).read_bytes(), "/b.zip": b"none"})

    assert [item.id for item in items_of("zip://other.jsonl::memory://a.zip")] == [each["id"] for each in ROWS[10:]]
    with pytest.raises(
        ConfigError, match=r"one that fsspec can open, zip://a\.jsonl::memory://b\.zip is not: File is not a"
    ):
        find_sources(["zip://a.jsonl::memory://b.zip"])
    with pytest.raises(ConfigError, match=r"must be readable, zip://x\.jsonl::memory://a\.zip is not"):
        find_sources(["zip://x.jsonl::memory://a.zip"])
    memory.rm("/a.zip")
    memory.rm("/b.zip")
