"""From a recorded graph of ATen operations to the compiler's own, by one rule for each.

The rules are in `compiler/rules`, with the decorator `lowers`. What they share is at the end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.layout import Pair


@dataclass(frozen=True)
class Ref:
    """A value of the program: its number and one image's shape.

    Where the network has the channels of an image in the last dimension, (H, W, C), the program has
    them in the first, as everywhere: `moved` says so. In memory they are innermost both ways.
    """

    number: int
    shape: Shape
    moved: bool = False


@dataclass
class Builder:
    """The program so far."""

    batch: int  # the number of images that was recorded
    dtype: torch.dtype = torch.float32  # of the network
    ops: list[Op] = field(default_factory=list)

    def add(self, kind: type[Op], inputs: tuple[Ref, ...], shape: Shape, **options: Any) -> Ref:
        """Append an operation, and return its output.

        Raises:
            UnsupportedOperation: its operators do not take values of this many dimensions.
        """
        if kind.ranks and len(shape) not in kind.ranks:
            raise UnsupportedOperation(f"a value of shape {shape}")
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
_ELEMENTWISE: set[str] = set()  # of rules whose operations do not ask where the channels are
_MOVED: set[str] = set()  # of rules that take moved values themselves


def lowers(*names: str, elementwise: bool = False, moved: bool = False) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations, named as in "conv2d.default".

    A rule takes the builder, one image's shape of the output, and the operation's own arguments, in
    which a value of the program is a `Ref` and everything else a constant. It appends operations
    and returns the output's `Ref`, or a tuple of them. It raises UnsupportedOperation where it does
    not cover the arguments.

    Args:
        *names: of the operations.
        elementwise: the operation does the same wherever the channels are: moved values are given
            to the rule as if they were not, and constants likewise.
        moved: the rule takes moved values itself. Other rules never meet one.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        if elementwise:
            _ELEMENTWISE.update(names)
        if moved:
            _MOVED.update(names)
        return function

    return register


def lower(graph: GraphModule, images: int) -> tuple[list[Op], int, Shape]:
    """The operations of a recorded graph.

    Args:
        graph: from `trace`.
        images: the number of images it was recorded with.

    Returns:
        The operations, the number of Φ's value, and the shape of one image.

    Raises:
        UnsupportedOperation: an operation without a rule, or with arguments that no rule covers.
    """
    return Lowering(graph, images).run()


def op_name(node: Node) -> tuple[str, bool]:
    """An ATen operation's name without "_", and whether it writes its first argument in place.

    Args:
        node: a call of an operation.
    """
    target: Any = node.target
    if target is operator.getitem:
        return "getitem", False
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return str(target), False
    name, overload = target._schema.name.removeprefix("aten::"), target._overloadname
    in_place = name.endswith("_") and not name.startswith("_")
    return f"{name.removesuffix('_') if in_place else name}.{overload}", in_place


# These return their argument or a view of it, so an in-place write shows through both names;
# contiguous and to at times return a copy (`_is_copy`), and reshape and flatten do where a view is
# impossible, which only refuses more.
_VIEWS = {
    "view", "reshape", "flatten", "unsqueeze", "squeeze", "slice", "narrow", "chunk", "split",
    "getitem", "transpose", "permute", "select", "contiguous", "alias", "expand", "unflatten",
    "to", "dropout", "feature_dropout", "alpha_dropout", "split_with_sizes", "unbind", "t",
    "view_as", "_unsafe_view", "expand_as", "reshape_as",
}  # fmt: skip


class Lowering:
    """One pass over the graph's nodes.

    A program's values are immutable, while ATen operations may write in place. An in-place
    operation therefore becomes a new value, and the nodes that share memory with its target, their
    aliases, must show it:

    - An alias with the target's `Ref` is the same tensor under another name (dropout in evaluation,
      a view of the same shape): it is pointed to the new value.
    - An alias with another `Ref` is a view of some of the elements, or of another shape. Its value
      in the program does not change. If it is read after the write, the network is refused.

    A node may also have the target's `Ref` without being an alias: a clone. It keeps the old value.

    Attributes:
        values: what each node stands for: a `Ref`, a tuple of them, or a constant.
        order: each node's position in the graph.
    """

    def __init__(self, graph: GraphModule, images: int) -> None:
        """Of a graph that was recorded with so many images."""
        self.graph = graph
        self.builder = Builder(images)
        self.values: dict[Node, Any] = {}
        self.order = {node: i for i, node in enumerate(graph.graph.nodes)}

    def run(self) -> tuple[list[Op], int, Shape]:
        """Visit every node in order."""
        image_shape: Shape = ()
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
                image_shape = self.values[node].shape
            elif node.op == "get_attr":
                self.values[node] = getattr(self.graph, str(node.target)).detach()
            elif node.op == "call_function":
                self.require_known(node)
                self.values[node] = self.call(node)
            elif node.op == "output":
                result = self.value_of(node.args[0])
        if not isinstance(result, Ref):
            raise UnsupportedOperation("Φ does not depend on the images")
        return self.builder.ops, result.number, image_shape

    def value_of(self, argument: Any) -> Any:
        """An argument with its nodes replaced by their values."""
        return torch.fx.node.map_arg(argument, lambda node: self.values[node])

    def placeholder(self, node: Node) -> Ref:
        """The images."""
        meta = node.meta["tensor_meta"]
        self.builder.dtype = meta.dtype
        return Ref(0, tuple(meta.shape[1:]))

    def require_known(self, node: Node) -> None:
        """Refuse what is no ATen operation: gradients or autocast switched inside the network."""
        if node.target is not operator.getitem and not isinstance(
            node.target, torch._ops.OpOverload
        ):
            raise UnsupportedOperation(f"the forward pass calls {node.target}")

    def call(self, node: Node) -> Any:
        """The value of one operation: a Ref, a tuple of them, or a constant."""
        args, kwargs = self.value_of(node.args), self.value_of(node.kwargs)
        if not any(isinstance(item, Ref) for item in _flat([args, kwargs])):
            # Computed from weights alone, as in weight normalisation: a constant.
            return node.target(*args, **kwargs)  # type: ignore[operator]
        result = self.by_rule(node)
        if op_name(node)[1] and result != args[0]:
            self.write_in_place(node, result)
        return result

    def by_rule(self, node: Node) -> Any:
        """The value of an operation that reads values of the program."""
        args, kwargs = self.value_of(node.args), self.value_of(node.kwargs)
        name, _ = op_name(node)
        if name == "getitem":
            return args[0][args[1]]
        function = RULES.get(name)
        if function is None:
            raise UnsupportedOperation(f"the compiler has no rule for aten.{name}{_at(args)}")
        shape = self.shape_of(node, name)
        refs = [item for item in _flat([args, kwargs]) if isinstance(item, Ref)]
        moved = name not in _MOVED and any(ref.moved for ref in refs)
        try:
            if moved:
                if name not in _ELEMENTWISE or not all(ref.moved for ref in refs):
                    raise UnsupportedOperation("the channels are in the last dimension")
                args, kwargs = (_map(given, _channels_first) for given in (args, kwargs))
                shape = (*shape[-1:], *shape[:-1])
            result = function(self.builder, shape, *args, **kwargs)
            return replace(result, moved=True) if moved else result
        except UnsupportedOperation as error:
            raise UnsupportedOperation(f"aten.{name}{_at(args)}: {error}") from None

    def shape_of(self, node: Node, name: str) -> Shape:
        """One image's shape of a node's output, () where it has several."""
        meta = node.meta.get("tensor_meta")
        if meta is None or not hasattr(meta, "shape"):
            return ()
        shape, dtype = tuple(meta.shape), meta.dtype
        if not shape or shape[0] != self.builder.batch:
            raise UnsupportedOperation(f"aten.{name} gives {shape}, which is not a batch of images")
        if not dtype.is_floating_point:
            raise UnsupportedOperation(f"aten.{name} gives {dtype}, which has no derivative")
        return shape[1:]

    @staticmethod
    def aliases(node: Node) -> set[Node]:
        """The other nodes that may share memory with one: views of it, and what it is a view of."""
        found: set[Node] = set()
        todo = [node]
        while todo:
            current = todo.pop()
            neighbours = [user for user in current.users if is_view(user)]
            if is_view(current):
                neighbours += [n for n in current.all_input_nodes if n.op != "get_attr"]
            for other in neighbours:
                if other not in found and other is not node:
                    found.add(other)
                    todo.append(other)
        return found

    def write_in_place(self, node: Node, result: Ref) -> None:
        """Point the target of an in-place operation, and its aliases, to the result."""
        target = node.args[0]
        assert isinstance(target, Node)
        if target.op == "placeholder":
            raise UnsupportedOperation("the network writes its input in place")
        now, old = self.order[node], self.values[target]
        for other in (target, *self.aliases(target)):
            if isinstance(value := self.values.get(other), Ref) and value == old:
                self.values[other] = result
            elif any(self.order[user] > now for user in other.users):
                raise UnsupportedOperation(
                    f"{op_name(node)[0]} writes in place what is read later through a view"
                )


def is_view(node: Node) -> bool:
    """Whether an operation returns its first argument or a view of it.

    Args:
        node: any.
    """
    if node.op != "call_function" or op_name(node)[0].partition(".")[0] not in _VIEWS:
        return False
    return not _is_copy(node)


def _is_copy(node: Node) -> bool:
    """Whether contiguous or to returned a copy: of other strides, or because it was asked for."""
    if op_name(node)[0].partition(".")[0] not in ("contiguous", "to"):
        return False
    source, target = node.args[0], node.target
    assert isinstance(source, Node)
    assert isinstance(target, torch._ops.OpOverload)
    before, after = source.meta.get("tensor_meta"), node.meta.get("tensor_meta")
    if before is None or after is None or before.stride != after.stride:
        return True
    names = [argument.name for argument in target._schema.arguments]
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    return bool(given.get("copy", False))


def _flat(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [item for inner in value for item in _flat(inner)]
    if isinstance(value, dict):
        return _flat(list(value.values()))
    return [value]


def _map(value: Any, change: Callable[[Any], Any]) -> Any:
    """A structure of arguments with each of them changed."""
    if isinstance(value, tuple | list):
        return type(value)(_map(item, change) for item in value)
    if isinstance(value, dict):
        return {name: _map(item, change) for name, item in value.items()}
    return change(value)


def _channels_first(argument: Any) -> Any:
    """An operand of an elementwise operation whose channels are in the last of four dimensions."""
    if isinstance(argument, Ref):
        return replace(argument, moved=False)
    if isinstance(argument, Tensor) and 0 < argument.dim() <= 4:
        whole = argument.reshape((1,) * (4 - argument.dim()) + tuple(argument.shape))
        return whole.permute(0, 3, 1, 2)
    return argument


def _at(args: Any) -> str:
    shapes = [value.shape for value in _flat(list(args)) if isinstance(value, Ref)]
    return f" on {shapes[0]}" if shapes else ""


# What rules share.


def pair(value: Any) -> Pair:
    """One or two numbers as two.

    Args:
        value: an int, or a sequence of one or two.
    """
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(second)


def constant(value: Any) -> Tensor | None:
    """A constant tensor or number as a tensor, or None for a value of the program.

    Args:
        value: an operand.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, bool | int | float):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def channel_constant(value: Any, x: Ref) -> Tensor:
    """A constant operand as (C,) float64.

    Args:
        value: a tensor or a number.
        x: the other operand.

    Raises:
        UnsupportedOperation: it is not one number a channel.
    """
    tensor = constant(value)
    assert tensor is not None
    tensor = tensor.double()
    channels, dims = x.shape[0], len(x.shape) + 1
    if tensor.dim() > dims:
        raise UnsupportedOperation(f"a constant of shape {tuple(tensor.shape)}")
    shape = (1,) * (dims - tensor.dim()) + tuple(tensor.shape)
    if math.prod(shape) not in (1, shape[1]) or shape[1] not in (1, channels):
        raise UnsupportedOperation(
            f"a constant of shape {tuple(tensor.shape)}, which is not one number a channel"
        )
    return tensor.reshape(-1).expand(channels)


def require_image(x: Any) -> None:
    """Refuse an operand that is not a value (C, H, W).

    Args:
        x: an operand.
    """
    if not isinstance(x, Ref) or len(x.shape) != 3:
        raise UnsupportedOperation("only 2-d images (N, C, H, W) are supported here")


def require_constants(*operands: Any) -> None:
    """Refuse weights that depend on the images.

    Args:
        *operands: tensors or None.
    """
    if any(isinstance(operand, Ref) for operand in operands):
        raise UnsupportedOperation("its weights depend on the images")
