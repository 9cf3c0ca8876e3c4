"""What operators do with dead letters on the command line."""

import json
import subprocess
import sys

import pytest
from redis import Redis

from tests.letters import KEYS, bury, cells
from tests.terminals import Terminal
from worker.cli import main
from worker.settings import Settings


@pytest.fixture(autouse=True)
def environment(settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("GPNER_NAMESPACE", settings.namespace)
    monkeypatch.setenv("COLUMNS", "200")


def give_up(redis: Redis, document: bytes, reason: str = "EngineError", message: str = "it was told to") -> str:
    fields = {b"id": document, b"text": b"a \xff\x1b[31m\nsecond line", b"meta": b"7"}
    return bury(redis, fields, KEYS.bulk, reason, message)


def test_dead_letters_are_listed_newest_first_with_the_reason(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    one = give_up(redis, b"[red]\x1b[31mone", "DocumentError", "[bold]no\nsuch\x1b[31m thing")
    two = give_up(redis, b"two")
    nameless = redis.xadd(KEYS.dead, {"letter": "{}"}).decode()

    assert main(["dead", "list"]) == 0

    output = capsys.readouterr().out
    rows = cells(output)
    assert [[row[0], row[2], row[3], row[4]] for row in rows] == [
        [nameless, "-", "0", "UnreadableLetter: must be a dead letter of protocol version 1, is not; drop it"],
        [two, "two", "3", "EngineError: it was told to"],
        [one, r"'[red]\x1b[31mone'", "3", r"'DocumentError: [bold]no\nsuch\x1b[31m thing'"],
    ]
    assert "\x1b" not in output


def test_a_list_can_be_short_and_of_one_reason_and_for_programs(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        give_up(redis, b"%d" % i, "DocumentError" if i % 2 else "EngineError")

    assert main(["dead", "list", "--json", "--limit", "2", "--reason", "EngineError"]) == 0

    letters = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [letter["document"] for letter in letters] == ["4", "2"]
    assert letters[0]["reason"] == {"type": "EngineError", "message": "it was told to"}
    assert letters[0].keys() == {"letter", "buried", "document", "stream", "deliveries", "reason"}


def test_a_letter_is_shown_without_its_text_unless_that_is_wanted(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer = give_up(redis, b"42"), give_up(redis, b"42", message="a second time")

    assert main(["dead", "show", "42"]) == 0
    by_document = capsys.readouterr().out
    assert main(["dead", "show", newer, "--text"]) == 0
    by_letter = capsys.readouterr().out

    assert by_document.splitlines()[0] == f"document 42 has 2 dead letters; taking the newest, {newer}, not {older}"
    assert "reason: EngineError: a second time\n" in by_document
    assert "field text (20 bytes)\nfield meta (1 bytes)\n  7\n" in by_document
    assert f"stream: {KEYS.bulk}\ndeliveries: 3\n" in by_letter
    assert "field text (20 bytes)\na \\xff\\x1b[31m\nsecond line\nfield meta" in by_letter


def test_documents_are_put_back_by_id_the_newest_letter_of_each(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    older, _, other = give_up(redis, b"42"), give_up(redis, b"42"), give_up(redis, b"other")

    assert main(["dead", "retry", "42", "other", other]) == 0

    assert capsys.readouterr().out.splitlines()[-1] == "put back 2 of 2 documents"
    assert [fields[b"id"] for _, fields in redis.xrange(KEYS.bulk)] == [b"42", b"other"]
    assert [entry_id.decode() for entry_id, _ in redis.xrange(KEYS.dead)] == [older]


def test_an_unknown_id_stops_the_command_before_it_did_anything(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    give_up(redis, b"42")

    commands = ["show", "x"], ["retry", "42", "x"], ["drop", "--yes", "42", "x"], ["retry", "\x1b[31m"]
    assert [main(["dead", *command]) for command in commands] == [2, 2, 2, 2]

    *plain, hostile = capsys.readouterr().err.splitlines()
    assert (
        plain
        == ["error: an id must name a dead letter or its document, x names none; see `gpner-worker dead list`"] * 3
    )
    assert r"'\x1b[31m' names none" in hostile
    assert (redis.xlen(KEYS.dead), redis.xlen(KEYS.bulk)) == (1, 0)


def test_all_of_a_reason_are_put_back_oldest_first(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        give_up(redis, b"%d" % i, "DocumentError" if i == 7 else "EngineError")

    assert main(["dead", "retry", "--all", "--reason", "EngineError"]) == 0

    assert capsys.readouterr().out == "put back 39 of 39 documents\n"
    assert [int(fields[b"id"]) for _, fields in redis.xrange(KEYS.bulk)] == [i for i in range(40) if i != 7]
    assert redis.xlen(KEYS.dead) == 1


def test_letters_that_cannot_go_back_stop_no_other_and_are_told(
    redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable = [redis.xadd(KEYS.dead, {"letter": "{}"}).decode() for _ in range(2)]
    give_up(redis, b"42")

    assert main(["dead", "retry", "--all"]) == 2

    output = capsys.readouterr()
    assert output.out == "put back 1 of 3 documents\n"
    assert output.err.startswith(f"error: dead letter {unreadable[0]} cannot be put back: its stream must be one of")
    assert output.err.endswith("drop it (and 1 more)\n")


def test_a_queue_that_fills_up_keeps_the_rest_of_the_letters(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(5):
        give_up(redis, b"%d" % i)
    monkeypatch.setenv("GPNER_MAX_QUEUED_DOCUMENTS", "3")

    assert main(["dead", "retry", "--all"]) == 2

    output = capsys.readouterr()
    assert output.out == "put back 3 of 5 documents\n"
    assert output.err.startswith("error: the queue may hold 3 unfinished documents and holds 3: wait")
    assert (redis.xlen(KEYS.bulk), redis.xlen(KEYS.dead)) == (3, 2)


def test_where_nobody_can_be_asked_dropping_needs_a_yes(redis: Redis, capsys: pytest.CaptureFixture[str]) -> None:
    give_up(redis, b"42")

    assert main(["dead", "drop", "--all"]) == 2
    assert redis.xlen(KEYS.dead) == 1
    assert main(["dead", "drop", "--all", "--yes"]) == 0

    assert redis.xlen(KEYS.dead) == 0
    output = capsys.readouterr()
    assert output.err == "error: --yes must be given to drop 1 dead letters where nobody can be asked\n"
    assert output.out == "dropped 1 of 1 dead letters\n"


@pytest.mark.integration
@pytest.mark.parametrize(("answer", "said", "left"), [("y", "dropped 2 of 2", 0), ("", "nothing was dropped", 2)])
def test_on_a_terminal_dropping_asks_first(redis: Redis, answer: str, said: str, left: int) -> None:
    give_up(redis, b"1")
    give_up(redis, b"2")

    with Terminal(["dead", "drop", "--all"]) as terminal:
        terminal.read_until("drop 2 dead letters and their documents for good?")
        terminal.write(f"{answer}\n")
        terminal.read_until(said)

        assert terminal.end() == 0
    assert redis.xlen(KEYS.dead) == left


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["retry"], "either ids or --all must be given, was: neither"),
        (["drop", "1", "--all"], "either ids or --all must be given, was: both"),
        (["retry", "1", "--reason", "EngineError"], "--reason goes with --all, not with ids"),
    ],
)
def test_letters_are_named_or_all_are_meant(
    command: list[str], message: str, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dead", *command]) == 2

    assert capsys.readouterr().err == f"error: {message}\n"


def test_a_reader_that_has_enough_is_no_error(redis: Redis) -> None:
    for i in range(2000):
        give_up(redis, b"%d" % i)

    script = "set -o pipefail; python -m worker.cli dead list --json --limit 2000 | head -n 1"
    done = subprocess.run(
        ["/bin/bash", "-c", script.replace("python", sys.executable)], capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stderr, json.loads(done.stdout)["document"]) == (0, "", "1999")
