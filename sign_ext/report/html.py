"""What the HTML pages share: the Jinja environment, and images as data URIs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from sign_ext.formatting import duration, percent

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> Environment:
    """Return a Jinja environment for this package's templates.

    Values are escaped, and an undefined name is an error.

    Example:
        >>> environment().from_string("{{ 75 | duration }}, {{ x }}").render(x="<b>")
        '75 s, &lt;b&gt;'
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=PackageLoader("sign_ext", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {"percent": percent, "duration": duration}
    return jinja


def data_uri(content: bytes, kind: str) -> str:
    """Return a data: URI of an image, kind "png" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
