"""What two recordings of a network, of different numbers of images, say of each operation.

One recording cannot tell the number of images from another size of the same value. The second shows
which values have a row an image, and which recorded numbers grow with the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from sign_ext.compiler.trace import TRACED_IMAGES
from sign_ext.errors import UnsupportedOperation

SECOND_IMAGES = TRACED_IMAGES + 1  # of the second recording
_READY = "sign_ext_two_recordings"  # in the meta of a graph that was annotated


@dataclass(frozen=True)
class PerImage:
    """A recorded number that grows with the images: slope · images + offset."""

    slope: int
    offset: int


Path = tuple[int | str, ...]  # to a number among a node's arguments


def annotated(graph: GraphModule, again: Callable[[], GraphModule] | None) -> None:
    """Annotate a graph, once.

    Args:
        graph: from `trace`.
        again: records the same for `SECOND_IMAGES` images.

    Raises:
        UnsupportedOperation: there is no second recording, or the two do not agree.
    """
    if graph.meta.get(_READY):
        return
    if again is None:
        raise UnsupportedOperation("the images are merged with another dimension")
    annotate(graph, again())
    graph.meta[_READY] = True


def annotate(graph: GraphModule, other: GraphModule) -> None:
    """Note at each node what two recordings of different numbers of images say of it.

    In a node's meta, "rows" is whether its value has one row an image, "twin" is its shape in the
    other recording, and "sizes" are the numbers among its arguments that depend on the images, by
    their place.

    Args:
        graph: of `TRACED_IMAGES` images.
        other: of `SECOND_IMAGES` images.

    Raises:
        UnsupportedOperation: other operations run, or a number grows in a way that is not known.
    """
    nodes, twins = list(graph.graph.nodes), list(other.graph.nodes)
    if [(n.op, str(n.target)) for n in nodes] != [(n.op, str(n.target)) for n in twins]:
        raise UnsupportedOperation("other operations run for another number of images")
    for node, twin in zip(nodes, twins, strict=True):
        if node.op == "get_attr":
            a, b = getattr(graph, str(node.target)), getattr(other, str(twin.target))
            if a is not b and a.shape != b.shape:
                raise UnsupportedOperation("a constant's shape depends on the number of images")
            continue
        node.meta["sizes"] = dict(sizes_in(node, twin, TRACED_IMAGES, SECOND_IMAGES))
        shape, twin_shape = recorded_sizes(node), recorded_sizes(twin)
        if shape is not None and twin_shape is not None:
            node.meta["twin"] = twin_shape
        if shape and twin_shape:
            rows = (shape[0], twin_shape[0]) == (TRACED_IMAGES, SECOND_IMAGES)
            node.meta["rows"] = rows and shape[1:] == twin_shape[1:]


def recorded_sizes(node: Node) -> tuple[int, ...] | None:
    """The shape of a node's value, or None of one that is no tensor.

    Args:
        node: of a recording.
    """
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def twin_sizes(node: Node) -> tuple[int, ...] | None:
    """Its shape in the second recording, or None where there was none.

    Args:
        node: of a recording.
    """
    found: tuple[int, ...] | None = node.meta.get("twin")
    return found


# Operations whose numbers say how often a constant is repeated, and nothing of its values.
_REPEATING = {
    "expand", "repeat", "zeros", "ones", "new_zeros", "new_ones", "view", "reshape", "tile",
    "_unsafe_view",
}  # fmt: skip


def grown_otherwise(node: Node) -> str | None:
    """An operation by which a constant may depend on the number of images other than by its rows.

    Args:
        node: computes the constant, in a graph that was annotated.
    """
    seen, todo = {node}, [node]
    while todo:
        each = todo.pop()
        name = getattr(getattr(each.target, "_schema", None), "name", str(each.target))
        if each.meta.get("sizes") and name.removeprefix("aten::") not in _REPEATING:
            return str(name)
        todo += [source for source in each.all_input_nodes if source not in seen]
        seen.update(each.all_input_nodes)
    return None


def sizes_in(node: Node, twin: Node, images: int, more: int) -> Iterator[tuple[Path, PerImage]]:
    """The numbers in which the arguments of two recordings differ.

    Args:
        node: a call, recorded with `images` images.
        twin: the same, recorded with `more`.
        images: a number.
        more: another one.

    Raises:
        UnsupportedOperation: they differ in something else than whole numbers.
    """
    if node.op == "output":
        return
    for path, a, b in _paired((node.args, dict(node.kwargs)), (twin.args, dict(twin.kwargs)), ()):
        if isinstance(a, Node) or a == b or (a != a and b != b):
            continue
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (a, b))
        if not whole or (b - a) % (more - images):
            raise UnsupportedOperation(
                f"{node.target} is given {a} for {images} images and {b} for {more}"
            )
        slope = (b - a) // (more - images)
        yield path, PerImage(slope, a - slope * images)


def _paired(a: Any, b: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for i, (first, second) in enumerate(zip(a, b, strict=True)):
            yield from _paired(first, second, (*path, i))
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for name in a:
            yield from _paired(a[name], b[name], (*path, name))
    else:
        yield path, a, b
