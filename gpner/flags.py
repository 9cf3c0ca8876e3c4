"""Command-line flags from a dataclass of options, so that an option, its default and its help stand in one place.

No torch here, so that `--help` answers at once.
"""

from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar, get_args, get_type_hints

Options = TypeVar("Options")


def flag(help_text: str, default: Any = MISSING, choices: tuple[str, ...] | None = None) -> Any:
    """Declare an option; without a default it is a required one."""
    metadata = {"help": help_text, "choices": choices}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def add_flags(parser: ArgumentParser, options: type) -> None:
    """Give a parser one flag for each option of a dataclass: `--head-size` for `head_size`."""
    types = get_type_hints(options)
    for option in fields(options):
        kind = next(kind for kind in (*get_args(types[option.name]), types[option.name]) if kind is not type(None))
        required = option.default is MISSING
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=kind,
            required=required,
            default=SUPPRESS if required else option.default,
            choices=option.metadata["choices"],
            help=option.metadata["help"],
        )


def read_flags(namespace: Namespace, options: type[Options]) -> Options:
    """Make the options from what the parser read.

    Raises:
        ConfigError: If one is out of its range.
    """
    return options(**{option.name: getattr(namespace, option.name) for option in fields(options)})  # type: ignore[arg-type]
