"""Records what a function of tensors runs, as a graph of ATen operations before autograd.

PyTorch's own recorder, `make_fx`, looks through all parameters for each constant that it meets, so
that its time grows with the square of the layers, makes a second, fake tensor of every value, and
patches `nn.Module` for the whole process while it runs. Here a dispatch mode sees each operation as
it runs, on the tensors themselves.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import TensorMetadata
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from sign_ext.errors import UnsupportedOperation

READS_WEIGHTS = "reads_weights"  # in a graph's meta: whether it holds numbers read from tensors
EXACT = "exact"  # in a node's meta: whether it ran where the network switches autocast off
_PLAIN = (Tensor, nn.Parameter, nn.Buffer)
_aten = torch.ops.aten


def record(function: Callable[[Tensor], Tensor], batch: Tensor) -> GraphModule:
    """Run a function once, and record it.

    Args:
        function: from a batch to one tensor.
        batch: what it is run on.

    Returns:
        A graph with one placeholder and one output. Tensors that were there before are its
        attributes, the very same; `meta["tensor_meta"]` of a node describes its value, and
        `meta[EXACT]` says whether it ran where autocast was switched off. Composite operations
        (conv2d, linear, batch_norm) are one node each. `meta[READS_WEIGHTS]` of the
        graph says whether the function read a tensor's value as a number, which the graph then
        holds.

    Raises:
        UnsupportedOperation: the function reads values that depend on the batch, switches autocast
            on, or has tensors of a class of their own.
    """
    recorder = _Recorder(batch)
    # Below autograd, whose kernels would take composite operations apart.
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd(), recorder, _Switches(recorder):
        value = function(batch)
    return recorder.finish(value)


class _Recorder(TorchDispatchMode):
    """Appends a node to a graph for each operation that runs."""

    def __init__(self, batch: Tensor) -> None:
        super().__init__()
        self.graph = Graph()
        self.held: dict[str, Tensor] = {}  # the graph's attributes
        self.nodes: Any = WeakTensorKeyDictionary()  # of each tensor that is alive
        self.of_batch: set[Node] = set()  # those that depend on the batch
        self.device = batch.device.type
        self.reads_weights = False
        self.outside = _autocast_regions()
        placeholder = self.graph.placeholder("images")
        placeholder.meta["tensor_meta"] = _described(batch)
        self.nodes[batch] = placeholder
        self.of_batch.add(placeholder)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation and record it."""
        leaves, structure = pytree.tree_flatten((args, dict(kwargs or {})))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        for tensor in given:
            if type(tensor) not in _PLAIN:
                raise _not_recorded(f"it has a {type(tensor).__name__}, which is no plain tensor")
        nodes = [self.node_of(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        depends = any(isinstance(node, Node) and node in self.of_batch for node in nodes)
        # A branch on a tensor is is_nonzero, which PyTorch does not tag.
        if func is _aten.is_nonzero.default or torch.Tag.data_dependent_output in func.tags:
            if depends:
                raise _not_recorded(f"{func} reads a value that depends on the images back")
            self.reads_weights |= bool(given)
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        # What `torch.tensor` made is given to lift_fresh, which returns it as it is: a copy, so
        # that what is written to it later is not written to the constant.
        target = _aten.lift_fresh_copy.default if func is _aten.lift_fresh.default else func
        node_args, node_kwargs = pytree.tree_unflatten(nodes, structure)
        node = self.graph.call_function(target, node_args, node_kwargs)
        self.track(node, result, depends)
        return result

    def node_of(self, tensor: Tensor) -> Node:
        """The node whose value a tensor is; a new constant for one that was there before."""
        node: Node | None = self.nodes.get(tensor)
        if node is None:
            name = f"constant_{len(self.held)}"
            self.held[name] = tensor
            node = self.graph.create_node("get_attr", name, name=name)
            node.meta["tensor_meta"] = _described(tensor)
            self.nodes[tensor] = node
        return node

    def track(self, node: Node, result: Any, depends: bool) -> None:
        """Make a node stand for what its operation returned, a tensor or several."""
        if depends:
            self.of_batch.add(node)
        # Autocast is off all the time; to switch it off once more is a region of its own.
        node.meta[EXACT] = _autocast_regions() > self.outside
        if isinstance(result, Tensor):
            node.meta["tensor_meta"] = _described(result)
            self.nodes[result] = node
        elif isinstance(result, tuple | list):
            for i, part in enumerate(result):
                if isinstance(part, Tensor):
                    self.track(self.graph.call_function(operator.getitem, (node, i)), part, depends)

    def finish(self, value: Tensor) -> GraphModule:
        """The graph, whose output is `value`."""
        self.graph.output(self.node_of(value))
        module = GraphModule(self.held, self.graph)
        module.meta[READS_WEIGHTS] = self.reads_weights
        return module


class _Switches(TorchFunctionMode):
    """Sees what no ATen operation shows: gradients are switched on or off, or autocast is on."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one function of PyTorch's, and record it if it is the switch of gradients."""
        if func is torch._C._set_grad_enabled:
            self.recorder.graph.call_function(func, args)
        elif torch.is_autocast_enabled(self.recorder.device):
            raise _not_recorded("it switches autocast on")
        return func(*args, **(kwargs or {}))


def _autocast_regions() -> int:
    """How many regions of autocast, on or off, one is in."""
    inside = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return inside


def _described(tensor: Tensor) -> TensorMetadata:
    stride = tensor.stride() if tensor.layout == torch.strided else ()
    return TensorMetadata(tensor.shape, tensor.dtype, False, stride, None, tensor.is_quantized, {})


def _not_recorded(why: str) -> UnsupportedOperation:
    return UnsupportedOperation(f"the forward pass cannot be recorded as a graph: {why}")
