"""Operations of a recorded graph that write in place become ones that do not.

A write through a view changes what it is a view of: that is put together anew from the result, and
what else is a view of it is made again where it is read later.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.fx import GraphModule, Node

from sign_ext.compiler.ir.view import contiguous_strides
from sign_ext.compiler.lower import is_view, op_name
from sign_ext.compiler.recordings import recorded_sizes, twin_sizes
from sign_ext.errors import UnsupportedOperation

_aten = torch.ops.aten
_COPYING = {"reshape", "flatten", "reshape_as"}  # where a view is impossible
_RESHAPING = {
    "view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "reshape_as",
    "_unsafe_view",
}  # fmt: skip
_OWN_INVERSE = {"transpose", "t", "mT", "numpy_T", "swapaxes", "swapdims"}


def without_writes(graph: GraphModule) -> None:
    """Replace operations that write in place, on what depends on the images or on their number.

    Args:
        graph: annotated (`recordings.py`).

    Raises:
        UnsupportedOperation: the write has no form that does not write, or shows in what the
            network was given or holds.
    """
    varies: set[Node] = set()
    for node in list(graph.graph.nodes):
        if node.op == "placeholder" or node.meta.get("sizes") or varies & {*node.all_input_nodes}:
            varies.add(node)
        if node in varies and node.op == "call_function" and op_name(node)[1]:
            write = _Write(graph, node)
            write.replace()
            varies.update(write.new)
    graph.graph.lint()


class _Write:
    """An operation that writes its first argument in place.

    Attributes:
        now: what a tensor of before the write is afterwards.
        new: the nodes that were added.
    """

    def __init__(self, graph: GraphModule, node: Node) -> None:
        """Of a recorded graph."""
        self.graph, self.node = graph.graph, node
        self.now: dict[Node, Node] = {}
        self.new: list[Node] = []
        self._last = node  # new nodes come after it

    def replace(self) -> None:
        """Make it an operation that writes nothing, and point to its result what is read later."""
        node, target = self.node, self.node.args[0]
        assert isinstance(target, Node)
        chain = _views_to_memory(target)
        root = chain[-1]
        for one in (*_same_tensor(target), root):
            if one.op in ("placeholder", "get_attr"):
                what = "its input" if one.op == "placeholder" else "a constant"
                raise UnsupportedOperation(f"the network writes {what} in place")
        packet, _, overload = op_name(node)[0].partition(".")
        function = getattr(getattr(_aten, packet, None), overload, None)
        if function is None:
            raise UnsupportedOperation(f"aten.{packet}_ has no form that does not write in place")
        if function is _aten.copy.default:  # which autograd does not know
            function = self._copied()
        order = {each: i for i, each in enumerate(self.graph.nodes)}
        node.target = function
        value, same = node, _same_tensor(target)
        for part, whole in pairwise(chain):
            if whole not in same:
                value, same = self._put_back(part, value, whole), _same_tensor(whole)
        self.now = dict.fromkeys(same, value)
        earlier = [
            v for v in _views_of(_same_tensor(root)) if order.get(v, order[node]) < order[node]
        ]
        again = [
            self._append(self.graph.node_copy, view, lambda n: self.now.get(n, n))
            for view in sorted(earlier, key=order.__getitem__)
            if view not in self.now
        ]
        if value is not node:  # whose readers have to see later writes to the whole
            self.now[node] = self.now[target]
        for old, made in self.now.items():
            for user in list(old.users):
                if order.get(user, -1) > order[node]:
                    user.replace_input_with(old, made)
        for made in reversed(again):
            if not made.users:
                self.graph.erase_node(made)
                self.new.remove(made)

    def _append(self, make: Callable[..., Node], *args: Any, **named: Any) -> Node:
        """A node after those so far; a copy of a view is what that is now."""
        with self.graph.inserting_after(self._last):
            made = make(*args, **named)
        self._last = made
        self.new.append(made)
        if make == self.graph.node_copy:
            self.now[args[0]] = made
        return made

    def _call(
        self, like: Node, function: Any, *args: Any, sizes: tuple[int, ...] | None = None
    ) -> Node:
        """A new operation whose result is described as another node's, but for its sizes.

        Args:
            like: the other node.
            function: the operation.
            *args: its arguments.
            sizes: of its result, those after the images' dimension; None for those of `like`.
        """
        made = self._append(self.graph.call_function, function, args)
        made.meta = {**like.meta, "sizes": {}}
        if sizes is not None:
            described = made.meta["tensor_meta"]
            shape = torch.Size((described.shape[0], *sizes))
            made.meta["tensor_meta"] = described._replace(
                shape=shape, stride=contiguous_strides(shape)
            )
            if (twin := twin_sizes(like)) is not None:
                made.meta["twin"] = (twin[0], *sizes)
        return made

    def _copied(self) -> torch._ops.OpOverload:
        """Give a copy the arguments of a clone of its source, in the target's shape and dtype."""
        target, source = self.node.args[:2]
        if not isinstance(source, Node):
            raise UnsupportedOperation("a number is copied into a tensor")
        described = {**source.meta, "sizes": {}}
        if "tensor_meta" in described:
            dtype = self.node.meta["tensor_meta"].dtype
            described["tensor_meta"] = described["tensor_meta"]._replace(dtype=dtype)
        for function, meta in (
            (_aten.type_as.default, described),
            (_aten.expand_as.default, {**self.node.meta, "sizes": {}}),
        ):
            with self.graph.inserting_before(self.node):
                source = self.graph.call_function(function, (source, target))
            source.meta = meta
            self.new.append(source)
        self.node.args, self.node.kwargs = (source,), {}
        return _aten.clone.default

    def _put_back(self, part: Node, new: Node, whole: Node) -> Node:
        """A tensor after a write to a view of it.

        Args:
            part: the view.
            new: its new value.
            whole: the tensor.
        """
        name = op_name(part)[0].partition(".")[0]
        given = list(part.args[1:])
        if name in _RESHAPING:
            return self._call(whole, _aten.reshape_as.default, new, whole)
        if name in _OWN_INVERSE:
            return self._call(whole, part.target, new, *given)
        if name == "permute":
            order = [int(d) % len(given[0]) for d in given[0]]  # type: ignore[union-attr, arg-type]
            back = [order.index(d) for d in range(len(order))]
            return self._call(whole, _aten.permute.default, new, back)
        if name == "diagonal":
            return self._call(whole, _aten.diagonal_scatter.default, whole, new, *given)
        cut = _cut_of(part, whole)
        if cut is None:
            raise UnsupportedOperation(
                f"{op_name(self.node)[0]} writes in place what {name} made a view of"
            )
        return self._with_span(whole, new, *cut)

    def _with_span(
        self, whole: Node, new: Node, dim: int, start: int, step: int, one: bool
    ) -> Node:
        """A tensor of which a part is another.

        Args:
            whole: the tensor.
            new: the part.
            dim: along which it lies.
            start: its first place.
            step: between its places.
            one: whether it lacks the dimension, as after a selection.
        """
        sizes, of_new = recorded_sizes(whole), recorded_sizes(new)
        assert sizes is not None
        assert of_new is not None
        length = 1 if one else of_new[dim]
        if dim == 0 or (step != 1 and length > 1):
            if one:
                return self._call(whole, _aten.select_scatter.default, whole, new, dim, start)
            stop = start + (length - 1) * step + 1
            return self._call(
                whole, _aten.slice_scatter.default, whole, new, dim, start, stop, step
            )

        def of_length(n: int) -> tuple[int, ...]:
            return (*sizes[1:dim], n, *sizes[dim + 1 :])

        if one:
            new = self._call(whole, _aten.unsqueeze.default, new, dim, sizes=of_length(1))
        parts, stop = [new], start + length
        if start:
            before = self._call(
                whole, _aten.slice.Tensor, whole, dim, 0, start, sizes=of_length(start)
            )
            parts.insert(0, before)
        if stop < sizes[dim]:
            n = sizes[dim] - stop
            parts.append(
                self._call(
                    whole, _aten.slice.Tensor, whole, dim, stop, stop + n, sizes=of_length(n)
                )
            )
        return self._call(whole, _aten.cat.default, parts, dim)


def _cut_of(part: Node, whole: Node) -> tuple[int, int, int, bool] | None:
    """Dimension, first place and step of a part of a tensor, and whether it lacks the dimension.

    None where it is no such part, or where it is cut from the images and depends on their number.
    """
    sizes, call = recorded_sizes(whole), part.target
    if sizes is None or not isinstance(call, torch._ops.OpOverload):
        return None
    if op_name(part)[0].partition(".")[0] not in ("slice", "narrow", "select"):
        return None
    names = [argument.name for argument in call._schema.arguments]
    given = dict(zip(names, part.args, strict=False)) | part.kwargs
    dim = int(given.get("dim", 0)) % len(sizes)  # type: ignore[arg-type]
    if dim == 0 and part.meta.get("sizes"):
        return None
    stand_in = torch.empty(sizes, device="meta")
    found = call(stand_in, *part.args[1:], **part.kwargs)
    one, stride = found.dim() < len(sizes), stand_in.stride(dim)
    step = 1 if one else found.stride(dim) // stride
    return dim, found.storage_offset() // stride, step, one


def _views_to_memory(node: Node) -> list[Node]:
    """A node, what it is a view of, and so on, to what has memory of its own."""
    chain = [node]
    while is_view(chain[-1]) and not _has_copied(chain[-1]):
        source = chain[-1].args[0]
        assert isinstance(source, Node)
        if chain[-1].target is operator.getitem:
            if is_view(source):  # autograd has none of it
                raise UnsupportedOperation("the network writes one of several views in place")
            break  # one of several results
        chain.append(source)
    return chain


def _has_copied(node: Node) -> bool:
    """Whether a reshape could not be a view."""
    if op_name(node)[0].partition(".")[0] not in _COPYING:
        return False
    source, meta = node.args[0], node.meta["tensor_meta"]
    assert isinstance(source, Node)
    before = source.meta["tensor_meta"]
    stand_in = torch.empty_strided(before.shape, before.stride, device="meta")
    try:
        stand_in.view(meta.shape)
    except RuntimeError:
        return True
    return False


def _is_alias(node: Node) -> bool:
    return is_view(node) and not _has_copied(node)


def _same_tensor(target: Node) -> set[Node]:
    """A node and those that are the same tensor under another name."""
    found, todo = {target}, [target]
    while todo:
        node = todo.pop()
        near = [user for user in node.users if _is_alias(user)]
        near += node.all_input_nodes[:1] if _is_alias(node) else []
        for other in near:
            if other not in found and _layout(other) == _layout(node) is not None:
                found.add(other)
                todo.append(other)
    return found


def _layout(node: Node) -> tuple[Any, ...] | None:
    meta: Any = node.meta.get("tensor_meta")
    return (meta.shape, meta.stride) if hasattr(meta, "stride") else None


def _views_of(targets: set[Node]) -> list[Node]:
    """Views of nodes, views of these and so on."""
    found: list[Node] = []
    todo = list(targets)
    while todo:
        for user in todo.pop(0).users:
            if _is_alias(user) and user not in found and user not in targets:
                found.append(user)
                todo.append(user)
    return found
