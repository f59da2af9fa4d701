"""The structs and constants of csrc/onchip's headers, read from their text."""

from __future__ import annotations

import re
from functools import cache

from emulation import CSRC
from torch import Tensor

FOLDER = CSRC / "onchip"


def fields_of(header: str, struct: str) -> list[tuple[str, str]]:
    """(type, name) of each field of a struct, in order; an array's length stays with its name.

    Args:
        header: the header's text.
        struct: its name.
    """
    body = re.search(rf"struct {struct} {{(.*?)\n}};", header, re.DOTALL)
    assert body is not None, f"no struct {struct}"
    declarations = re.sub(r"//.*", "", body[1]).split(";")
    fields = []
    for declaration in filter(None, map(str.strip, declarations)):
        kind, names = declaration.split(None, 1)
        fields += [(kind, name.strip()) for name in names.split(",")]
    return fields


def constants_of(header: str) -> dict[str, int]:
    """The integer constants of a header by name.

    Args:
        header: its text.
    """
    return {
        name: int(value) for name, value in re.findall(r"constexpr int (k\w+) = (\d+);", header)
    }


def header(name: str) -> str:
    """A header's text."""
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def offsets(struct: str) -> dict[str, int]:
    """The word of each field of a struct of onchip.h, but for a plan's layers, which come last."""
    fields = [name for kind, name in fields_of(header("onchip.h"), struct) if kind != "Layer"]
    return {name: i for i, name in enumerate(fields)}


def word(args: Tensor, field: str, layer: int | None = None) -> Tensor:
    """A word of a plan where the header has it; writing to it changes the plan.

    Args:
        args: a launch's, int32.
        field: of Plan, or with a layer of Layer.
        layer: which one.
    """
    if layer is None:
        return args[offsets("Plan")[field]]
    return args[len(offsets("Plan")) + layer * len(offsets("Layer")) + offsets("Layer")[field]]
