from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_settings import BaseSettings

from gpner.errors import ConfigError
from worker.settings import ENV_PREFIX, Settings, cache_folder, hide_password, load_settings


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(settings: Settings) -> None:
    """The fixture `settings` clears them."""


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_MAX_BATCH_TOKENS", "8192")
    monkeypatch.setenv("GPNER_FLAT", "true")

    settings = load_settings()

    assert (settings.max_batch_tokens, settings.flat) == (8192, True)


def test_an_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_METRICS_PORT", "1000")

    settings = load_settings(metrics_port=0)

    assert settings.metrics_port == 0


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_MAX_BATCH_TOKENS", "")

    assert load_settings() == Settings()


def test_an_unknown_variable_is_refused_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_MAX_BACH_TOKENS", "8192")

    with pytest.raises(ConfigError, match=r"GPNER_MAX_BACH_TOKENS.*did you mean GPNER_MAX_BATCH_TOKENS") as caught:
        load_settings()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("MAX_BATCH_TOKENS", "many", "GPNER_MAX_BATCH_TOKENS must be a valid integer"),
        ("MAX_BATCH_TOKENS", "-1", "greater than or equal to 0, was: '-1'"),
        ("DEVICE", "tpu", "GPNER_DEVICE must be 'auto', 'cpu' or 'cuda', was: 'tpu'"),
        ("NAMESPACE", "my keys*", "GPNER_NAMESPACE must match"),
        ("REDIS_URL", "http://localhost", "GPNER_REDIS_URL must begin with redis://"),
        ("LEASE_SECONDS", "0", "GPNER_LEASE_SECONDS must be greater than 0"),
    ],
)
def test_a_value_out_of_its_range_is_one_line(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_PREFIX + name, value)

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_holds_a_batch_at_least_where_both_are_set() -> None:
    load_settings(max_batch_tokens=50_000)
    load_settings(max_held_tokens=100)
    with pytest.raises(ConfigError, match="GPNER_MAX_HELD_TOKENS must be at least GPNER_MAX_BATCH_TOKENS, was: 100 < "):
        load_settings(max_batch_tokens=50_000, max_held_tokens=100)


def test_int8_needs_a_text_to_be_compared_on_and_nothing_else_does() -> None:
    assert load_settings(precision="int8", agree_on="letters.txt").precision == "int8"
    for one in ({"precision": "int8"}, {"agree_on": "letters.txt"}):
        with pytest.raises(ConfigError, match="GPNER_PRECISION=int8 and GPNER_AGREE_ON must be set together, were: "):
            load_settings(**one)


def test_the_cache_is_where_the_user_keeps_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path("/home/ada/.cache/gpner")

    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/ada")
    assert cache_folder() == Path("/var/cache/ada/gpner")


def test_the_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", "redis://worker:hunter2@localhost:6379/0")
    settings = load_settings()

    shown = [repr(settings), str(settings), settings.model_dump_json(), f"{settings.redis_url}"]

    assert not any("hunter2" in text for text in shown)
    assert all("worker:***@localhost" in text for text in shown)
    assert settings.redis_url.get_secret_value() == "redis://worker:hunter2@localhost:6379/0"


def test_the_password_of_a_refused_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", "https://worker:hunter2@localhost")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert "hunter2" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="*")))
def test_no_password_survives_hiding(password: str) -> None:
    secret = f"<{password}>"

    shown = [
        hide_password(place)
        for place in (
            f"redis://user:{secret}@host:6379/0?db=1",
            f"redis://:{secret}@host",
            f"redis://{secret}@host",
            f"unix://user:{secret}@/run/redis",
            f"redis+sentinel://user:{secret}@a:1,b/gpner/0",
            f"redis+sentinel://user:{secret}@a:1",
            f"redis://host:6379/0?password={secret}",
            f"redis://user:{secret}",
            f"user:{secret}@host:6379",
            secret,
        )
    ]

    assert not any(secret in text for text in shown)


def test_what_is_no_secret_is_shown() -> None:
    for url in (
        "redis://localhost",
        "redis://[::1]:6379/0",
        "unix:///run/redis?db=1",
        "redis+sentinel://a:26379,b/gpner/0",
        "rediss://h:1/2?ssl_ca_certs=/ca",
    ):
        assert hide_password(url) == url
    assert hide_password("unix:///run/redis?password=a&db=1") == "unix:///run/redis?***&db=1"
    assert (
        hide_password("rediss://ada:x@h/0?ssl_ca_certs=/ca&ssl_password=x")
        == "rediss://ada:***@h/0?ssl_ca_certs=/ca&***"
    )


@pytest.mark.parametrize("character", [*"/?# [\\\n;&%:@", "%2F"])
def test_a_password_whose_special_characters_are_not_encoded_is_never_shown(character: str) -> None:
    secret = f"hunt3r{character}hunt3r"
    for url in (f"redis://ada:{secret}@127.0.0.1:1/0", f"redis://:{secret}@h", f"ada:{secret}@h"):
        try:
            shown = repr(load_settings(redis_url=url))
        except ConfigError as error:
            shown = str(error)

        assert "hunt3r" not in shown
        assert "\n" not in shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "redis://ada:pass/word@h:6379/0",
            r"must have the form redis://.* percent-encoded .*was: 'redis://ada:\*\*\*@h:6379/0'",
        ),
        ("redis://h:port/0", "must have the form"),
        ("redis://h:99999/0", "must have the form"),
        ("redis://h:0/0", "must have the form"),
        ("redis://h:6379/zero", "must have the form"),
        ("redis://h:6379/0#x", "must have the form"),
        ("redis://[::1/0", "must have the form"),
        ("redis://h:6379/0?timeout", "must have the form"),
        ("redis://a:1,b:1/gpner/0", "must have the form"),
        ("redis+sentinel://a:1", "must have the form"),
        ("redis+sentinel://a:1,/gpner", "must have the form"),
        ("redis+sentinel://a:1/gpner/zero", "must have the form"),
        ("redis+sentinel://a:1/gpner/0?timeout=1", "must have the form"),
        (" redis://h:6379/0", "must begin with redis://"),
        ("redis://h:6379/0 ", "must have the form"),
        ("rediss://h/0?ssl_password=x", r"must not hold ssl_password.*was: 'rediss://h/0\?\*\*\*'"),
    ],
)
def test_an_address_that_could_be_read_in_two_ways_is_refused(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(redis_url=url)


def test_an_address_in_the_wrong_variable_is_hidden_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_NAMESPACE", "redis://ada:hunter2@h/0")

    with pytest.raises(ConfigError, match="GPNER_NAMESPACE") as caught:
        load_settings()

    assert "hunter2" not in str(caught.value)


def test_there_are_at_most_25_settings_and_each_has_a_manual_entry() -> None:
    fields = Settings.model_fields

    assert issubclass(Settings, BaseSettings)
    assert len(fields) <= 25
    assert all(len(field.description or "") > 40 for field in fields.values())
