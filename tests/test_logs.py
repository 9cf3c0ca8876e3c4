"""The worker's log: one line for one thing, as text or JSON, and never a document's text."""

import json
import logging
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis import Redis

from tests.workers import WorkerProcess, wait_until
from worker.logs import CelerysWords, JsonFormatter, RateLimit, settings_lines
from worker.protocol import Keys
from worker.settings import Settings

KEYS = Keys("test:")
MARK = "SECRETWORD"


def record(
    message: str, *arguments: Any, logger: str = "worker", at: float | None = None, **more: Any
) -> logging.LogRecord:
    made = logging.getLogger(logger).makeRecord(logger, logging.ERROR, "", 0, message, arguments, None, extra=more)
    if at is not None:
        made.created = at
    return made


def test_a_record_is_one_json_object_on_one_line() -> None:
    line = JsonFormatter().format(record("two\nlines of %s", "Zoë", documents=["7", "\u2028"]))

    written = json.loads(line)
    assert "\n" not in line
    assert (written["level"], written["logger"], written["message"]) == ("ERROR", "worker", "two\nlines of Zoë")
    assert written["documents"] == ["7", "\u2028"]
    assert datetime.fromisoformat(written["time"]).tzinfo == UTC
    assert "exception" not in written


def test_an_exception_is_one_string_of_the_record() -> None:
    try:
        raise ValueError("no\nmore")
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()

    exception = json.loads(JsonFormatter().format(failed))["exception"]

    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: no\nmore")


@pytest.mark.parametrize("message", [{"a": 1}, [1], None, 3])
def test_what_is_no_text_is_told_as_it_is(message: Any) -> None:
    told = logging.makeLogRecord({"name": "worker", "msg": message})

    assert CelerysWords().filter(told)
    assert told.getMessage() == str(message)


def shown(limit: RateLimit, records: list[logging.LogRecord]) -> list[str]:
    return [told.getMessage() for told in records if limit.filter(told)]


def test_a_flood_of_one_kind_is_cut_and_buries_nothing_else() -> None:
    limit = RateLimit()

    flood = shown(limit, [record("document %s buried", number) for number in range(5000)])
    others = shown(limit, [record("ready"), record("document %s buried", 7, logger="another")])

    assert flood[:-1] == [f"document {number} buried" for number in range(99)]
    assert flood[-1] == "document 99 buried (more like this are left out for a minute)"
    assert others == ["ready", "document 7 buried"]


def test_after_its_minute_a_kind_is_shown_again_with_what_was_left_out() -> None:
    limit = RateLimit()
    shown(limit, [record("document %s buried", number, at=1000.0) for number in range(150)])

    assert shown(limit, [record("document %s buried", 150, at=1059.9)]) == []
    assert shown(limit, [record("document %s buried", 151, at=1060.0)]) == [
        "document 151 buried (51 more like this were left out before)"
    ]
    assert shown(limit, [record("document %s buried", 152, at=1060.1)]) == ["document 152 buried"]


def test_a_clock_that_is_set_back_silences_no_kind() -> None:
    limit = RateLimit()
    shown(limit, [record("document %s buried", number, at=1000.0) for number in range(150)])

    assert shown(limit, [record("document %s buried", 150, at=10.0)]) == [
        "document 150 buried (50 more like this were left out before)"
    ]


def test_kinds_without_end_fill_no_memory() -> None:
    limit = RateLimit()

    assert len(shown(limit, [record(f"{number}") for number in range(5000)])) == 5000
    assert len(limit._minutes) <= 1000


def test_a_message_that_could_not_be_put_back_is_not_quoted() -> None:
    told = record("Could not restore message: %r", {"body": MARK}, logger="kombu.transport.redis")

    assert CelerysWords().filter(told)
    assert MARK not in told.getMessage()
    assert "could not be put back and is lost" in told.getMessage()


def test_the_settings_are_lines_of_text_or_one_of_json(settings: Settings) -> None:
    lines = list(settings_lines(settings))
    (line,) = settings_lines(settings.model_copy(update={"log_format": "json"}))

    assert "GPNER_FLAT=False" in lines
    assert json.loads(line)["settings"]["GPNER_FLAT"] is False
    assert len(json.loads(line)["settings"]) == len(lines) == len(Settings.model_fields)


def test_what_a_task_was_given_returned_and_raised_is_not_told() -> None:
    values = {
        "id": "1",
        "name": "x",
        "exc": f"ValueError('{MARK}')",
        "args": MARK,
        "kwargs": MARK,
        "return_value": MARK,
    }
    told = record("%(name)s[%(id)s] %(exc)s %(args)s %(kwargs)s %(return_value)s", values, logger="celery.app.trace")
    try:
        raise ValueError(MARK)
    except ValueError as error:
        told.exc_info = (type(error), error, error.__traceback__)

    kept = CelerysWords().filter(told)

    line = logging.Formatter().format(told)
    assert kept
    assert MARK not in line
    assert line.startswith("x[1] ValueError")
    assert line.endswith("ValueError")


@pytest.mark.integration
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_documents_text_is_in_the_log(settings: Settings, store: Redis, tmp_path: Path, log_format: str) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log", log_format=log_format) as worker:
        worker.wait_until_ready()
        spoilt: list[dict[str, str | bytes]] = [
            {"id": "done", "text": MARK},
            {"id": "raised", "text": f"{MARK} !raise"},
            {"id": "untokenizable", "text": f"{MARK} !untokenizable"},
            {"id": "labelled", "text": MARK, "labels": MARK},
            {"id": "meta", "text": MARK, "meta": f"{{{MARK}"},
            {"id": "bytes", "text": MARK.encode() + b"\xff"},
            {"id": "field", "text": "x", MARK: "x"},
            {"id": f"{MARK}\n", "text": MARK},
            {"text": MARK},
            {"id": "newer", "text": MARK, "v": MARK},
        ]
        for fields in spoilt:
            store.xadd(KEYS.normal, fields)
        options = {"global_keyprefix": settings.namespace}
        with Connection(settings.redis_url.get_secret_value(), transport_options=options) as broker:
            producer = broker.Producer(serializer="json")
            producer.publish(MARK, routing_key="tasks")
            task = {"id": "1", "task": "no.such.task", "argsrepr": MARK, "kwargsrepr": MARK}
            producer.publish([[MARK], {}, {}], headers=task, routing_key="tasks")
            producer.publish([[MARK], {}, {}], headers={**task, "task": "gpner.extract"}, routing_key="tasks")
            producer.publish([[[MARK]], {}, {}], headers={**task, "task": "gpner.extract"}, routing_key="tasks")
            producer.publish(
                f"{{{MARK}", routing_key="tasks", content_type="application/json", content_encoding="utf-8",
                serializer=None, headers={**task, "task": "gpner.extract"},
            )  # fmt: skip
        wait_until(lambda: store.xlen(KEYS.dead) == 9 and not store.llen("test:tasks"), 15)
        wait_until(lambda: worker.log.read_text().count("deleted") == 3 and "succeeded" in worker.log.read_text())
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    log = worker.log.read_text()
    assert MARK not in log
    assert "a task of an unknown name was deleted: " in log
    assert "gpner.extract[1] raised expected: DocumentError" in log
    assert "document raised buried: ValueError" in log
    if log_format == "json":
        lines = [json.loads(line) for line in log.splitlines()]
        assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
        assert [line["documents"] for line in lines if "untokenizable" in line["message"]] == [["untokenizable"]]
        assert {"celery.worker.consumer.consumer", "celery.app.trace", "worker.forwarding"} <= {
            line["logger"] for line in lines
        }
