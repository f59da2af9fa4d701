"""Options as dataclasses: a field is an option, with its help text and type in the metadata.

`parser` reads them. Only the standard library is imported here, so that `--help` is quick.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol

from sign_ext.commands.console import UsageError
from sign_ext.commands.value_types import (
    NonNegativeFloat,
    NonNegativeInt,
    Number,
    PositiveFloat,
    PositiveInt,
    alternatives,
    name_of,
)
from sign_ext.settings import OPTIONS

__all__ = [
    "Command",
    "CommonOptions",
    "NonNegativeFloat",
    "NonNegativeInt",
    "Number",
    "OutputOptions",
    "PositiveFloat",
    "PositiveInt",
    "Spec",
    "check_device_name",
    "check_values",
    "command_line",
    "data_root_option",
    "device_option",
    "flag_of",
    "option",
    "placeholders_of",
    "seed_option",
    "sign_option",
    "spec_of",
]


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    type: Any = str,
    nargs: Literal["+"] | int | None = None,
    metavar: str | tuple[str, ...] | None = None,
    positional: bool = False,
    check: Callable[[Any], object] | None = None,
) -> Any:
    """Declare one command-line option as a dataclass field.

    Args:
        default: The value when the option is not given; without it the option is required.
        help: One sentence for `--help`, to which accepted numbers and the default are added.
        type: What a value (each value, with `nargs`) is checked against and converted to: `str`,
            `int`, `float`, a `Number`, a `Literal`, `dict[str, Any]` (given as
            `--name.KEY VALUE`), or a union of these; `bool` makes the option a switch.
        nargs: How many values: "+" for one or more, a number, None for a single one.
        metavar: The value's name in the help.
        positional: The value has no `--name` before it.
        check: Called with the value, unless it is None, before the command runs; raises
            `UsageError`. It imports no torch, so that the error comes at once.

    Returns:
        A `dataclasses.field` that `parser.parse` reads.

    Example:
        >>> class Options:
        ...     steps: int = option(50, type=PositiveInt, help="How often δ is added.")
    """
    spec = Spec(help, type, nargs, metavar, positional, check)
    return dataclasses.field(default=default, metadata={"option": spec})


@dataclasses.dataclass(frozen=True)
class Spec:
    """What `option` declares, except the default."""

    help: str
    type: Any
    nargs: Literal["+"] | int | None
    metavar: str | tuple[str, ...] | None
    positional: bool
    check: Callable[[Any], object] | None


def spec_of(field: dataclasses.Field[Any]) -> Spec:
    """Return what a field made by `option` declares."""
    spec: Spec = field.metadata["option"]
    return spec


def flag_of(field: dataclasses.Field[Any]) -> str:
    """Return an option as it is typed, or the name that the help gives to a positional value."""
    spec = spec_of(field)
    if spec.positional:
        return str(spec.metavar or field.name.upper())
    return "--" + field.name.replace("_", "-")


def placeholders_of(field: dataclasses.Field[Any]) -> list[str]:
    """Return the names that the help gives to an option's values."""
    spec = spec_of(field)
    if spec.type is bool:
        return []
    if isinstance(spec.metavar, tuple):
        return list(spec.metavar)
    names = (name_of(each) for each in alternatives(spec.type))
    name = spec.metavar or "|".join(each or field.name.upper() for each in names)
    if spec.nargs == "+" and "|" not in name:  # a list of alternatives says how many each takes
        return [name, f"[{name} ...]"]
    return [name] * (spec.nargs if isinstance(spec.nargs, int) else 1)


def sign_option(name: str, **changes: Any) -> Any:
    """Declare an option of SIGN, with its default, help text and accepted values of `settings`.

    Args:
        name: The option's name in `sign_ext.settings.Settings`.
        **changes: What this command declares otherwise, arguments of `option`.
    """
    spec = OPTIONS[name]
    declared: dict[str, Any] = {"default": spec.default, "help": spec.help}
    if spec.accepted:
        declared["type"] = Literal[spec.accepted]
    return option(**{**declared, **changes})


def check_device_name(name: str) -> None:
    """Raise UsageError unless `name` has the form of a device; whether it exists is seen later."""
    kind, colon, index = name.partition(":")
    if name in ("auto", "cpu", "cuda") or (kind == "cuda" and colon and index.isdecimal()):
        return
    raise UsageError(f"--device is {name!r}; accepted: auto, cpu, cuda, cuda:INDEX")


def data_root_option() -> Any:
    """Declare --data-root."""
    return option(
        None, help="Folder that holds the data set's files (digits needs none).", metavar="DIR"
    )


def device_option() -> Any:
    """Declare --device."""
    return option(
        "auto",
        help="auto, cpu, cuda or cuda:INDEX; auto is cuda if there is a GPU that can be used.",
        check=check_device_name,
    )


def seed_option(what: str = "splits, initial weights, batch order and noise") -> Any:
    """Declare --seed.

    Args:
        what: what is drawn with it, for the help.
    """
    return option(0, type=NonNegativeInt, help=f"Seed of {what}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """The options that every command takes; --debug is read by `cli`."""

    HEADING: ClassVar[str] = "common options"

    json: bool = option(
        False, type=bool, help="Print the result as JSON on stdout; messages go to stderr."
    )
    debug: bool = option(
        False, type=bool, help="Show the traceback of an error (so does SIGN_EXT_DEBUG=1)."
    )

    def check(self) -> None:
        """Check options that depend on each other, before the command runs and imports torch.

        Raises:
            UsageError: they do not fit together.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions(OutputOptions):
    """The options of commands that use a data set."""

    HEADING: ClassVar[str] = OutputOptions.HEADING

    data_root: str | None = data_root_option()
    device: str = device_option()
    seed: int = seed_option()


def check_values(options: OutputOptions) -> None:
    """Call the checks that options declare, of each one and of all together.

    Raises:
        UsageError: a value is not accepted.
    """
    for field in dataclasses.fields(options):
        check, value = spec_of(field).check, getattr(options, field.name)
        if check is not None and value is not None:
            check(value)
    options.check()


class Command(Protocol):
    """A module of this package that is a command."""

    Options: type[OutputOptions]
    EXAMPLES: tuple[str, ...]


def command_line(command: str, options: OutputOptions) -> str:
    """Return the shell line that gives these options, without those at their default.

    Example:
        >>> command_line("info", CommonOptions(seed=3, json=True))
        'sign-ext info --json --seed 3'
    """
    parts = ["sign-ext", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        flag = flag_of(field)
        if isinstance(value, Mapping):
            for key, each in value.items():
                parts += [f"{flag}.{key}", each if isinstance(each, str) else json.dumps(each)]
            continue
        if not spec_of(field).positional:
            parts.append(flag)
        if value is not True:
            parts += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    return shlex.join(parts)
