"""From the words of a command line, or a YAML file, to a command's options; and its help text.

argparse splits the words. Values are read here, so that errors and help say in words what is
accepted, and are the same for a file.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil
import textwrap
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, Union, get_args, get_origin

from sign_ext.commands.console import UsageError
from sign_ext.commands.options import Number, OutputOptions, Spec, spec_of
from sign_ext.formatting import closest, did_you_mean

WIDEST = 100  # columns of the help; text of longer lines is hard to read
HELP_COLUMN = 24  # where an option's help begins


class Command(Protocol):
    """A module of this package that is a command."""

    Options: type[OutputOptions]
    EXAMPLES: tuple[str, ...]


# Python's own types of numbers, as numbers without bounds.
_NUMBERS = {int: Number(whole=True), float: Number()}


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
        _flag(field)
        for field in fields.values()
        if field.default is dataclasses.MISSING and field.name not in given
    ]
    if missing:
        raise UsageError(f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} required")
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
        spec, flag = spec_of(field), _flag(field)
        more: dict[str, Any] = {"action": _Store, "field": field}
        if spec.positional:  # that it is required is checked afterwards
            parser.add_argument(field.name, nargs="*" if spec.nargs else "?", **more)
        elif spec.type is bool:
            parser.add_argument(flag, nargs=0, **more)
        elif _is_mapping(spec.type):
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
            setattr(namespace, self.dest, {**known, self.key: _plain(values)})
        elif spec.type is bool:
            setattr(namespace, self.dest, True)
        elif values not in (None, []):
            setattr(namespace, self.dest, _read(spec, values, option_string or _flag(self.field)))


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
        raise UsageError(f"{source} has {len(values)} values; it takes {_how_many(spec)}")
    return tuple(_read_one(spec.type, value, source) for value in values)


def _read_one(kind: Any, value: Any, source: str) -> Any:
    for each in _alternatives(kind):
        try:
            return _convert(each, value)
        except ValueError:
            continue
    names = [str(a) for each in _alternatives(kind) if _is_literal(each) for a in get_args(each)]
    hint = did_you_mean(str(value), names) or ";"
    raise UsageError(f"{source} is {value!r}{hint} accepted: {_words(kind)}")


def _convert(kind: Any, value: Any) -> Any:
    """Convert a value to one type that is no union, or raise ValueError."""
    kind = _NUMBERS.get(kind, kind)
    if isinstance(kind, Number):
        return kind.read(value)
    if _is_literal(kind):
        accepted = {str(each): each for each in get_args(kind)}
        if isinstance(value, bool) or str(value) not in accepted:
            raise ValueError
        return accepted[str(value)]
    if _is_mapping(kind):
        found = _plain(value) if isinstance(value, str) else value
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise ValueError
        return found
    if kind not in (bool, str):
        raise TypeError(f"an option cannot be of the type {kind!r}")
    if not isinstance(value, kind):
        raise ValueError
    return value


def _plain(text: str) -> Any:
    """Return a number, a truth value, a list or a mapping where a text is one, or the text."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _words(kind: Any) -> str:
    """Say what is accepted."""
    return " or ".join(_words_of_one(each) for each in _alternatives(kind))


def _words_of_one(kind: Any) -> str:
    kind = _NUMBERS.get(kind, kind)
    if isinstance(kind, Number):
        return kind.words
    if _is_literal(kind):
        return ", ".join(str(each) for each in get_args(kind))
    if kind is bool:
        return "true or false"
    return "text" if kind is str else "{NAME: VALUE, …}"


def _alternatives(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(each for each in get_args(kind) if each is not type(None))
    return (kind,)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_mapping(kind: Any) -> bool:
    return isinstance(origin := get_origin(kind) or kind, type) and issubclass(origin, Mapping)


def _malformed(fields: Mapping[str, dataclasses.Field[Any]], error: argparse.ArgumentError) -> str:
    """Say what is wrong with the number of an option's values."""
    flag = error.argument_name or ""
    field = next((each for each in fields.values() if _flag(each) == flag), None)
    if field is None:
        return f"{flag} needs a value" if flag.startswith("--") else str(error)
    spec = spec_of(field)
    if spec.type is bool:
        return f"{flag} takes no value"
    return f"{flag} needs {_how_many(spec)}: {' '.join(_placeholders(field))}"


def _unexpected(name: str, fields: Iterable[dataclasses.Field[Any]], extra: Sequence[str]) -> str:
    """Say what is wrong with words that are no option and no value of one."""
    word = next((each for each in extra if each.startswith("-")), None)
    if word is None:
        return f"{extra[0]!r} is one word too many: it belongs to no option"
    flag = word.partition("=")[0]
    flags = [_flag(field) for field in fields if not spec_of(field).positional]
    # Without the dashes, which would make all options alike.
    close = closest(flag.strip("-"), [each.lstrip("-") for each in [*flags, "--config", "--help"]])
    hint = "" if close is None else f", did you mean --{close}?"
    return f"{flag} is not an option of `sign-ext {name}`{hint}"


def _how_many(spec: Spec) -> str:
    if spec.nargs is None:
        return "a value"
    return "one or more values" if spec.nargs == "+" else f"{spec.nargs} values"


def _listed(names: Sequence[str]) -> str:
    """Join names as in a sentence."""
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]


def _flag(field: dataclasses.Field[Any]) -> str:
    spec = spec_of(field)
    if spec.positional:
        return str(spec.metavar or field.name.upper())
    return "--" + field.name.replace("_", "-")


def _placeholders(field: dataclasses.Field[Any]) -> list[str]:
    """Return the names of an option's values in the help."""
    spec = spec_of(field)
    if spec.type is bool:
        return []
    if isinstance(spec.metavar, tuple):
        return list(spec.metavar)
    names = (_name_of(each) for each in _alternatives(spec.type))
    name = spec.metavar or "|".join(each or field.name.upper() for each in names)
    if spec.nargs == "+" and "|" not in name:  # a list of alternatives says how many each takes
        return [name, f"[{name} ...]"]
    return [name] * (spec.nargs if isinstance(spec.nargs, int) else 1)


def _name_of(kind: Any) -> str:
    """Return the name of a value of a type in the help; "" for text."""
    kind = _NUMBERS.get(kind, kind)
    if _is_literal(kind):
        names = [str(each) for each in get_args(kind)]
        return names[0] if len(names) == 1 else "{" + ",".join(names) + "}"
    return ("N" if kind.whole else "X") if isinstance(kind, Number) else ""


def format_help(name: str, command: Command) -> str:
    """Return the help text of a command, as wide as the terminal.

    Args:
        name: of the command.
        command: its module.
    """
    width = min(shutil.get_terminal_size().columns, WIDEST)
    fields = dataclasses.fields(command.Options)
    needed = [field for field in fields if field.default is dataclasses.MISSING]
    positional = [field for field in needed if spec_of(field).positional]
    parts = [_usage(name, needed, width), _reflow(command.__doc__ or "", width)]
    sections = {"arguments": positional, "required": [f for f in needed if f not in positional]}
    for heading, own in _by_heading(command.Options).items():
        sections[heading] = [field for field in own if field not in needed]
    for heading, own in sections.items():
        entries = [(_left(field), _explain(field)) for field in own]
        if heading == "common options":
            entries = [*_CONFIG_ENTRIES, *entries, ("-h, --help", "Show this text.")]
        if entries:
            lines = [format_entry(left, text, width) for left, text in entries]
            parts.append("\n".join([f"{heading}:", *lines]))
    parts.append("\n".join(["examples:", *_examples(command.EXAMPLES, width)]))
    return "\n\n".join(parts)


_CONFIG_ENTRIES = (
    ("--config FILE.yaml", "Read options from a YAML file, by their names; options after it win."),
    ("--print-config", "Print the options as such a file, and stop."),
)


def _by_heading(options: type[OutputOptions]) -> dict[str, list[dataclasses.Field[Any]]]:
    """Divide fields among the headings of the classes that declare them."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    found: dict[str, list[dataclasses.Field[Any]]] = {"options": []}
    last: dict[str, list[dataclasses.Field[Any]]] = {}
    for owner in options.__mro__:
        heading = owner.__dict__.get("HEADING", "options")
        into = last if heading == "common options" else found
        own = [name for name in inspect.get_annotations(owner) if name in fields]
        into.setdefault(heading, []).extend(fields.pop(name) for name in own)
    return {**found, **last}


def _left(field: dataclasses.Field[Any]) -> str:
    spec = spec_of(field)
    if _is_mapping(spec.type):
        return f"{_flag(field)}.NAME VALUE"
    names = _placeholders(field)
    return " ".join(names if spec.positional else [_flag(field), *names])


def _explain(field: dataclasses.Field[Any]) -> str:
    """Return an option's help with the numbers that it accepts and its default."""
    spec = spec_of(field)
    text, default_is, own_default = spec.help.partition(" Default:")
    if any(isinstance(_NUMBERS.get(each, each), Number) for each in _alternatives(spec.type)):
        words = _words(spec.type)
        if spec.nargs is not None:
            words = f"each {words}"
        text += f" {words[0].upper()}{words[1:]}."
    if default_is:
        return f"{text}{default_is}{own_default}"
    if spec.type is not bool and field.default not in (dataclasses.MISSING, None):
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        shown = " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in values)
        text += f" Default: {shown}."
    return text


def format_entry(left: str, text: str, width: int, column: int = HELP_COLUMN) -> str:
    """Lay out a name and what it means in two columns.

    Args:
        left: the name; a long one gets a line of its own.
        text: what it means.
        width: of a line, in columns.
        column: where the text begins.

    Example:
        >>> print(format_entry("--seed N", "Seed of the noise.", 80, column=14))
          --seed N    Seed of the noise.
    """
    indent = " " * column
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    if len(left) + 4 > column:
        return "\n".join([f"  {left}", *lines])
    return "\n".join([f"  {left}".ljust(column) + lines[0][column:], *lines[1:]])


def _usage(name: str, needed: Iterable[dataclasses.Field[Any]], width: int) -> str:
    # An option stays on a line with its value.
    parts = [_left(field).replace(" ", "\0") for field in needed]
    line = " ".join([f"usage: sign-ext {name}", *parts, "[options]"])
    wrapped = textwrap.wrap(line, width, subsequent_indent=" " * 7, break_on_hyphens=False)
    return "\n".join(wrapped).replace("\0", " ")


def _reflow(text: str, width: int) -> str:
    """Fill paragraphs to a width, except those with indented lines or lists of options."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        if not any(line.startswith((" ", "--")) for line in lines):
            lines = textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _examples(lines: Sequence[str], width: int) -> list[str]:
    """Break long examples as a shell accepts it: with a backslash, before an option."""
    shown = []
    for example in "\n".join(lines).replace("\\\n", " ").splitlines():
        rows = [""]
        for part in re.split(r"\s+(?=--|>)", example.strip()):
            if rows[-1] and len(rows[-1]) + len(part) + 7 > width:
                rows.append("  ")
            rows[-1] += ("" if not rows[-1].strip() else " ") + " ".join(part.split())
        shown += [f"  {row} \\" for row in rows[:-1]] + [f"  {rows[-1]}"]
    return shown
