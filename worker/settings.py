"""Everything that an operator can set, read from environment variables that begin with `GPNER_`.

One typed object, validated once at start, so that a typing mistake stops a process in its first second with one line
instead of an hour later. What belongs to a model (labels, context, thresholds) is saved beside its weights, not here.
"""

import difflib
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import Field, Secret, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from gpner.errors import ConfigError

ENV_PREFIX = "GPNER_"
SENTINEL_SCHEME = "redis+sentinel://"
REDIS_SCHEMES = ("redis://", "rediss://", "unix://", SENTINEL_SCHEME)
# The login ends at the last @, in case the password holds one; then sentinels, master and database, or host, port and
# database, or a socket's path.
_ADDRESS = re.compile(
    r"(?P<scheme>(?P<sentinel>redis\+sentinel://)|rediss?://|unix://)(?:(?P<user>[^:/?#@\s]*)(?P<password>:.*)?@)?"
    r"(?P<place>(?(sentinel)[^:/?#@,\s]+(?::\d+)?(?:,[^:/?#@,\s]+(?::\d+)?)*/[\w.-]+(?:/\d+)?"
    r"|(?:(?:\[[^]\s]*\]|[^:/?#@\s]*)(?::\d*)?(?:/\d*)?|/[^?#\s]*)))(?:\?(?P<query>[^#\s]*))?",
    re.DOTALL,
)
# Options of an address whose values are no secrets.
_SHOWN_OPTION = re.compile(r"(?:db|ssl_(?!password)[a-z_]+)=.*")


def hide_password(url: str) -> str:
    """The address without its secrets: `redis://user:***@host:6379/0`. Of what is no address nothing is shown.

    Whatever might belong to a password, because a character of it was not percent-encoded, counts as one.
    """
    parts = _ADDRESS.fullmatch(url)
    if parts is None:
        return "***"
    shown = str(parts["scheme"])
    if parts["user"] is not None:
        shown += f"{parts['user']}:***@" if parts["password"] else "***@"
    shown += parts["place"]
    if parts["query"]:
        options = parts["query"].split("&")
        shown += "?" + "&".join(option if _SHOWN_OPTION.fullmatch(option) else "***" for option in options)
    return shown


class RedisUrl(Secret[str]):
    """An address of Redis that prints, logs and serializes without its password."""

    def _display(self) -> str:
        return hide_password(self.get_secret_value())


class Settings(BaseSettings):
    """The deployment's settings: `GPNER_METRICS_PORT=9200` sets `metrics_port`; an empty value is the default."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    redis_url: RedisUrl = Field(
        default=RedisUrl("redis://127.0.0.1:6379/0"),
        description="Where Redis (6.2 or newer) is: `redis://user:password@host:port/database`, `rediss://` for TLS, "
        "`unix:///path` for a socket, `redis+sentinel://user:password@host:port,host:port/master/database` for the "
        "master that sentinels name. Workers and producers need the same one. Special characters of the password are "
        "percent-encoded; it is never printed. `?ssl_ca_certs=/path` names the CA of a TLS server that the machine "
        "does not know.",
    )
    namespace: str = Field(
        default="gpner:",
        pattern=r"^[A-Za-z0-9_.:{}-]{0,63}:$",
        description="The beginning of every Redis key that gpner touches; ends with a colon. Two services can share "
        "one Redis with two namespaces. On a Redis Cluster put it in braces, `{gpner}:`, so that all keys share one "
        "slot.",
    )
    model: str = Field(
        default="",
        description="The folder of the trained checkpoint that the worker serves, as written by `gpner train`.",
    )
    engine: str = Field(
        default="worker.engine:load_extractor",
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="What reads the documents, as `module:function`; the function gets these settings and returns "
        "the engine. Leave it alone unless you replace the model, for instance to load-test the queue without one.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="`auto` takes a free GPU if the machine has one and the CPU otherwise; `cuda` refuses to start "
        "without a GPU; `cpu` never touches one.",
    )
    gpu_lock_folder: Path = Field(
        default=Path(tempfile.gettempdir()) / "gpner-gpus",
        description="A folder that all workers of one host share, containers too (mount it). Each worker locks one "
        "file per GPU in it, so that no two workers take the same GPU; the lock goes when its process does.",
    )
    cpu_threads: int = Field(
        default=0,
        ge=0,
        description="Threads that the model's arithmetic may use on a CPU; 0 is one per core. With two workers on "
        "eight cores set 4 for each.",
    )
    tokenizer_threads: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Threads that tokenize. One does 300,000 to a million tokens a second, enough for a CPU; raise it "
        'if `gpner_stage_duration_seconds{stage="tokenize"}` shows that the device waits for them.',
    )
    max_batch_tokens: int = Field(
        default=0,
        ge=0,
        description="The most tokens in one batch, over all its documents. With 0 the worker finds at its first start, "
        "in seconds, what is fastest for its model on its device, and keeps that in `~/.cache/gpner` (or below "
        "`XDG_CACHE_HOME`). It decides memory and speed: 2,000-8,000 suit a CPU's caches, a GPU of 80 GB likes 32,000 "
        "and more. Answers do not depend on it. A longer document runs alone.",
    )
    max_wait_seconds: float = Field(
        default=0.02,
        ge=0,
        le=60,
        description="How long the oldest document waits for others to fill its batch. It matters only when little "
        "arrives: 0.02 adds at most 20 ms to an answer; under load batches are full long before.",
    )
    max_held_tokens: int = Field(
        default=0,
        ge=0,
        description="The most tokens that a worker holds between reading and committing; it stops reading above. 0 is "
        "four batches, which keep the device busy; more only takes documents away from other workers.",
    )
    max_document_characters: int = Field(
        default=5_000_000,
        ge=1,
        description="A longer text fails with the reason instead of being read; nothing is ever cut short.",
    )
    fair_share: float = Field(
        default=0.125,
        ge=0,
        le=1 / 3,
        description="Of all that a worker reads, in bytes of text, the share that bulk documents get however many "
        "urgent ones wait, and the same for normal ones, so that neither starves: 0.125 is an eighth for each. With 0 "
        "they wait as long as anything more urgent is there.",
    )
    result_ttl_seconds: int = Field(
        default=86_400,
        ge=1,
        le=10**9,
        description="How long results and reply streams stay in Redis before they vanish; a day by default. Redis "
        "holds about (results per second) x (this) x (bytes of a result): 100 a second of 2 kB for a day are 17 GB.",
    )
    max_queued_documents: int = Field(
        default=1_000_000,
        ge=1,
        description="The most accepted and unfinished documents over all streams; `submit` refuses more with "
        "QueueFull. Redis holds their texts in memory: a million of 5 kB are 5 GB.",
    )
    max_deliveries: int = Field(
        default=5,
        ge=3,
        description="A document that was handed to workers more often than this, because each of them died with it, "
        "is buried in the dead letters and answered as failed.",
    )
    lease_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="How long a worker may be silent before others take over its documents. It renews every third of "
        "this, from a thread of its own, however long a forward takes. Shorter recovers sooner from a killed "
        "worker.",
    )
    forward_deadline_seconds: float = Field(
        default=300,
        gt=0,
        description="A forward of one batch that takes longer counts as hung: the process ends, its supervisor "
        "restarts it, and the documents move to other workers. Set it well above the slowest honest batch.",
    )
    drain_seconds: float = Field(
        default=25,
        ge=0,
        description="After SIGTERM: how long the worker may take to finish and commit what it holds before it hands "
        "the rest back. Keep it below the supervisor's patience (Kubernetes: 30 s; Docker: 10 s unless told "
        "otherwise).",
    )
    flat: bool = Field(
        default=False,
        description="False returns nested entities; true keeps only the best of those that overlap.",
    )
    precision: Literal["auto", "int8"] = Field(
        default="auto",
        description="`auto`: bf16 where the device computes in it, else fp32. `int8`, on CPUs with AVX512-VNNI or AMX: "
        "a fifth to two fifths faster for BERT-base; needs `GPNER_AGREE_ON`. Set it alike for all workers of a queue.",
    )
    agree_on: str = Field(
        default="",
        description="For int8: a file with a text in UTF-8 like those to be read, of at least 200 entities. Every "
        "start reads it in both precisions, and a worker that finds the same in int8 to less than 96 % does not serve.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="The address on which /metrics, /livez and /readyz listen; `0.0.0.0` in a container.",
    )
    metrics_port: int = Field(
        default=9108,
        ge=0,
        le=65_535,
        description="Their port; 0 takes any free one, which is logged. Two workers on one host need two ports.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="`json` logs one JSON object a line: time, level, logger, message, and documents and exception "
        "where there are any. Neither format ever holds a document's text.",
    )

    @field_validator("redis_url")
    @classmethod
    def _address_of_redis(cls, url: RedisUrl) -> RedisUrl:
        address = url.get_secret_value()
        if not address.startswith(REDIS_SCHEMES):
            raise ValueError(f"must begin with {', '.join(REDIS_SCHEMES)}")
        if not _is_understood(address):
            raise ValueError(
                "must have the form redis://user:password@host:port/database, or "
                f"{SENTINEL_SCHEME}user:password@host:port,host:port/master/database, with the special characters of "
                "user and password percent-encoded (/ is %2F, @ is %40)"
            )
        if "ssl_password=" in address.partition("?")[2]:
            raise ValueError(
                "must not hold ssl_password, which `celery inspect stats` would show; "
                "give ssl_keyfile a key without passphrase that only the worker can read"
            )
        return url

    @model_validator(mode="after")
    def _int8_is_compared(self) -> Self:
        if (self.precision == "int8") != bool(self.agree_on):
            raise ValueError(
                f"{ENV_PREFIX}PRECISION=int8 and {ENV_PREFIX}AGREE_ON must be set together, "
                f"were: {self.precision}, {self.agree_on or 'not set'}"
            )
        return self

    @model_validator(mode="after")
    def _room_for_a_batch(self) -> Self:
        if 0 < self.max_held_tokens < self.max_batch_tokens:
            raise ValueError(
                f"{ENV_PREFIX}MAX_HELD_TOKENS must be at least {ENV_PREFIX}MAX_BATCH_TOKENS, "
                f"was: {self.max_held_tokens} < {self.max_batch_tokens}; leave it unset for four times as many"
            )
        return self


def cache_folder() -> Path:
    """Where gpner keeps what it can make again: below `XDG_CACHE_HOME`, by default in `~/.cache`."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without a home, as containers have them
        home = Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "gpner"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment.

    Args:
        overrides: Settings that win over the environment, by field name.

    Raises:
        ConfigError: One line: a variable that does not exist, or a value out of its range.
    """
    known = [ENV_PREFIX + name.upper() for name in Settings.model_fields]
    for name in os.environ:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise ConfigError(f"unknown setting {name} in the environment{_did_you_mean(name.upper(), known)}")
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(dict(detail)) for detail in error.errors())) from None


def _is_understood(address: str) -> bool:
    """Whether every library that reads this address reads the same in it, and none takes a part of the password for
    the port or the path, which it would then print.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or re.search(r"[/?#\s]", parts["password"] or ""):
        return False
    if parts["sentinel"]:
        return parts["query"] is None
    try:
        split = urlsplit(address)
        parse_qs(split.query, strict_parsing=bool(split.query))
        return split.port != 0
    except ValueError:
        return False


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; unset it, or see the list in docs/operations.md"


def _explain(detail: dict[str, Any]) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        return str(message)
    message = message.replace("Input should be", "must be").replace("String should match", "must match")
    name, given = str(detail["loc"][0]), str(detail["input"])
    # An address may stand in the wrong variable too.
    shown = hide_password(given) if name == "redis_url" or "://" in given else given
    return f"{ENV_PREFIX}{name.upper()} {message}, was: {shown!r}"
