"""The help text of a command, laid out in two columns, as wide as the terminal."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from sign_ext.commands.options import Command, OutputOptions, flag_of, placeholders_of, spec_of
from sign_ext.commands.value_types import Number, alternatives, as_number, is_mapping, words_of

WIDEST = 100  # columns of the help; text of longer lines is hard to read
HELP_COLUMN = 24  # where an option's help begins


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
    if is_mapping(spec.type):
        return f"{flag_of(field)}.NAME VALUE"
    names = placeholders_of(field)
    return " ".join(names if spec.positional else [flag_of(field), *names])


def _explain(field: dataclasses.Field[Any]) -> str:
    """Return an option's help with the numbers that it accepts and its default."""
    spec = spec_of(field)
    text, default_is, own_default = spec.help.partition(" Default:")
    if any(isinstance(as_number(each), Number) for each in alternatives(spec.type)):
        words = words_of(spec.type)
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
