"""How the help looks: what is said of an option, and paragraphs as wide as the terminal."""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import textwrap
from typing import Any, get_origin

from sign_ext.commands.options import flag_of, placeholders_of, spec_of
from sign_ext.commands.value_types import Number, alternatives, words_of

WIDEST = 100  # columns of the help; text of longer lines is hard to read


class HelpFormatter(argparse.HelpFormatter):
    """Lays out the help of a command, where an action is shown as its `metavar` says."""

    def __init__(self, prog: str, column: int = 24) -> None:
        """Lay out text from `column` on, as wide as the terminal."""
        width = min(shutil.get_terminal_size().columns, WIDEST)
        super().__init__(prog, max_help_position=column, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return str(action.metavar or super()._format_action_invocation(action))

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        needed = [str(each.metavar).replace(" ", "\0") for each in actions if each.required]
        line = " ".join(["usage:", self._prog, *needed, "[options]"])
        rows = textwrap.wrap(line, self._width, subsequent_indent=" " * 7, break_on_hyphens=False)
        return "\n".join(rows).replace("\0", " ") + "\n\n"  # an option stays with its value

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fill paragraphs, except those with indented lines or lists of options."""
        return "\n\n".join(
            paragraph
            if re.search(r"^( |--)", paragraph, re.MULTILINE)
            else "\n".join(self._split_lines(paragraph, width))
            for paragraph in text.strip().split("\n\n")
        )


def shown(field: dataclasses.Field[Any]) -> str:
    """Return an option with its values as it is typed."""
    spec = spec_of(field)
    if get_origin(spec.type) is dict:
        return f"{flag_of(field)}.NAME VALUE"
    names = placeholders_of(field)
    return " ".join(names if spec.positional else [flag_of(field), *names])


def explain(field: dataclasses.Field[Any]) -> str:
    """Return an option's help with the numbers that it accepts and its default."""
    spec = spec_of(field)
    text, default_is, own_default = spec.help.partition(" Default:")
    if any(isinstance(each, Number) for each in alternatives(spec.type)):
        words = words_of(spec.type) if spec.nargs is None else f"each {words_of(spec.type)}"
        text += f" {words[0].upper()}{words[1:]}."
    if default_is:
        text += f"{default_is}{own_default}"
    elif spec.type is not bool and field.default not in (dataclasses.MISSING, None):
        values = field.default if isinstance(field.default, tuple) else (field.default,)
        names = (f"{each:g}" if isinstance(each, float) else str(each) for each in values)
        text += f" Default: {' '.join(names)}."
    return text.replace("%", "%%")
