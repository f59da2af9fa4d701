"""Inverted residuals as one operation: expand 1×1, depthwise, project 1×1 (MobileNetV2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import Op, Residue, describe_activation
from sign_ext.compiler.ir.program import Program, renumber

CHANNELS = 8  # all channel counts must be a multiple of this


@dataclass(frozen=True, eq=False, kw_only=True)
class InvertedResidual(Op):
    """project(depthwise(expand(x)) [, residual]), x and residual being its inputs.

    The three keep their own shapes and options. Their value numbers are those of the program that
    they were taken from and mean nothing here. `activation` is that of `project`.

    Attributes:
        expand: a pointwise convolution.
        depthwise: a depthwise one.
        project: a pointwise one, which adds the residual.
    """

    expand: Convolution
    depthwise: Convolution
    project: Convolution

    kind: ClassVar[str] = "inverted residual"

    @property
    def runs_by(self) -> str:
        """Our operator."""
        return "ours"

    @property
    def has_residual(self) -> bool:
        """A second input is added."""
        return len(self.inputs) > 1

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The three in sequence; keeps the bits of the first two activations."""
        x, *residual = inputs
        e, first = self.expand.forward(x)
        d, second = self.depthwise.forward(e)
        value, _ = self.project.linear(d, *residual)
        return value, (first, second)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The vjps of the three, in reverse."""
        first, second = kept
        d, *residual = self.project.linear_vjp(cotangent, None)
        (e,) = self.depthwise.vjp(d, second)
        (x,) = self.expand.vjp(e, first)
        return (x, *residual)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The bits of the first two activations."""
        return (*self.expand.residues(element_size), *self.depthwise.residues(element_size))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """These bits."""
        return self.kept(element_size)

    @property
    def adds_other_itself(self) -> bool:
        """It takes the output's cotangent for `other` where its residual is its own input."""
        return True

    def flops(self) -> int:
        """The sum over the three."""
        return self.expand.flops() + self.depthwise.flops() + self.project.flops()

    def detail(self) -> str:
        """Those of the three, with the first two activations."""
        terms = []
        for op in (self.expand, self.depthwise):
            identity = op.activation.is_identity
            activation = "" if identity else f" + {describe_activation(op.activation)}"
            terms.append(f"{op.detail()}{activation}")
        return ", ".join((*terms, self.project.detail()))


def fuse_blocks(program: Program, places: Sequence[int]) -> tuple[Program, tuple[int, ...]]:
    """A program in which some blocks are one operation each.

    Args:
        program: any program; it is left as it is.
        places: indices of the blocks' last convolutions, from `blocks_of` (or others, where that
            had to choose between two that share a convolution).

    Returns:
        The program, and for each of its operations its place in the old one (for a block, that of
        its last convolution).

    Raises:
        ValueError: no block that can be fused ends at one of the places, or two share a
            convolution.
    """
    blocks: dict[int, InvertedResidual] = {}
    inner: set[int] = set()
    for place in sorted(set(places)):
        found = _block_at(program, place)
        if isinstance(found, str):
            raise ValueError(_refusal(program, place, found))
        first, second = (op.output - 1 for op in (found.expand, found.depthwise))
        if first in blocks:
            shared = f"its first convolution ends the block at {first}, which is to be fused too"
            raise ValueError(_refusal(program, place, shared))
        blocks[place] = found
        inner |= {first, second}
    origin = tuple(i for i in range(len(program.ops)) if i not in inner)
    kept = [blocks.get(i, program.ops[i]) for i in origin]
    ops, _ = renumber(kept, len(program.ops))
    return replace(program, ops=tuple(ops)), origin


def blocks_of(program: Program) -> tuple[int, ...]:
    """The places of the last convolutions of all blocks that can be fused together.

    Of two blocks that share a convolution, the first is taken.

    Args:
        program: any program.
    """
    places: list[int] = []
    for place in range(len(program.ops)):
        found = _block_at(program, place)
        if isinstance(found, InvertedResidual) and found.expand.output - 1 not in places:
            places.append(place)
    return tuple(places)


def _refusal(program: Program, place: int, why: str) -> str:
    ends = ", ".join(map(str, blocks_of(program))) or "none"
    return (
        f"no block can be fused at place {place!r}: {why}. Blocks of this program that can be end "
        f"at: {ends}; sign_ext.compiler.ir.inverted_residual.blocks_of gives these places, and "
        "tune=True measures which of them are worth it"
    )


def _block_at(program: Program, place: int) -> InvertedResidual | str:
    """The block that ends at a place, or the reason why there is none."""
    ops = program.ops
    if not 0 <= place < len(ops):
        return f"the program has {len(ops)} operations"
    project = ops[place]
    if not isinstance(project, Convolution) or not project.is_pointwise:
        return f"{project} is not a dense 1×1 convolution of stride 1"
    depthwise = _made_for(program, project.inputs[0], place)
    if depthwise is None or not depthwise.is_depthwise or depthwise.dilation != (1, 1):
        return f"{project} is not the only reader of a depthwise convolution without dilation"
    expand = _made_for(program, depthwise.inputs[0], depthwise.output - 1)
    if expand is None or not expand.is_pointwise:
        return f"{depthwise} is not the only reader of a dense 1×1 convolution of stride 1"
    if expand.output - 1 == program.stem():
        return f"{expand} is the first convolution, whose input-backward adds to the image"
    for op in (expand, depthwise, project):
        if op.activation.slope:
            return f"the activation of {op} is not a clamp"
    channels = (expand.in_shapes[0][0], expand.shape[0], project.shape[0])
    if any(c % CHANNELS for c in channels):
        sizes = ", ".join(map(str, channels))
        return f"its channels are {sizes}, not all multiples of {CHANNELS}"
    return InvertedResidual(
        inputs=(*expand.inputs, *project.inputs[1:]),
        output=project.output,
        in_shapes=(*expand.in_shapes, *project.in_shapes[1:]),
        shape=project.shape,
        activation=project.activation,
        expand=expand,
        depthwise=depthwise,
        project=project,
    )


def _made_for(program: Program, number: int, reader: int) -> Convolution | None:
    """The one-input convolution that made a value, if `reader` alone reads it, and once."""
    if number == 0 or program.readers()[number] != (reader,):
        return None
    op = program.ops[number - 1]
    return op if isinstance(op, Convolution) and len(op.inputs) == 1 else None
