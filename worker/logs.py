"""What the log looks like, and what it never holds: the text of a document.

Our own lines carry ids and reasons only. Celery's quote whole messages that it cannot use, and what a task returned or
raised; those are cut here, in both formats.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from celery.signals import after_setup_logger, after_setup_task_logger
from celery.worker.consumer import consumer

from worker.protocol import shorten
from worker.settings import ENV_PREFIX, Settings, load_settings

# Words of Celery and kombu about messages that they cannot use, ours instead, and how many arguments quote nothing.
_REWORDED = {
    consumer.UNKNOWN_FORMAT: ("a message that is no task was deleted; was it meant for another queue?", 0),
    consumer.UNKNOWN_TASK_ERROR: ("a task of an unknown name was deleted: %s", 1),
    consumer.INVALID_TASK_ERROR: ("an invalid task was deleted: %s", 1),
    consumer.MESSAGE_DECODE_ERROR: ("a message that cannot be decoded was deleted: %s (%s, %s)", 3),
    # kombu's, which names these nowhere.
    "Cannot process event on channel %r: %s": ("a command that cannot be decoded was passed over", 0),
    "Could not restore message: %r": ("a message could not be put back and is lost: its exchange is not known", 0),
}
# Said when Celery prints the address of a Redis with TLS, without the options with which it does connect.
_FALSE_ALARM = "Secure redis scheme specified (rediss) with no ssl options, defaulting to insecure SSL behaviour."
# These loggers tell what became of tasks. What a task was given, returned and raised can hold a document.
_TASK_LOGGERS = ("celery.app.trace", "celery.worker.request", "celery.worker.strategy")
_QUOTING_VALUES = ("args", "kwargs", "return_value", "traceback")
# Lines of one kind that a minute shows; a flood of broken documents must not bury what else an operator has to read.
LINES_A_MINUTE = 100
MINUTE_SECONDS = 60.0
# Kinds that are remembered. A program that puts what it tells into the words themselves makes one of every line.
_MOST_KINDS = 1_000


def connect() -> None:
    """Have Celery's logging, which is the worker's, follow `GPNER_LOG_FORMAT` and quote no document."""
    after_setup_logger.connect(_dress, weak=False)
    after_setup_task_logger.connect(_dress, weak=False)


def settings_lines(settings: Settings) -> Iterator[str]:
    """The settings, secrets hidden, as a worker prints them at its start."""
    values = {f"{ENV_PREFIX}{name.upper()}": value for name, value in settings.model_dump(mode="json").items()}
    if settings.log_format == "text":
        yield from (f"{name}={value}" for name, value in values.items())
        return
    record = logging.makeLogRecord({"name": __name__, "levelname": "INFO", "msg": "settings"})
    yield _json_line(record, settings=values)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; exceptions as one string, the ids of documents where a record has them."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record, whatever it holds, on one line."""
        more: dict[str, Any] = {}
        if documents := getattr(record, "documents", None):
            more["documents"] = documents
        if record.exc_info or record.exc_text:
            more["exception"] = record.exc_text or self.formatException(record.exc_info or (None, None, None))
        return _json_line(record, **more)


class CelerysWords(logging.Filter):
    """Takes out of Celery's records what can quote a document, and drops one that is false."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it must be; False drops it."""
        if record.msg == _FALSE_ALARM:
            return False
        if isinstance(record.msg, str) and record.msg in _REWORDED:
            record.msg, kept = _REWORDED[record.msg]
            record.args = tuple(shorten(str(value)) for value in tuple(record.args or ())[:kept])
            record.exc_info = None
        elif record.name in _TASK_LOGGERS:
            record.args = _unquoted(record.args)
            if record.exc_info and record.exc_info[0] is not None:
                frames = "".join(traceback.format_tb(record.exc_info[2]))
                record.exc_text = f"{frames}{record.exc_info[0].__name__}"
        return True


class RateLimit(logging.Filter):
    """Drops lines beyond the first hundred of their kind in a minute, and says how many in the next that is shown.

    Of one kind are lines of one logger with the same words but for what is filled in.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        # By kind, when its minute began and how many lines it has had since.
        self._minutes: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Count the record; False drops it."""
        kind, now = (record.name, str(record.msg)), record.created
        left_out = 0
        with self._lock:
            if len(self._minutes) >= _MOST_KINDS:
                self._minutes.clear()
            began, lines = self._minutes.get(kind, (now, 0))
            if not 0 <= now - began < MINUTE_SECONDS:  # also where the clock was set back
                left_out = max(0, lines - LINES_A_MINUTE)
                began, lines = now, 0
            lines += 1
            self._minutes[kind] = began, lines
        if left_out:
            _append(record, f"{left_out} more like this were left out before")
        elif lines == LINES_A_MINUTE:
            _append(record, "more like this are left out for a minute")
        return lines <= LINES_A_MINUTE


def _append(record: logging.LogRecord, words: str) -> None:
    record.msg, record.args = f"{record.getMessage()} ({words})", ()


def _dress(logger: logging.Logger, **_: Any) -> None:
    is_json = load_settings().log_format == "json"
    for handler in logger.handlers:
        handler.addFilter(CelerysWords())
        handler.addFilter(RateLimit())
        if is_json:
            handler.setFormatter(JsonFormatter())
    if is_json:
        # There Celery writes what it does about signals, past the log and in words of its own.
        sys.__stdout__ = None  # type: ignore[misc]  # typeshed calls it final


def _unquoted(arguments: Any) -> Any:
    if not isinstance(arguments, dict):
        return tuple(_type_alone(value) for value in arguments or ())
    unquoted = arguments | {name: "..." for name in _QUOTING_VALUES if name in arguments}
    if "exc" in arguments:
        # The name of the exception stands before its words.
        unquoted["exc"] = str(arguments["exc"]).partition("(")[0]
    return unquoted


def _type_alone(value: Any) -> Any:
    return type(value).__name__ if isinstance(value, Exception | dict) else value


def _json_line(record: logging.LogRecord, **more: Any) -> str:
    line = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **more,
    }
    return json.dumps(line, ensure_ascii=False, default=str)
