"""The names of networks: sign_ext's own, other libraries', and functions of the user's.

Imports no torch, so that a command can refuse a wrong name at once.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

Kind = Literal["sign_ext", "timm", "torchvision", "hf", "function", "file"]

MODEL_NAMES: tuple[str, ...] = (
    "basic_cnn",
    "mobilenet_v2",
    "inception_resnet_v2",
    "nasnet_mobile",
)
LIBRARIES = ("timm", "torchvision", "hf")
ACCEPTED = (
    f"{', '.join(MODEL_NAMES)}, timm:NAME, torchvision:NAME, hf:FOLDER (of transformers), "
    "MODULE:FUNCTION or FILE.py:FUNCTION"
)
# What people write for the prefixes.
_OTHER_PREFIXES = {
    "huggingface": "hf",
    "hugging_face": "hf",
    "transformers": "hf",
    "tv": "torchvision",
}


@dataclass(frozen=True)
class NetworkName:
    """Where a network comes from.

    Attributes:
        kind: "sign_ext", "timm", "torchvision" or "hf" (transformers); "function" for
            MODULE:FUNCTION, "file" for FILE.py:FUNCTION.
        name: what follows the prefix, or all of it where there is none.

    Example:
        >>> NetworkName("timm", "resnet18").is_code, str(NetworkName("timm", "resnet18"))
        (False, 'timm:resnet18')
    """

    kind: Kind
    name: str

    def __str__(self) -> str:
        """The text that `parse_network_name` reads."""
        return f"{self.kind}:{self.name}" if self.kind in LIBRARIES else self.name

    @property
    def is_code(self) -> bool:
        """Whether building the network runs code that the name points to."""
        return self.kind in ("function", "file")

    @property
    def place(self) -> str:
        """The module, or the file, of a function."""
        return self.name.rpartition(":")[0]

    @property
    def function(self) -> str:
        """The function in it, perhaps with dots."""
        return self.name.rpartition(":")[2]


def parse_network_name(text: str) -> NetworkName:
    """Read the name of a network; nothing is imported or opened.

    Args:
        text: a name of `MODEL_NAMES`, ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``,
            ``MODULE:FUNCTION`` or ``FILE.py:FUNCTION``.

    Returns:
        Its kind and what it names. Whether timm has such a network, or a module such a function,
        is found out where it is built.

    Raises:
        ValueError: it has none of these forms; the message suggests the closest.

    Example:
        >>> parse_network_name("nets/small.py:make")
        NetworkName(kind='file', name='nets/small.py:make')
    """
    prefix, colon, rest = text.partition(":")
    if not colon:
        if text in MODEL_NAMES:
            return NetworkName("sign_ext", text)
        raise ValueError(_refused(text, _closest(text)))
    if prefix in LIBRARIES:
        return _of_library(prefix, rest, text)
    place, _, function = text.rpartition(":")
    if place.lower().endswith(".py"):
        if _is_dotted(function):
            return NetworkName("file", text)
        raise ValueError(_refused(text, f"FILE.py:FUNCTION, and {function!r} is no function"))
    if "/" in place or "\\" in place:
        raise ValueError(_refused(text, f"FILE.py:FUNCTION, and {place!r} does not end in .py"))
    library = _OTHER_PREFIXES.get(prefix.lower(), prefix.lower())
    if library in LIBRARIES and (prefix != "transformers" or not _is_dotted(rest)):
        raise ValueError(_refused(text, f"did you mean '{library}:{rest}'?"))
    if not (_is_dotted(place) and _is_dotted(function)):
        raise ValueError(
            _refused(text, "MODULE:FUNCTION is such as torchvision.models:mobilenet_v2")
        )
    return NetworkName("function", text)


def closest(given: str, accepted: tuple[str, ...] | list[str]) -> str:
    """Return ", did you mean 'name'?" for the most similar accepted name, or "".

    Example:
        >>> closest("resnet81", ["resnet18", "vgg16"]), closest("x", ["resnet18"])
        (", did you mean 'resnet18'?", '')
    """
    found = difflib.get_close_matches(given, list(accepted), n=1)
    return f", did you mean {found[0]!r}?" if found else ""


def _of_library(prefix: str, rest: str, text: str) -> NetworkName:
    """Return the name of another library's network."""
    if not rest:
        raise ValueError(_refused(text, f"{prefix}: is followed by a name"))
    if prefix != "hf" and not all(c.isalnum() or c in "_.-" for c in rest):
        raise ValueError(
            f"{text!r} is not the name of a network; accepted: {prefix}:NAME with a name that "
            f"{'timm' if prefix == 'timm' else 'torchvision.models'}.list_models() lists"
        )
    return NetworkName(prefix, rest)  # type: ignore[arg-type]


def _closest(text: str) -> str:
    """What somebody may have meant by a name without a prefix."""
    found = difflib.get_close_matches(text, MODEL_NAMES, n=1)
    if found:
        return f"did you mean {found[0]!r}?"
    if _is_dotted(text):
        return f"networks of other libraries have a prefix, such as timm:{text}"
    return ""


def _refused(text: str, hint: str) -> str:
    return f"{text!r} is not the name of a network; accepted: {ACCEPTED}" + (
        f"; {hint}" if hint else ""
    )


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))
