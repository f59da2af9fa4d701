"""Tables as Markdown, and documents whose tables are made again by the commands they show."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Callable, Sequence

END = "<!-- end of what is generated -->"
# A console block with one command, perhaps the table that it printed, and the end's mark.
_GENERATED = re.compile(
    r"(```console\n\$ python benchmarks/simulate_cluster\.py "
    r"(?P<words>(?:[^`\n\\]|\\\n)+)\n```\n\n)"
    rf"(?:(?:\|.*\n)+\n)?{re.escape(END)}\n"
)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first as its head; columns of numbers to the right.

    >>> print(markdown([["a", "b", "c"], ["1", "2 s", "x"]]))
    | a | b | c |
    |---|---:|---|
    | 1 | 2 s | x |
    """
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    _, *others = zip(*rows[1:], strict=True)
    numbers = [all(cell[:1].isdigit() for cell in column if cell) for column in others]
    rule = "|---|" + "".join("---:|" if each else "---|" for each in numbers)
    return "\n".join([lines[0], rule, *lines[1:]])


def refresh_tables(text: str, run: Callable[[Sequence[str]], None]) -> str:
    """Make the table below each command of a document anew.

    Args:
        text: the document.
        run: prints what the words of a command line ask for.
    """

    def rerun(match: re.Match[str]) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            run(shlex.split(match["words"].replace("\\\n", " ")))
        return f"{match[1]}{output.getvalue()}\n{END}\n"

    return _GENERATED.sub(rerun, text)
