"""Options as dataclasses: a field is an option, with its help text and type in the metadata.

Only the standard library and jsonargparse are imported here, so that `--help` stays quick.
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any, Literal

from jsonargparse import ActionConfigFile, ArgumentParser
from jsonargparse.typing import NonNegativeInt

from sign_ext.settings import OPTIONS


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    type: Any = str,
    nargs: str | int | None = None,
    metavar: str | tuple[str, ...] | None = None,
    positional: bool = False,
) -> Any:
    """Declare one command-line option as a dataclass field.

    Args:
        default: The value when the option is not given; without it the option is required.
        help: One sentence for `--help`.
        type: What a value (each value, with `nargs`) is checked against and converted to; `bool`
            makes the option a switch.
        nargs: As in argparse.
        metavar: The value's name in the help.
        positional: The value has no `--name` before it.

    Returns:
        A `dataclasses.field` that `add_options` reads.

    Example:
        >>> class Options:
        ...     steps: int = option(50, type=int, help="How often δ is added.")
    """
    spec = {"help": help, "type": type, "nargs": nargs, "metavar": metavar}
    metadata = {"option": spec, "positional": positional}
    return dataclasses.field(default=default, metadata=metadata)


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options that every command takes."""

    data_root: str | None = option(
        None, help="Folder that holds the data set's files (digits needs none).", metavar="DIR"
    )
    device: str = option("auto", help="auto, cpu, cuda or cuda:INDEX; auto is cuda if there.")
    seed: int = option(
        0, type=NonNegativeInt, help="Seed of splits, initial weights, batch order and noise."
    )
    json: bool = option(
        False, type=bool, help="Print the result as JSON on stdout; messages go to stderr."
    )
    debug: bool = option(
        False, type=bool, help="Show the traceback of an error (so does SIGN_EXT_DEBUG=1)."
    )


def add_options(parser: ArgumentParser, options: type[CommonOptions]) -> None:
    """Add one `--option` per field of `options`, and `--config FILE.yaml` with the same names.

    Args:
        parser: The command's parser.
        options: A dataclass whose fields are made by `option`.
    """
    parser.add_argument(
        "--config",
        action=ActionConfigFile,
        metavar="FILE.yaml",
        help="YAML file with the names of the options below; options after it win.",
    )
    own: list[dataclasses.Field[Any]] = []
    common: list[dataclasses.Field[Any]] = []
    inherited = {field.name for field in dataclasses.fields(CommonOptions)}
    for field in dataclasses.fields(options):
        (common if field.name in inherited else own).append(field)
    for field in own + common:
        _add(parser, field)


def _add(parser: ArgumentParser, field: dataclasses.Field[Any]) -> None:
    spec = field.metadata["option"]
    flag = "--" + field.name.replace("_", "-")
    if spec["type"] is bool:
        parser.add_argument(flag, action="store_true", default=field.default, help=spec["help"])
        return
    settings = {key: value for key, value in spec.items() if value is not None}
    if field.metadata["positional"]:
        parser.add_argument(field.name, **settings)
        return
    if field.default is dataclasses.MISSING:
        settings["required"] = True
    else:
        default = field.default
        settings["default"] = list(default) if isinstance(default, tuple) else default
    parser.add_argument(flag, **settings)


def from_namespace(options: type[Any], values: Any) -> Any:
    """Build the options dataclass from parsed values; lists become tuples."""
    parsed = {field.name: values[field.name] for field in dataclasses.fields(options)}
    return options(**{name: tuple(v) if isinstance(v, list) else v for name, v in parsed.items()})


def command_line(command: str, options: CommonOptions) -> str:
    """Return the shell line that gives these options, without those at their default.

    Example:
        >>> command_line("info", CommonOptions(seed=3, json=True))
        'sign-ext info --seed 3 --json'
    """
    parts = ["sign-ext", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value == field.default:
            continue
        if not field.metadata["positional"]:
            parts.append("--" + field.name.replace("_", "-"))
        if value is not True:
            parts += [str(v) for v in value] if isinstance(value, tuple) else [str(value)]
    return shlex.join(parts)
