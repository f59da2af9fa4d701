"""From a recorded graph of ATen operations to the compiler's own, by one rule for each.

The rules are in `compiler/rules`, with the decorator `lowers`. What they share is at the end.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sign_ext.compiler.builder import (
    Builder,
    arranged,
    condensed,
    stored,
    stored_constant,
)
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.shaping import Reshape
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.positions import ref_of
from sign_ext.compiler.recordings import (
    SECOND_IMAGES,
    annotated,
    grown_otherwise,
    recorded_sizes,
    twin_sizes,
)
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.trace import TRACED_IMAGES
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.layout import Pair

Rule = Callable[..., Any]  # (builder, output's shape of one image, *args, **kwargs) → Ref(s)
RULES: dict[str, Rule] = {}
_ELEMENTWISE: set[str] = set()  # of rules whose operations do not ask where the channels are
_FALLBACKS: dict[str, Rule] = {}  # tried last; they take values in any view
_VIEWS: set[str] = set()  # of rules that take values in any view
_WHOLE: set[str] = set()  # of rules that take them with the images anywhere
_TRUTH: set[str] = set()  # of rules whose results are masks


def lowers(
    *names: str,
    elementwise: bool = False,
    views: bool = False,
    whole: bool = False,
    fallback: bool = False,
    truth: bool = False,
) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations, named as in "conv2d.default".

    A rule takes the builder, one image's shape of the output, and the operation's own arguments, in
    which a value of the program is a `Ref` and everything else a constant. It appends operations
    and returns the output's `Ref`, or a tuple of them. It raises UnsupportedOperation where it does
    not cover the arguments.

    A value is given to it in the shape in which it is stored, brought into order by a copy if need
    be, unless one of these says otherwise.

    Args:
        *names: of the operations.
        elementwise: the operation does the same wherever the elements are: values that the network
            sees alike are given to the rule as they are stored, and constants likewise.
        views: the rule takes any `Ref.view`. The images are first; where the network has merged
            them with what follows, shapes and views begin with that (`Ref.merged`, `Ref.axis`).
        whole: the rule also takes the images anywhere, and instead of one image's shape the whole
            recorded one of the output (a tuple of them if there are several).
        fallback: the rule is tried where there is no other, or where the other refuses; it takes
            any view.
        truth: its result is a mask, which is 0 and 1 in the program.
    """

    def register(function: Rule) -> Rule:
        if truth:
            _TRUTH.update(names)
        if fallback:
            _FALLBACKS.update(dict.fromkeys(names, function))
            return function
        RULES.update(dict.fromkeys(names, function))
        for given, known in ((elementwise, _ELEMENTWISE), (views, _VIEWS), (whole, _WHOLE)):
            (known.update if given else known.difference_update)(names)
        return function

    return register


def lower(
    graph: GraphModule, again: Callable[[], GraphModule] | None = None
) -> tuple[list[Op], int, Shape]:
    """The operations of a recorded graph.

    Args:
        graph: from `trace`. It is annotated where the images are merged with something else.
        again: records the same for `SECOND_IMAGES` images, which that needs.

    Returns:
        The operations, the number of Φ's value, and the shape of one image.

    Raises:
        UnsupportedOperation: an operation without a rule, or with arguments that no rule covers.
    """
    return Lowering(graph, again).run()


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
_VIEW_NAMES = {
    "view", "reshape", "flatten", "unsqueeze", "squeeze", "slice", "narrow", "chunk", "split",
    "getitem", "transpose", "permute", "select", "contiguous", "alias", "expand", "unflatten",
    "to", "dropout", "feature_dropout", "alpha_dropout", "split_with_sizes", "unbind", "t",
    "view_as", "_unsafe_view", "expand_as", "reshape_as", "movedim", "moveaxis", "swapaxes",
    "swapdims", "unsafe_chunk", "unsafe_split", "tensor_split", "numpy_T", "mT", "diagonal",
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

    def __init__(self, graph: GraphModule, again: Callable[[], GraphModule] | None = None) -> None:
        """Of a graph that was recorded with `TRACED_IMAGES` images."""
        self.graph, self.again = graph, again
        self.builder = Builder(TRACED_IMAGES)
        self.values: dict[Node, Any] = {}
        self.order = {node: i for i, node in enumerate(graph.graph.nodes)}

    def run(self) -> tuple[list[Op], int, Shape]:
        """Visit every node in order."""
        image_shape: Shape = ()
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self.placeholder(node)
                image_shape = self.values[node].view.shape
            elif node.op == "get_attr":
                self.values[node] = getattr(self.graph, str(node.target)).detach()
            elif node.op == "call_function":
                self.require_known(node)
                self.values[node] = self.call(node)
            elif node.op == "output":
                result = self.value_of(node.args[0])
        return self.builder.ops, self.phi(result).number, image_shape

    def phi(self, value: Any) -> Ref:
        """Φ's value in the network's shape: what brings it there folds into the cotangent."""
        if not isinstance(value, Ref):
            raise UnsupportedOperation("Φ does not depend on the images")
        return stored(self.builder, replace(value, images=0, merged=False, images_last=False))

    def value_of(self, argument: Any) -> Any:
        """An argument with its nodes replaced by their values."""
        return torch.fx.node.map_arg(argument, lambda node: self.values[node])

    def placeholder(self, node: Node) -> Ref:
        """The images."""
        meta = node.meta["tensor_meta"]
        self.builder.dtype = meta.dtype
        return ref_of(0, tuple(meta.shape[1:]))

    def require_known(self, node: Node) -> None:
        """Refuse what is no ATen operation: gradients or autocast switched inside the network."""
        if node.target is not operator.getitem and not isinstance(
            node.target, torch._ops.OpOverload
        ):
            name = getattr(node.target, "__name__", str(node.target))
            why = " (torch.no_grad inside the network)" if name == "_set_grad_enabled" else ""
            raise UnsupportedOperation(f"the forward pass calls {name}{why}")

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
            self.require_sizes(node, args[0][args[1]])
            return args[0][args[1]]
        try:
            self.require_repeated(node)
        except UnsupportedOperation as error:
            raise UnsupportedOperation(f"aten.{name}{_at(args)}: {error}") from None
        result = self.by_first_rule(node, name, args, kwargs)
        for ref in result if isinstance(result, tuple) else (result,):
            if isinstance(ref, Ref) and (ref.images or ref.merged):
                annotated(self.graph, self.again)
        self.require_sizes(node, result)
        return result

    def require_repeated(self, node: Node) -> None:
        """Of constants with a row an image, know that any number of images has the same rows."""
        inputs = [(source, self.values[source]) for source in node.all_input_nodes]
        dims = [len(x.sizes(2)) for _, x in inputs if isinstance(x, Ref)]
        for source, value in inputs:
            if not isinstance(value, Tensor) or source.op != "call_function":
                continue
            rows = len(value) if value.dim() else 0
            if not dims or value.dim() < min(dims) or rows < 2 or rows % TRACED_IMAGES:
                continue
            if rows != (recorded_sizes(node) or (rows,))[0]:
                continue  # weights, whose rows are channels
            annotated(self.graph, self.again)
            unknown = grown_otherwise(source)
            if unknown is not None:
                raise UnsupportedOperation(f"a constant by {unknown} that depends on the images")

    def by_first_rule(self, node: Node, name: str, args: Any, kwargs: Any) -> Any:
        """The result of the first rule that covers the arguments."""
        refused: UnsupportedOperation | None = None
        for rule, is_fallback in ((RULES.get(name), False), (_FALLBACKS.get(name), True)):
            if rule is None:
                continue
            before = len(self.builder.ops)
            try:
                return self.apply(node, name, rule, args, kwargs, is_fallback)
            except UnsupportedOperation as error:
                refused = refused or error
                del self.builder.ops[before:]
        if refused is None:
            raise UnsupportedOperation(f"the compiler has no rule for aten.{name}{_at(args)}")
        raise UnsupportedOperation(f"aten.{name}{_at(args)}: {refused}") from None

    def apply(
        self, node: Node, name: str, rule: Rule, args: Any, kwargs: Any, is_fallback: bool
    ) -> Any:
        """A rule's result on arguments as it takes them."""
        builder = self.builder
        if name in _WHOLE and not is_fallback:
            return rule(builder, recorded_sizes(node), *args, **kwargs)
        refs = [item for item in _flat([args, kwargs]) if isinstance(item, Ref)]
        one_number = not any(ref.view.shape for ref in refs)
        if one_number and not is_fallback and name not in _VIEWS:
            # Channels are what a rule asks for: of one number an image there is one.
            args, kwargs = (_map(given, self.as_vector) for given in (args, kwargs))
            refs = [item for item in _flat([args, kwargs]) if isinstance(item, Ref)]
        if name in _ELEMENTWISE and not is_fallback and self.are_alike(refs, node):
            return self.elementwise(rule, refs, args, kwargs)
        if one_number and not is_fallback and name not in _VIEWS:
            raise UnsupportedOperation("a value of one number an image")
        if any(ref.images for ref in refs):
            raise UnsupportedOperation("the images are not in the first dimension")
        windows = {ref.view.shape[0] for ref in refs if ref.merged}
        last = {ref.images_last for ref in refs}
        if len(windows) > 1 or len(last) > 1 or (windows and not all(ref.merged for ref in refs)):
            raise UnsupportedOperation("some of its operands have merged the images with others")
        if True in last and any(_has_rows(each) for each in _flat([args, kwargs])):
            raise UnsupportedOperation("a constant where the images are merged with positions")
        shape = self.shape_of(node, name, *windows)
        if is_fallback or name in _VIEWS:
            result = rule(builder, shape, *args, **kwargs)
            if not windows:
                return result

            def as_given(each: Any) -> Any:
                if isinstance(each, Ref):
                    return replace(each, merged=True, images_last=True in last)
                return each

            return _map(result, as_given)
        args, kwargs = (_map(given, self.in_order) for given in (args, kwargs))
        return rule(builder, shape, *args, **kwargs)

    def are_alike(self, refs: list[Ref], node: Node) -> bool:
        """Whether the network has values in the shape of the result, but not as they are stored."""
        sizes = recorded_sizes(node)
        alike = all(
            (ref.view.shape, ref.images, ref.merged, ref.images_last)
            == (refs[0].view.shape, refs[0].images, refs[0].merged, refs[0].images_last)
            for ref in refs
        )
        floating = sizes is not None and node.meta["tensor_meta"].dtype.is_floating_point
        plain = all(ref.is_plain for ref in refs)
        return alike and floating and not plain and sizes == refs[0].sizes(TRACED_IMAGES)

    def elementwise(self, rule: Rule, refs: list[Ref], args: Any, kwargs: Any) -> Any:
        """A rule's result on stored values, whose order the result has too."""
        covering = [ref for ref in refs if ref.covers]
        # Rather with the channels last, as products and norms of tokens have them.
        last = [ref for ref in covering if ref.view.shape[-1:] == ref.shape[:1]]
        like = next(iter((*last, *covering)), None)
        if like is None:
            like = condensed(self.builder, refs[0])
        if not like.shape:
            raise UnsupportedOperation("a value of one number an image")

        def given(argument: Any) -> Any:
            if isinstance(argument, Ref):
                return Ref(arranged(self.builder, argument, like).number, like.shape)
            if isinstance(argument, Tensor) and argument.dim():
                return self.constant_like(argument, like)
            return argument

        args, kwargs = _map(args, given), _map(kwargs, given)
        result: Ref = rule(self.builder, like.shape, *args, **kwargs)
        return result.like(like)

    def constant_like(self, constant: Tensor, like: Ref) -> Tensor:
        """A constant operand for a value as it is stored; it must be the same for all images."""
        return stored_constant(constant, like, TRACED_IMAGES)

    def as_vector(self, argument: Any) -> Any:
        """One number an image stored as (1,); anything else as it is."""
        if not isinstance(argument, Ref) or argument.shape == (1,):
            return argument
        x = stored(self.builder, argument)
        return self.builder.once(Reshape, x, (1,)).seen(View((), ()))

    def in_order(self, argument: Any) -> Any:
        """A value as it is stored in the network's shape; anything else as it is."""
        return stored(self.builder, argument) if isinstance(argument, Ref) else argument

    def require_sizes(self, node: Node, result: Any) -> None:
        """Compare the shapes of results with the recorded ones, of both recordings if known."""
        if not isinstance(result, Ref):
            return
        for recorded, images in (
            (recorded_sizes(node), TRACED_IMAGES),
            (twin_sizes(node), SECOND_IMAGES),
        ):
            if recorded is not None and recorded != result.sizes(images):
                raise UnsupportedOperation(
                    f"{op_name(node)[0]} gives {recorded} for {images} images, "
                    f"where {result.sizes(images)} is expected"
                )

    def shape_of(self, node: Node, name: str, windows: int = 1) -> Shape:
        """One image's shape of a node's output, () where it has several.

        Args:
            node: a call.
            name: of the operation.
            windows: what the images are merged with; the shape begins with it.
        """
        meta = node.meta.get("tensor_meta")
        if meta is None or not hasattr(meta, "shape"):
            return ()
        shape, dtype = tuple(meta.shape), meta.dtype
        if windows > 1 and shape and shape[0] == self.builder.batch * windows:
            shape = (self.builder.batch, windows, *shape[1:])
        if not shape or shape[0] != self.builder.batch:
            raise UnsupportedOperation(f"aten.{name} gives {shape}, which is not a batch of images")
        if dtype.is_complex:
            raise UnsupportedOperation(f"aten.{name} gives {dtype}; rules are for real numbers")
        is_mask = dtype == torch.bool and name in _TRUTH
        if not dtype.is_floating_point and not is_mask:
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
    if node.op != "call_function" or op_name(node)[0].partition(".")[0] not in _VIEW_NAMES:
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


def _has_rows(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.dim() > 1 and len(argument) > 1


def _at(args: Any) -> str:
    shapes = [value.view.shape for value in _flat(list(args)) if isinstance(value, Ref)]
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
