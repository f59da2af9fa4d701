"""Lower a recorded graph whose operations do not all have rules: those without become islands.

1. A second recording, of another number of images, shows which values have a row an image and which
   recorded numbers grow with the images (`recordings.py`).
2. Operations that write in place become ones that do not (`writes.py`).
3. Each operation is tried on its rule. Those that no rule covers are grouped so that no path leaves
   a group and comes back (`_Partition`), together with cheap operations that only groups read and
   feed.
4. Groups and other operations are lowered in an order in which all can be computed.

`island_part.py` makes an `Island` of a group.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.fx import GraphModule, Node

from sign_ext.compiler.builder import dense, token_ref, tokens_or_image
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.view import View, contiguous_strides
from sign_ext.compiler.island_part import IslandPart
from sign_ext.compiler.lower import Lowering, Ref, is_view, op_name
from sign_ext.compiler.recordings import (
    SECOND_IMAGES,
    annotated,
    grown_otherwise,
    recorded_sizes,
    twin_sizes,
)
from sign_ext.compiler.trace import TRACED_IMAGES
from sign_ext.compiler.writes import without_writes
from sign_ext.errors import UnsupportedOperation

_READY = "sign_ext_islands"  # in the meta of a graph without writes


def lower_with_islands(
    graph: GraphModule, again: Callable[[], GraphModule]
) -> tuple[list[Op], int, Shape]:
    """The operations of a recorded graph, islands among them.

    Args:
        graph: from `trace`; it is annotated and rewritten, once.
        again: records the same for `SECOND_IMAGES` images.

    Returns:
        The operations, the number of Φ's value, and the shape of one image.

    Raises:
        UnsupportedOperation: the forward pass does what no island can hold.
    """
    annotated(graph, again)
    if not graph.meta.get(_READY):
        without_writes(graph)
        graph.meta[_READY] = True
    return _Partition(graph).lower()


OPAQUE = object()  # stands for a value that no operation with a rule can read


@dataclass
class _Partition:
    """Which operations become islands, and the program that follows from that.

    Attributes:
        graph: annotated, without writes.
        forced: operations with a rule that are to be inside an island all the same.
        constants: the values of what does not depend on the images, computed once.
    """

    graph: GraphModule
    forced: set[Node] = field(default_factory=set)
    constants: dict[Node, Any] = field(default_factory=dict)

    def lower(self) -> tuple[list[Op], int, Shape]:
        """Classify, group, absorb what lies between groups, and emit."""
        nodes = _Classified(self)
        while more := self._crossing(nodes) or self._between(nodes):
            self.forced |= more
            nodes = _Classified(self)
        return self._emit(nodes)

    def _crossing(self, nodes: _Classified) -> set[Node]:
        """What has to join islands since no value of a program can be passed to them."""
        more: set[Node] = set()
        depth, values = nodes.depth, nodes.values
        for node in nodes.islands:
            for source in nodes.sources(node):
                if source not in nodes.islands:
                    # A mask is 0 and 1 in the program, and of another dtype in an island.
                    if not isinstance(values[source], Ref) or _is_mask(source):
                        more.add(source)
                elif depth[source] < depth[node] and not isinstance(values[source], Ref):
                    between = nodes.ancestors(node)
                    more |= {n for n in between if depth[n] > depth[source]} - nodes.islands
        return more - nodes.images

    def _between(self, nodes: _Classified) -> set[Node]:
        """Connected cheap operations that read from islands only and are read by islands only."""
        light = nodes.light
        more: set[Node] = set()
        seen: set[Node] = set()
        for start in nodes.depth:
            if start not in light or start in seen:
                continue
            part, todo, closed = {start}, [start], True
            while todo:
                node = todo.pop()
                users = [user for user in node.users if user in nodes.depth or user.op == "output"]
                for other in (*nodes.sources(node), *users):
                    if other in light and other not in part:
                        part.add(other)
                        todo.append(other)
                    elif other not in light and other not in nodes.islands:
                        closed = False
            seen |= part
            if closed:
                more |= part
        return more

    def _emit(self, nodes: _Classified) -> tuple[list[Op], int, Shape]:
        """Lower groups and single operations, first come first served in the recorded order."""
        units: dict[Hashable, list[Node]] = {}
        for node in nodes.depth:
            units.setdefault(nodes.group_of.get(node, node), []).append(node)
        order = list(units.values())
        unit_of = {node: u for u, unit in enumerate(order) for node in unit}
        waits = [
            {unit_of[source] for node in unit for source in nodes.sources(node)} - {u}
            for u, unit in enumerate(order)
        ]
        followers: list[set[int]] = [set() for _ in order]
        for u, needs in enumerate(waits):
            for need in needs:
                followers[need].add(u)
        ready = [u for u, needs in enumerate(waits) if not needs]
        heapq.heapify(ready)
        emitter, done = _Emitter(self, nodes), 0
        while ready:
            u = heapq.heappop(ready)
            emitter.emit(order[u])
            done += 1
            for follower in followers[u]:
                waits[follower].discard(u)
                if not waits[follower]:
                    heapq.heappush(ready, follower)
        assert done == len(order), "islands in a circle"
        return emitter.result()


def _is_mask(node: Node) -> bool:
    meta: Any = node.meta.get("tensor_meta")
    return getattr(meta, "dtype", None) == torch.bool


class _Classified(Lowering):
    """Every operation with its rule tried on stand-ins for the values that it reads.

    Attributes:
        values: a `Ref`, a tuple of them, a constant, or `OPAQUE`.
        images: the placeholder.
        islands: the operations without a rule, and those that are forced.
        light: operations with a rule and without products.
        sized: operations that do not depend on the images, but on their number.
        depth: of what depends on the images, in order: how often a path to it changes between
            operations with and without a rule, at most. Of a path that leaves the operations
            without a rule and comes back, the end is deeper than the start.
        group_of: of each operation without a rule, the number of its group: connected operations
            of one depth.
    """

    def __init__(self, partition: _Partition) -> None:
        super().__init__(partition.graph)
        self.partition = partition
        self.images: set[Node] = set()
        self.islands: set[Node] = set()
        self.light: set[Node] = set()
        self.sized: set[Node] = set()
        self.depth: dict[Node, int] = {}
        self.group_of: dict[Node, int] = {}
        for node in self.graph.graph.nodes:
            self._visit(node)
        self._group()

    def _visit(self, node: Node) -> None:
        if node.op == "placeholder":
            self.values[node] = self.placeholder(node)
            self.images.add(node)
            self.depth[node] = 0
        elif node.op == "get_attr":
            self.values[node] = getattr(self.graph, str(node.target)).detach()
        elif node.op == "call_function":
            self.require_known(node)
            self._classify(node)
            if node in self.depth:
                is_island = node in self.islands
                self.depth[node] = max(
                    self.depth[source] + ((source in self.islands) != is_island)
                    for source in self.sources(node)
                )

    def _classify(self, node: Node) -> None:
        inputs = node.all_input_nodes
        if not any(source in self.depth for source in inputs):
            if node.meta.get("sizes") or any(source in self.sized for source in inputs):
                self.sized.add(node)
                self.values[node] = self.repeated(node)
            else:
                self.values[node] = self.constant(node)
            return
        self.depth[node] = 0
        opaque = any(self.values[source] is OPAQUE for source in inputs)
        # A rule takes numbers as they were recorded, and reads shapes off its result.
        opaque |= bool(node.meta.get("sizes")) and not is_view(node)
        if not opaque and node not in self.partition.forced:
            before = len(self.builder.ops)
            try:
                self.values[node] = self.by_rule(node)
            except UnsupportedOperation:
                del self.builder.ops[before:]
            else:
                if not any(op.flops() for op in self.builder.ops[before:]):
                    self.light.add(node)
                return
        _require_repeatable(node)
        self.islands.add(node)
        self.values[node] = self._stand_in(node)

    def repeated(self, node: Node) -> Any:
        """The recorded value of what has a row an image, by repetition alone."""
        sizes, twin = recorded_sizes(node), twin_sizes(node)
        if any(self.values[source] is OPAQUE for source in node.all_input_nodes):
            return OPAQUE
        if not sizes or not twin or grown_otherwise(node) is not None:
            return OPAQUE
        grows = sizes[0] * SECOND_IMAGES == twin[0] * TRACED_IMAGES and sizes[1:] == twin[1:]
        return self.constant(node) if grows else OPAQUE

    def constant(self, node: Node) -> Any:
        """The value of what does not depend on the images."""
        known = self.partition.constants
        if node not in known:
            args, kwargs = self.value_of(node.args), self.value_of(node.kwargs)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return known[node]

    def _stand_in(self, node: Node) -> Any:
        """A value of the program, or what stands for one that cannot be."""
        meta: Any = node.meta.get("tensor_meta")
        shape = recorded_sizes(node)
        if shape is None or not node.meta.get("rows") or not meta.dtype.is_floating_point:
            return OPAQUE
        return token_ref(-len(self.islands), shape[1:])

    def shape_of(self, node: Node, name: str, windows: int = 1) -> Shape:
        """As two recordings show it."""
        shape = super().shape_of(node, name, windows)
        if windows == 1 and recorded_sizes(node) is not None and not node.meta.get("rows"):
            raise UnsupportedOperation(
                f"aten.{name} gives {recorded_sizes(node)}, not a row an image"
            )
        return shape

    def sources(self, node: Node) -> list[Node]:
        """What a node reads that depends on the images."""
        return [source for source in node.all_input_nodes if source in self.depth]

    def ancestors(self, node: Node) -> set[Node]:
        """Everything that depends on the images and on which a node depends."""
        found: set[Node] = set()
        todo = [node]
        while todo:
            for source in self.sources(todo.pop()):
                if source not in found:
                    found.add(source)
                    todo.append(source)
        return found

    def _group(self) -> None:
        """Number the connected operations without a rule that have one depth."""
        parent: dict[Node, Node] = {node: node for node in self.islands}

        def root(node: Node) -> Node:
            while parent[node] is not node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for node in self.islands:
            for source in self.sources(node):
                if source in self.islands and self.depth[source] == self.depth[node]:
                    parent[root(source)] = root(node)
        numbers: dict[Node, int] = {}
        for node in self.depth:
            if node in self.islands:
                self.group_of[node] = numbers.setdefault(root(node), len(numbers))


def _require_repeatable(node: Node) -> None:
    """Refuse what draws random numbers."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return
    if torch.Tag.nondeterministic_seeded not in target.tags:
        return
    arguments = target._schema.arguments
    given: dict[str, Any] = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in arguments), node.args, strict=False))
    given |= node.kwargs
    off = [given.get(name) for name in ("train", "training", "dropout_p", "p")]
    if not any(value in (False, 0) and value is not None for value in off):
        raise UnsupportedOperation(f"aten.{op_name(node)[0]} draws random numbers")


class _Emitter(Lowering):
    """Appends the operations of one unit after the other."""

    def __init__(self, partition: _Partition, nodes: _Classified) -> None:
        super().__init__(partition.graph)
        self.nodes = nodes
        # What does not depend on the images has its value.
        self.values = {n: value for n, value in nodes.values.items() if n not in nodes.depth}
        self.image_shape: Shape = ()

    def emit(self, unit: list[Node]) -> None:
        """A group as an island, or one operation by its rule."""
        first = unit[0]
        if first.op == "placeholder":
            ref = self.placeholder(first)
            self.image_shape, self.values[first] = ref.view.shape, ref
        elif first in self.nodes.islands:
            self._island(unit)
        else:
            self.values[first] = self.by_rule(first)

    def _island(self, unit: list[Node]) -> None:
        inside = set(unit)
        outputs = [
            node
            for node in unit
            if isinstance(self.nodes.values[node], Ref)
            and any(user not in inside for user in node.users)
        ]
        if not outputs:
            return  # nothing reads it
        part = IslandPart(self.graph, inside, outputs, self.nodes.depth, self.nodes.sized)
        given = [dense(self.builder, self.values[source]) for source in part.inputs]
        distinct = list(dict.fromkeys((ref.number, ref.shape) for ref in given))
        places = [distinct.index((ref.number, ref.shape)) for ref in given]
        options = part.options(places, given, self.values, self.builder.dtype)
        shapes: tuple[Shape, ...] = options["outputs"]
        inputs = tuple(Ref(number, shape) for number, shape in distinct)
        if len(shapes) == 1:
            made = token_ref(0, shapes[0])
            number = self.builder.add(Island, inputs, made.shape, **options).number
            self.values[outputs[0]] = replace(made, number=number)
            return
        sizes = [count(shape) for shape in shapes]
        whole = self.builder.add(Island, inputs, (sum(sizes),), **options)
        start = 0
        for node, shape, size in zip(outputs, shapes, sizes, strict=True):
            view = View(shape, contiguous_strides(shape), start)
            self.values[node] = tokens_or_image(self.builder, whole.seen(view))
            start += size

    def shape_of(self, node: Node, name: str, windows: int = 1) -> Shape:
        """As classified."""
        return self.nodes.shape_of(node, name, windows)

    def result(self) -> tuple[list[Op], int, Shape]:
        """The operations, Φ's value and the image's shape."""
        (output,) = (node for node in self.graph.graph.nodes if node.op == "output")
        value = self.value_of(output.args[0])
        return self.builder.ops, self.phi(value).number, self.image_shape
