"""The Jinja environment of both pages: their folder, their strictness and their filters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sign_ext.formatting import duration, percent

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Make an environment that finds this package's templates.

    Returns:
        What is put into a page is escaped, and a name that a page is not given is an error.

    Example:
        >>> environment().from_string("{{ 75 | duration }}, {{ x }}").render(x="<b>")
        '75 s, &lt;b&gt;'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("sign_ext", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"percent": percent, "duration": duration}
    return made
