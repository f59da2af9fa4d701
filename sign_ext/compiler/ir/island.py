"""Islands: operations of PyTorch that the compiler has no rule for, run and differentiated by it.

An island holds a connected part of what was recorded. Its value is that part's, and its
vector-Jacobian product is autograd's, to its inputs alone: the weights are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.autograd import Function
from torch.fx import GraphModule

from sign_ext.compiler.ir.op import Op, Residue, Shape, count
from sign_ext.ops.layout import share_memory

NAMES_SHOWN = 6  # of the operations inside


def label_of(names: Sequence[str], where: str) -> str:
    """What an island is called.

    Args:
        names: of the operations inside.
        where: the module of its weights, or "".

    Example:
        >>> label_of(("layer_norm", "linear"), "blocks.0")
        'layer_norm, linear (blocks.0)'
    """
    shown = ", ".join(names[:NAMES_SHOWN]) or "views"
    if len(names) > NAMES_SHOWN:
        shown += f" and {len(names) - NAMES_SHOWN} more"
    return f"{shown} ({where})" if where else shown


@dataclass(frozen=True)
class IslandResidue:
    """What an island keeps of one image, as a run of it on random values showed.

    Attributes:
        bytes: in tensors of its own.
        inputs: which inputs the backward pass reads, by their places.
        output: whether it reads the output.
        again: whether the backward pass computes the value again, from the inputs, and keeps
            nothing else.
    """

    bytes: int = 0
    inputs: tuple[int, ...] = ()
    output: bool = False
    again: bool = False


class Recorded:
    """Autograd's graph of one run of an island.

    It holds what autograd saved for the backward pass, and neither inputs nor outputs beyond that:
    cotangents come in and go out through two functions of ours, so that no leaf keeps an input.
    """

    def __init__(self, inputs: int) -> None:
        """Nothing is recorded yet."""
        self.cotangents: list[Tensor] = []
        self.gradients: list[Tensor | None] = [None] * inputs
        self.leaf: Tensor | None = None
        self.root: Tensor | None = None
        self.dtypes: list[torch.dtype] = []

    def pull_back(self, cotangents: Sequence[Tensor]) -> list[Tensor | None]:
        """The inputs' cotangents; None for zero. The graph is used up.

        Args:
            cotangents: of the outputs.
        """
        assert self.root is not None
        assert self.leaf is not None
        self.cotangents[:] = [g.to(d) for g, d in zip(cotangents, self.dtypes, strict=True)]
        if self.root.requires_grad:
            torch.autograd.grad(self.root, self.leaf, allow_unused=True)
        self.root = self.leaf = None
        self.cotangents.clear()
        return self.gradients


class _Enter(Function):
    """Gives an input its place in the graph, and takes its cotangent out of it."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, recorded: Recorded, side: int, x: Tensor) -> Tensor:
        ctx.recorded, ctx.side = recorded, side
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, None, None, None]:
        ctx.recorded.gradients[ctx.side] = cotangents[0]
        return None, None, None, None


class _Leave(Function):
    """Ends the graph in a number, whose derivative is the outputs' cotangents."""

    @staticmethod
    def forward(ctx: Any, recorded: Recorded, *outputs: Tensor) -> Tensor:
        ctx.recorded = recorded
        return outputs[0].new_empty(())

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.recorded.cotangents)


@dataclass(frozen=True, eq=False, kw_only=True)
class Island(Op):
    """A part of what was recorded of the network, as PyTorch runs it.

    Attributes:
        graph: called with the inputs, the weights and the number of images; returns the outputs.
        weights: its constants.
        weight_dtypes: theirs as the network has them.
        lower: which of them only operations read that autocast runs in fewer bits.
        dtype: the network's.
        layouts: the memory format in which it is given each input that is an image.
        plain_cotangent: whether cotangents are given to it contiguous, since its derivative is
            wrong with the channels innermost.
        outputs: one image's shape of each output. The value is the only one, or all of them flat,
            one after the other.
        names: of the ATen operations inside, without those that only move elements.
        where: the module that has its weights, or "" if it has none.
        products: floating-point operations of one image forward, a multiply-add counted twice.
        moved: bytes that its operations read and write for one image forward.
        residue: what it keeps.
        inner: bytes of one image that are alive inside at once, beyond what is kept.
    """

    graph: GraphModule
    weights: tuple[Tensor, ...] = ()
    weight_dtypes: tuple[torch.dtype, ...] = ()
    lower: frozenset[int] = frozenset()
    dtype: torch.dtype = torch.float32
    layouts: tuple[torch.memory_format, ...] = ()
    plain_cotangent: bool = False
    outputs: tuple[Shape, ...]
    names: tuple[str, ...] = ()
    where: str = ""
    products: int = 0
    moved: int = 0
    residue: IslandResidue = field(default_factory=IslandResidue)
    inner: int = 0

    kind: ClassVar[str] = "island"

    @property
    def is_linear(self) -> bool:
        """Never known: its derivative is autograd's."""
        return False

    def constants(self) -> tuple[Tensor, ...]:
        """Its weights."""
        return self.weights

    def with_constants(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With its floating weights changed; indices and masks stay as they are."""
        weights = tuple(change(w) if w.is_floating_point() else w for w in self.weights)
        return replace(self, weights=weights)

    def without_weights(self) -> Self:
        """With the weights' shapes in place of their values."""
        return replace(self, weights=tuple(weight.to("meta") for weight in self.weights))

    def prepared(self, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The weights for activations of a dtype.

        Autocast would cast some of them in each run; these are cast here, once.

        Args:
            dtype: of activations.
        """
        found = []
        for i, (weight, own) in enumerate(zip(self.weights, self.weight_dtypes, strict=True)):
            if not weight.is_floating_point():
                found.append(weight)
            elif dtype == torch.float64 or self.dtype == torch.float64:
                found.append(weight.to(torch.promote_types(own, dtype)))
            elif self._autocast(dtype) and i in self.lower:
                found.append(weight.to(dtype))
            else:
                found.append(weight.to(own))
        return tuple(found)

    def _autocast(self, dtype: torch.dtype) -> bool:
        """Whether activations of this dtype mean that autocast is on, as for autograd's backend."""
        return dtype != self.dtype and dtype not in (torch.float32, torch.float64)

    def record(self, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, Any]:
        """The value, and what `pull_back` needs.

        Args:
            inputs: (N, *in_shapes[i]).
            weights: from `prepared`.
        """
        dtype = inputs[0].dtype
        inputs = [
            x.to(self._own(dtype)).contiguous(memory_format=layout)
            for x, layout in zip(inputs, self.layouts, strict=True)
        ]
        if self.residue.again:
            with torch.no_grad():
                outputs = self._run(inputs, weights)
            return self._value(inputs, outputs, dtype), inputs
        recorded, outputs = self._recorded(inputs, weights)
        return self._value(inputs, outputs, dtype), recorded

    def pull_back(
        self, cotangent: Tensor, kept: Any, weights: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """The inputs' cotangents, each in memory of its own.

        Args:
            cotangent: of the value.
            kept: from `record`.
            weights: from `prepared`.
        """
        recorded = kept if isinstance(kept, Recorded) else self._recorded(kept, weights)[0]
        if self.plain_cotangent:
            cotangent = cotangent.contiguous()
        parts = [cotangent]
        if len(self.outputs) > 1:
            sizes = [count(shape) for shape in self.outputs]
            parts = [
                part.reshape(len(part), *shape)
                for part, shape in zip(cotangent.split(sizes, 1), self.outputs, strict=True)
            ]
        found: list[Tensor] = []
        for gradient, shape in zip(recorded.pull_back(parts), self.in_shapes, strict=True):
            if gradient is None:
                found.append(cotangent.new_zeros((len(cotangent), *shape)))
                continue
            gradient = gradient.to(cotangent.dtype)
            if any(share_memory(gradient, other) for other in (cotangent, *found)):
                gradient = gradient.clone()
            found.append(gradient)
        return tuple(found)

    def _recorded(
        self, inputs: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Recorded, list[Tensor]]:
        recorded = Recorded(len(inputs))
        with torch.enable_grad():
            leaf = inputs[0].new_empty(()).requires_grad_()
            entered = [_Enter.apply(leaf, recorded, side, x) for side, x in enumerate(inputs)]
            outputs = self._run(entered, weights)
            recorded.leaf, recorded.root = leaf, _Leave.apply(recorded, *outputs)
        recorded.dtypes = [output.dtype for output in outputs]
        return recorded, [output.detach() for output in outputs]

    def _run(self, inputs: Sequence[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
        dtype, device = inputs[0].dtype, inputs[0].device.type
        lower: AbstractContextManager[Any] = nullcontext()
        if self._autocast(dtype):
            lower = torch.autocast(device, dtype, cache_enabled=False)
        with lower:
            return list(self.graph(*inputs, *weights, len(inputs[0])))

    def _own(self, dtype: torch.dtype) -> torch.dtype:
        """What it computes in, where activations are of a dtype: as the network does in float16."""
        in_float16 = self.dtype == torch.float16 and dtype == torch.float32
        return torch.float16 if in_float16 else dtype

    def _value(self, inputs: Sequence[Tensor], outputs: list[Tensor], dtype: torch.dtype) -> Tensor:
        """The outputs as one value, in memory of its own."""
        if len(outputs) > 1:
            return torch.cat([output.flatten(1).to(dtype) for output in outputs], 1)
        value = outputs[0].to(dtype)
        if any(share_memory(value, x) for x in inputs):
            return value.clone()
        return value

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The recorded part's value; keeps autograd's graph of it."""
        return self.record(inputs, self.prepared(inputs[0].dtype))

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Pull back by autograd, once for each value."""
        return self.pull_back(cotangent, kept, self.prepared(cotangent.dtype))

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The inputs and the output that autograd saved."""
        residue = self.residue
        reads = tuple(self.inputs[i] for i in residue.inputs)
        return (*reads, self.output) if residue.output else reads

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """What autograd saved."""
        residue = self.residue
        elements = sum(count(self.in_shapes[i]) for i in residue.inputs)
        saved = residue.bytes + self._copied
        found = [Residue("saved", saved)] if saved else []
        if elements:
            found.append(Residue("input", elements * element_size))
        if residue.output:
            found.append(Residue("output", count(self.shape) * element_size))
        return tuple(found)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """Autograd's graph, with what it alone holds."""
        return (Residue("saved", self.residue.bytes + self._copied),)

    @property
    def _copied(self) -> int:
        """Bytes of the inputs and the value in float16, where everything else is in float32."""
        if self.dtype != torch.float16:
            return 0
        inputs = sum(count(self.in_shapes[i]) for i in self.residue.inputs)
        return 2 * (inputs + count(self.shape) * self.residue.output)

    def workspace(self, element_size: int) -> int:
        """Values and cotangents inside."""
        return self.inner

    def flops(self) -> int:
        """Of its matrix products and convolutions."""
        return self.products

    def traffic(self, element_size: int = 4) -> int:
        """Of all operations inside."""
        return self.moved

    def label(self) -> str:
        """The operations inside, and the module."""
        return label_of(self.names, self.where)

    def detail(self) -> str:
        """The label, and whether the value is computed twice."""
        return f"{self.label()}, again backward" if self.residue.again else self.label()
