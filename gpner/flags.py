"""Command-line flags from a dataclass of options, so that an option, its default and its help stand in one place.

No torch here, so that `--help` answers at once.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import MISSING, Field, field, fields
from math import inf
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from gpner.errors import ConfigError

Options = TypeVar("Options")

# Every library takes whole numbers below this, and the product of two.
LIMIT = 2**31
# numpy takes no larger seeds.
SEED_LIMIT = 2**32
# What stands for a value in the help, by its type.
PLACEHOLDERS = {int: "N", float: "X", str: "NAME", Path: "PATH"}


def flag(help_text: str, default: Any = MISSING, choices: tuple[str, ...] | None = None, group: str = "") -> Any:
    """Declare an option; without a default it is a required one, and False as default makes it a switch.

    Args:
        help_text: What it does, when to change it, its unit.
        default: Its value where the flag is not given.
        choices: The only values that it may have.
        group: Heading under which the help lists it; its flags need not be declared one after another.
    """
    metadata = {"help": help_text, "choices": choices, "group": group}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def add_flags(parser: ArgumentParser, options: type) -> None:
    """Give a parser one flag for each option of a dataclass: `--head-size` for `head_size`."""
    types = get_type_hints(options)
    groups: dict[str, Any] = {"": parser}
    for option in fields(options):
        heading = option.metadata["group"]
        if heading not in groups:
            groups[heading] = parser.add_argument_group(heading)
        kind = next(kind for kind in (*get_args(types[option.name]), types[option.name]) if kind is not type(None))
        groups[heading].add_argument("--" + option.name.replace("_", "-"), **_settings(option, kind))


def _settings(option: Field[Any], kind: type) -> dict[str, Any]:
    # argparse prints every default, and what a switch or an unlimited option does without its flag its help text says.
    unspoken = option.default is MISSING or option.default is None or option.default is False
    settings = {"help": option.metadata["help"], "default": SUPPRESS if unspoken else option.default}
    if kind is bool:
        return {**settings, "action": "store_true"}
    choices = option.metadata["choices"]
    return {
        **settings,
        "type": kind,
        "required": option.default is MISSING,
        "choices": choices,
        "metavar": None if choices else PLACEHOLDERS[kind],
    }


def check_positive(options: object, *names: str) -> None:
    """Compare options with 0, and with what is too much.

    Raises:
        ConfigError: If one of those named is not above 0, is infinite, or a whole number of `LIMIT` or more.
    """
    for name in names:
        if not getattr(options, name) > 0:
            raise ConfigError(f"{name} must be above 0, was: {getattr(options, name)}")
        _check_below(LIMIT, options, name)


def check_not_negative(options: object, *names: str) -> None:
    """Compare options that may be 0 with 0, and with what is too much.

    Raises:
        ConfigError: If one of those named is below 0, is infinite, or a whole number of `SEED_LIMIT` or more.
    """
    for name in names:
        if not getattr(options, name) >= 0:
            raise ConfigError(f"{name} must be at least 0, was: {getattr(options, name)}")
        _check_below(SEED_LIMIT, options, name)


def _check_below(limit: int, options: object, name: str) -> None:
    value = getattr(options, name)
    if value == inf:
        raise ConfigError(f"{name} must be finite, was: {value}")
    if isinstance(value, int) and value >= limit:
        raise ConfigError(f"{name} must be below {limit:,}, was: {value}")


def read_flags(namespace: Namespace, options: type[Options]) -> Options:
    """Make the options from what the parser read.

    Raises:
        ConfigError: If one is out of its range.
    """
    given = vars(namespace)
    names = [option.name for option in fields(options)]  # type: ignore[arg-type]  # mypy has no type of any dataclass
    return options(**{name: given[name] for name in names if name in given})
