"""From the words of a command line, or a YAML file, to a command's options.

argparse splits the words. Values are read here, so that errors and help say in words what is
accepted, and are the same for a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args

from sign_ext.commands.console import UsageError
from sign_ext.commands.help_text import format_help
from sign_ext.commands.options import (
    Command,
    OutputOptions,
    Spec,
    flag_of,
    placeholders_of,
    spec_of,
)
from sign_ext.commands.value_types import (
    alternatives,
    convert,
    is_literal,
    is_mapping,
    plain_value,
    words_of,
)
from sign_ext.formatting import closest, counted, did_you_mean, listed


def parse(name: str, command: Command, words: Sequence[str]) -> OutputOptions | None:
    """Read a command's options from the command line.

    Args:
        name: of the command.
        command: its module.
        words: what follows the command's name.

    Returns:
        An instance of the module's `Options`, or None if help or a configuration was printed.

    Raises:
        UsageError: an unknown option, a value that is not accepted, or a missing one.
    """
    if {"-h", "--help"} & set(words):
        print(format_help(name, command))
        return None
    fields = {field.name: field for field in dataclasses.fields(command.Options)}
    parser = _build(name, fields.values(), words)
    try:
        found, extra = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UsageError(_malformed(fields, error)) from error
    if extra:
        raise UsageError(_unexpected(name, fields.values(), extra))
    given = vars(found)
    if given.pop("print_config", False):
        print(_as_yaml(fields.values(), given), end="")
        return None
    missing = [
        flag_of(field)
        for field in fields.values()
        if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        raise UsageError(f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} required")
    return command.Options(**given)


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


class _Parser(argparse.ArgumentParser):
    """Splits words into options and values, and raises errors."""

    def __init__(self, name: str) -> None:
        super().__init__(
            prog=f"sign-ext {name}",
            add_help=False,
            allow_abbrev=False,
            exit_on_error=False,
            argument_default=argparse.SUPPRESS,
        )
        # What begins with "-" and is a value all the same; argparse's own lacks -1e-3 and -inf.
        self._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|^-inf$", re.I)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(message)


def _build(name: str, fields: Iterable[dataclasses.Field[Any]], words: Sequence[str]) -> _Parser:
    parser = _Parser(name)
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--config", action=_Config, fields={f.name: f for f in fields})
    for field in fields:
        spec, flag = spec_of(field), flag_of(field)
        more: dict[str, Any] = {"action": _Store, "field": field}
        if spec.positional:  # that it is required is checked afterwards
            parser.add_argument(field.name, nargs="*" if spec.nargs else "?", **more)
        elif spec.type is bool:
            parser.add_argument(flag, nargs=0, **more)
        elif is_mapping(spec.type):
            parser.add_argument(flag, **more)
            for each in sorted({word.partition("=")[0] for word in words}):
                if each.startswith(f"{flag}."):
                    parser.add_argument(each, dest=field.name, key=each.partition(".")[2], **more)
        else:
            parser.add_argument(flag, dest=field.name, nargs=spec.nargs, **more)
    return parser


class _Store(argparse.Action):
    """Reads an option's values and keeps them."""

    def __init__(
        self, *, field: dataclasses.Field[Any], key: str | None = None, **settings: Any
    ) -> None:
        super().__init__(**{**settings, "default": argparse.SUPPRESS})
        self.field, self.key = field, key

    def __call__(
        self, _: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        spec = spec_of(self.field)
        if self.key is not None:
            known = getattr(namespace, self.dest, None) or {}
            setattr(namespace, self.dest, {**known, self.key: plain_value(values)})
        elif spec.type is bool:
            setattr(namespace, self.dest, True)
        elif values not in (None, []):
            setattr(namespace, self.dest, _read(spec, values, option_string or flag_of(self.field)))


class _Config(argparse.Action):
    """Reads a YAML file with the names of options."""

    def __init__(self, *, fields: Mapping[str, dataclasses.Field[Any]], **settings: Any) -> None:
        super().__init__(**{**settings, "dest": argparse.SUPPRESS})
        self.fields = fields

    def __call__(
        self, _: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None
    ) -> None:
        for key, value in _read_yaml(values).items():
            name = str(key).replace("-", "_")
            if name not in self.fields:
                accepted = [each.replace("_", "-") for each in self.fields]
                hint = did_you_mean(str(key), accepted)
                raise UsageError(f"--config {values}: {str(key)!r} is not an option{hint}")
            if value is not None:  # null stands for the default
                spec = spec_of(self.fields[name])
                setattr(namespace, name, _read(spec, value, f"--config {values}: {key}"))


def _read_yaml(path: str) -> dict[Any, Any]:
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not YAML: {error}") from error
    if not isinstance(found, dict | None):
        raise UsageError(f"--config {path} holds no options; accepted: lines such as `seed: 3`")
    return found or {}


def _as_yaml(fields: Iterable[dataclasses.Field[Any]], given: Mapping[str, Any]) -> str:
    """Return the options as YAML that --config reads."""
    import yaml

    values = {}
    for field in fields:
        default = None if field.default is dataclasses.MISSING else field.default
        value = given.get(field.name, default)
        values[field.name.replace("_", "-")] = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text


def _read(spec: Spec, values: Any, source: str) -> Any:
    """Check the value or values of an option, from the command line or a file, and convert them.

    Args:
        spec: what the option accepts.
        values: text, or in a file what YAML made of it; a list with `nargs`.
        source: the option, for errors.
    """
    if spec.nargs is None:
        return _read_one(spec.type, values, source)
    if not isinstance(values, list):
        raise UsageError(f"{source} is {values!r}; accepted: a list")
    if not values or spec.nargs not in ("+", len(values)):
        raise UsageError(
            f"{source} has {counted(len(values), 'value')}; it takes {_how_many(spec)}"
        )
    return tuple(_read_one(spec.type, value, source) for value in values)


def _read_one(kind: Any, value: Any, source: str) -> Any:
    for each in alternatives(kind):
        try:
            return convert(each, value)
        except ValueError:
            continue
    names = [str(a) for each in alternatives(kind) if is_literal(each) for a in get_args(each)]
    hint = did_you_mean(str(value), names) or ";"
    raise UsageError(f"{source} is {value!r}{hint} accepted: {words_of(kind)}")


def _malformed(fields: Mapping[str, dataclasses.Field[Any]], error: argparse.ArgumentError) -> str:
    """Say what is wrong with the number of an option's values."""
    flag = error.argument_name or ""
    field = next((each for each in fields.values() if flag_of(each) == flag), None)
    if field is None:
        return f"{flag} needs a value" if flag.startswith("--") else str(error)
    spec = spec_of(field)
    if spec.type is bool:
        return f"{flag} takes no value"
    return f"{flag} needs {_how_many(spec)}: {' '.join(placeholders_of(field))}"


def _unexpected(name: str, fields: Iterable[dataclasses.Field[Any]], extra: Sequence[str]) -> str:
    """Say what is wrong with words that are no option and no value of one."""
    word = next((each for each in extra if each.startswith("-")), None)
    if word is None:
        return f"{extra[0]!r} is one word too many: it belongs to no option"
    flag = word.partition("=")[0]
    flags = [flag_of(field) for field in fields if not spec_of(field).positional]
    # Without the dashes, which would make all options alike.
    close = closest(flag.strip("-"), [each.lstrip("-") for each in [*flags, "--config", "--help"]])
    hint = "" if close is None else f", did you mean --{close}?"
    return f"{flag} is not an option of `sign-ext {name}`{hint}"


def _how_many(spec: Spec) -> str:
    if spec.nargs is None:
        return "a value"
    return "one or more values" if spec.nargs == "+" else f"{spec.nargs} values"
