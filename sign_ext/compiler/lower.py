"""From a recorded graph of ATen operations to the compiler's own, one rule for each (rules.py)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.errors import UnsupportedOperation


@dataclass(frozen=True)
class Ref:
    """A value of the program: its number and one image's shape."""

    number: int
    shape: Shape


@dataclass
class Builder:
    """The program so far."""

    images: int  # the batch that was recorded
    dtype: torch.dtype = torch.float32  # of the network
    ops: list[Op] = field(default_factory=list)

    def add(self, kind: type[Op], inputs: tuple[Ref, ...], shape: Shape, **options: Any) -> Ref:
        """Append an operation, and return its output."""
        op = kind(
            inputs=tuple(ref.number for ref in inputs),
            in_shapes=tuple(ref.shape for ref in inputs),
            output=len(self.ops) + 1,
            shape=shape,
            **options,
        )
        self.ops.append(op)
        return Ref(op.output, shape)


Rule = Callable[..., Any]  # (builder, output's shape of one image, *args, **kwargs) → Ref(s)
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations, named as in "conv2d.default"."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def lower(graph: GraphModule, images: int) -> tuple[list[Op], int, Shape]:
    """The operations of a recorded graph.

    Args:
        graph: from `trace`.
        images: the batch it was recorded with.

    Returns:
        The operations, the number of Φ's value, and the shape of one image.

    Raises:
        UnsupportedOperation: an operation without a rule, or used in a way that has none.
    """
    return _Lowering(graph, images).run()


def _name(node: Node) -> tuple[str, bool]:
    """An ATen operation's name, and whether it changes its first argument in place."""
    target: Any = node.target
    if target is operator.getitem:
        return "getitem", False
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return str(target), False
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    in_place = name.endswith("_") and not name.startswith("_")
    return f"{name.removesuffix('_') if in_place else name}.{overload}", in_place


# These return their argument, or a view of it, so that an in-place change shows through both.
_VIEWS = {
    "view", "reshape", "flatten", "unsqueeze", "squeeze", "slice", "narrow", "chunk", "split",
    "getitem", "transpose", "permute", "select", "contiguous", "alias", "expand", "unflatten",
    "to", "dropout", "feature_dropout", "alpha_dropout", "split_with_sizes", "unbind", "t",
    "view_as", "_unsafe_view", "expand_as", "reshape_as",
}  # fmt: skip


class _Lowering:
    def __init__(self, graph: GraphModule, images: int) -> None:
        self.graph = graph
        self.builder = Builder(images)
        self.values: dict[Node, Any] = {}
        self.order = {node: i for i, node in enumerate(graph.graph.nodes)}

    def run(self) -> tuple[list[Op], int, Shape]:
        """Visit every node in order."""
        image_shape: Shape = ()
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                image_shape = tuple(node.meta["tensor_meta"].shape[1:])
                self.builder.dtype = node.meta["tensor_meta"].dtype
                self.values[node] = Ref(0, image_shape)
            elif node.op == "get_attr":
                self.values[node] = getattr(self.graph, str(node.target)).detach()
            elif node.op == "call_function":
                self.values[node] = self.call(node)
            elif node.op == "output":
                result = self.value_of(node.args[0])
        if not isinstance(result, Ref):
            raise UnsupportedOperation("Φ does not depend on the images")
        return self.builder.ops, result.number, image_shape

    def value_of(self, argument: Any) -> Any:
        """An argument with its nodes replaced by what they stand for."""
        return torch.fx.node.map_arg(argument, lambda node: self.values[node])

    def call(self, node: Node) -> Any:
        """The value of one operation: a Ref, a tuple of them, or a constant."""
        args, kwargs = self.value_of(node.args), self.value_of(node.kwargs)
        if node.target is not operator.getitem and not isinstance(
            node.target, torch._ops.OpOverload
        ):
            # Switching gradients or autocast on and off inside the network, among others.
            raise UnsupportedOperation(f"the forward pass calls {node.target}")
        if not any(isinstance(item, Ref) for item in _flat([args, kwargs])):
            # Made of weights alone (weight normalisation, say): computed here and now.
            return node.target(*args, **kwargs)  # type: ignore[operator]
        name, in_place = _name(node)
        if name == "getitem":
            return args[0][args[1]]
        function = RULES.get(name)
        if function is None:
            raise UnsupportedOperation(f"the compiler has no rule for aten.{name}{_at(args)}")
        try:
            result = function(self.builder, self.shape_of(node, name), *args, **kwargs)
        except UnsupportedOperation as error:
            raise UnsupportedOperation(f"aten.{name}{_at(args)}: {error}") from None
        if in_place and result != args[0]:
            self.check_no_view_is_read_later(node)
            self.replace_everywhere(node.args[0], result)
        return result

    def shape_of(self, node: Node, name: str) -> Shape:
        """One image's shape of what a node makes, () where it makes several tensors."""
        meta = node.meta.get("tensor_meta")
        if meta is None or not hasattr(meta, "shape"):
            return ()
        shape, dtype = tuple(meta.shape), meta.dtype
        if not shape or shape[0] != self.builder.images:
            raise UnsupportedOperation(f"aten.{name} gives {shape}, whose images are not apart")
        if not dtype.is_floating_point:
            raise UnsupportedOperation(f"aten.{name} gives {dtype}, which has no derivative")
        return shape[1:]

    def aliases(self, node: Node) -> set[Node]:
        """The nodes that may share memory with one, itself left out."""
        found: set[Node] = set()
        todo = [node]
        while todo:
            current = todo.pop()
            near = [user for user in current.users if _is_view(user)]
            if _is_view(current):
                near += [n for n in current.all_input_nodes if n.op != "get_attr"]
            for other in near:
                if other not in found and other is not node:
                    found.add(other)
                    todo.append(other)
        return found

    def check_no_view_is_read_later(self, node: Node) -> None:
        """An in-place change shows through views, which the program's values do not."""
        target = node.args[0]
        assert isinstance(target, Node)
        if target.op == "placeholder":
            raise UnsupportedOperation("the network changes its input in place")
        now = self.order[node]
        for other in self.aliases(target):
            if isinstance(value := self.values.get(other), Ref) and value == self.values[target]:
                continue  # the same tensor under another name: replaced together
            if any(self.order[user] > now for user in other.users):
                raise UnsupportedOperation(
                    f"{_name(node)[0]} changes in place what is read later through a view"
                )

    def replace_everywhere(self, target: Any, result: Ref) -> None:
        """Whatever stood for the old value stands for the new one from here on."""
        old = self.values[target]
        for node, value in self.values.items():
            if isinstance(value, Ref) and value == old:
                self.values[node] = result


def _is_view(node: Node) -> bool:
    return node.op == "call_function" and _name(node)[0].partition(".")[0] in _VIEWS


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [item for inner in value for item in _flat(inner)]
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [value]


def _at(args: Any) -> str:
    shapes = [value.shape for value in _flat(list(args)) if isinstance(value, Ref)]
    return f" on {shapes[0]}" if shapes else ""


def constant(value: Any) -> Tensor | None:
    """A constant tensor or number as a tensor, or None for a value of the program."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool | int | float):
        return torch.tensor(float(value), dtype=torch.float64)
    return None
