"""The base class of a `Program`'s operations: plain data with a forward and an input-backward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Self

from torch import Tensor

from sign_ext.ops.activation import IDENTITY, Piecewise, mask_shape, pack_bits, unpack_bits

Shape = tuple[int, ...]


class Residue(NamedTuple):
    """A tensor that an operation keeps for one image between forward and backward."""

    kind: str  # "bit mask", "pool index", "input", "output", "factors"
    bytes: int


def count(shape: Shape) -> int:
    """Elements of one image of a shape.

    Args:
        shape: (C, H, W) or (F,).
    """
    total = 1
    for size in shape:
        total *= size
    return total


def mask_bytes(shape: Shape) -> int:
    """Bytes of the bit mask of one image.

    Args:
        shape: (C, H, W) or (F,).
    """
    rows, row_bytes = mask_shape((1, *shape))
    return rows * row_bytes


def describe_activation(activation: Piecewise) -> str:
    """The usual name of an activation: "relu", "relu6", "clamp(-1, 1)", "leaky_relu(0.01)".

    Args:
        activation: any but the identity.
    """
    if activation.slope:
        return f"leaky_relu({activation.slope:g})"
    if activation == (0.0, 6.0, 0.0):
        return "relu6"
    if activation == (0.0, float("inf"), 0.0):
        return "relu"
    return f"clamp({activation.low:g}, {activation.high:g})"


@dataclass(frozen=True, eq=False, kw_only=True)
class Op(ABC):
    """One operation, on values that are numbered in the order in which they are computed.

    A kind of operation is a subclass: its value, its input-backward, what it keeps, and its traits,
    which tell the schedule what the operators that run it can do in one pass.

    Attributes:
        inputs: the numbers of the values it reads.
        output: the number of the value it computes.
        in_shapes: one image's shape of each input.
        shape: one image's shape of the output.
        activation: applied last; its bits are a residue.
    """

    inputs: tuple[int, ...]
    output: int
    in_shapes: tuple[Shape, ...]
    shape: Shape
    activation: Piecewise = IDENTITY

    kind: ClassVar[str] = ""
    # Dimensions of an image's value that its operators take: 1 is (C,), 3 is (C, H, W); () is any.
    ranks: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The value before the activation, and what `linear_vjp` needs of it (None: nothing)."""

    @abstractmethod
    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The inputs' cotangents from that of the value before the activation."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The output, and the residue that `vjp` needs.

        Args:
            *inputs: (N, *in_shapes[i]).
        """
        value, kept = self.linear(*inputs)
        value = self.activation.apply(value)
        bits = None if self.activation.is_identity else pack_bits(self.activation.passes(value))
        return value, (bits, kept)

    def vjp(self, cotangent: Tensor, residue: Any) -> tuple[Tensor, ...]:
        """Cotangents of the inputs.

        Args:
            cotangent: of the output, (N, *shape).
            residue: from `forward`.
        """
        bits, kept = residue
        if bits is not None:
            cotangent = self.activation.pull_back(cotangent, unpack_bits(bits, cotangent.shape))
        return self.linear_vjp(cotangent, kept)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """What `linear_vjp` needs of one image, in activations of `element_size` bytes."""
        return ()

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """What of `kept` lies in tensors of its own, which no other operation reads or writes.

        The rest is the bits of its activation, and values that `backward_reads` names.
        """
        return ()

    def workspace(self, element_size: int) -> int:
        """Bytes of one image that its operators allocate and free again while they run."""
        return 0

    def backward_workspace(self, element_size: int) -> int:
        """The same for the input-backward, where that is not as much."""
        return self.workspace(element_size)

    def residues(self, element_size: int = 4) -> tuple[Residue, ...]:
        """Everything that is kept of one image.

        Args:
            element_size: bytes of an element of an activation.
        """
        kept = self.kept(element_size)
        if self.activation.is_identity:
            return kept
        return (Residue("bit mask", mask_bytes(self.shape)), *kept)

    @property
    def is_linear(self) -> bool:
        """Whether the input-backward needs nothing of the forward pass."""
        return not self.residues()

    def with_constants(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same operation with its weights and other constants changed.

        Args:
            change: maps each constant to its replacement; also those of operations it contains.
        """
        changed: dict[str, Any] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                changed[name] = change(value)
            elif isinstance(value, Op):
                changed[name] = value.with_constants(change)
            elif isinstance(value, tuple) and value and isinstance(value[0], Op):
                changed[name] = tuple(op.with_constants(change) for op in value)
        return replace(self, **changed) if changed else self

    def constants(self) -> tuple[Tensor, ...]:
        """Its weights and other constants, including those of operations it contains."""
        found: list[Tensor] = []
        for value in vars(self).values():
            if isinstance(value, Tensor):
                found.append(value)
            elif isinstance(value, Op):
                found += value.constants()
            elif isinstance(value, tuple) and value and isinstance(value[0], Op):
                found += [constant for op in value for constant in op.constants()]
        return tuple(found)

    def without_weights(self) -> Self:
        """The same operation with its large weights' shapes in place of their values.

        It still says what is computed; what runs it has prepared the values. Constants that
        operators read as they are stay.
        """
        return self

    def followed_by(self, scale: Tensor | None, shift: Tensor | None, **changes: Any) -> Op | None:
        """This operation and scale · x + shift after it as one, or None where that is impossible.

        Args:
            scale: (C,), or None for 1.
            shift: (C,), or None for 0.
            **changes: the new operation's inputs, one of which may be a residual that is new, its
                output and its activation.
        """
        return None

    def absorbs(self, *, shift: bool) -> bool:
        """Whether `preceded_by` can be called.

        Args:
            shift: whether there is a shift.
        """
        return False

    def preceded_by(self, scale: Tensor | None, shift: Tensor | None, **changes: Any) -> Op:
        """scale · x + shift and this operation after it as one.

        Args:
            scale: (C,), or None for 1.
            shift: (C,), or None for 0.
            **changes: the new operation's inputs and their shapes.
        """
        raise NotImplementedError(f"{self} absorbs nothing")

    @property
    def takes_residual(self) -> bool:
        """Whether its operator can add a second input to the value."""
        return False

    @property
    def has_residual(self) -> bool:
        """Whether the second input is added to the value, so that its cotangent is the output's."""
        return False

    @property
    def is_affine(self) -> bool:
        """Whether it is scale · x + shift and nothing else."""
        return False

    @property
    def scale_and_shift(self) -> tuple[Tensor | None, Tensor | None] | None:
        """Scale and shift, (C,) or None, if it is activation(scale · x + shift [+ residual])."""
        return None

    @property
    def zeros_around(self) -> tuple[int, int, int, int] | None:
        """Rows and columns of zeros (left, right, top, bottom), if it adds these and no more."""
        return None

    @property
    def takes_zeros(self) -> bool:
        """Whether `padded_by` can be called."""
        return False

    def padded_by(self, zeros: tuple[int, int, int, int], **changes: Any) -> Op:
        """Zeros around the first input and this operation after it as one.

        Args:
            zeros: (left, right, top, bottom), not negative.
            **changes: the new operation's inputs and their shapes.
        """
        raise NotImplementedError(f"{self} pads nothing")

    @property
    def selects_largest(self) -> bool:
        """Whether it takes maxima, so that an increasing map can be applied after it instead."""
        return False

    @property
    def flattens_input(self) -> bool:
        """Whether the input's shape does not matter, only the order (C, H, W) of its elements."""
        return False

    @property
    def keeps_order(self) -> bool:
        """Whether the value is the input in another shape, its elements in the order (C, H, W)."""
        return False

    @property
    def copied_view(self) -> Any:  # view.py reads this file
        """The `View` of the input, if the value is a copy of that and nothing else; or None."""
        return None

    def copying(self, view: Any, **changes: Any) -> Op:
        """The same with another view, for an operation that has a `copied_view`.

        Args:
            view: of the new input.
            **changes: the new operation's inputs and their shapes.
        """
        raise NotImplementedError(f"{self} copies no view")

    @property
    def channels_sliced(self) -> tuple[int, int] | None:
        """The channels start:stop, if it selects these and nothing else."""
        return None

    @property
    def splits_channels(self) -> bool:
        """Whether `with_channels` can be called."""
        return False

    def with_channels(self, start: int, stop: int, **changes: Any) -> Op:
        """This operation for some channels of its value alone.

        Args:
            start: the first of them.
            stop: one past the last.
            **changes: the new operation's output and its shape.
        """
        raise NotImplementedError(f"{self} computes all channels")

    def after_selection(self, shape: Shape) -> Op | None:
        """What is left of a selection of positions once its input has only these; None: nothing.

        Args:
            shape: of the input then, (C, 1, positions).
        """
        return None

    @property
    def may_be_left_to_library(self) -> bool:
        """Whether its input-backward is a convolution, or a library's own, as a plan chooses."""
        return False

    @property
    def at_each_position(self) -> bool:
        """Whether a position of the value depends on that position of the inputs alone.

        It is not asked of inputs of another size, which may be repeated for all positions.
        """
        return False

    @property
    def places_moved(self) -> tuple[int, ...] | None:
        """Where each position comes from, if whole positions move and nothing else; or None."""
        return None

    @property
    def channels_taken(self) -> tuple[int, ...] | None:
        """Which channel each channel is, if it selects channels of (C, H, W) and nothing else."""
        return None

    @property
    def takes_channels(self) -> bool:
        """Whether `taking_channels` can be called."""
        return False

    def taking_channels(self, index: tuple[int, ...], **changes: Any) -> Op:
        """A selection of channels and this operation after it as one.

        Args:
            index: of each channel that it reads now, the channel that it will read.
            **changes: the new operation's inputs and their shapes.
        """
        raise NotImplementedError(f"{self} takes its channels as they are")

    @property
    def positions_selected(self) -> tuple[int, int] | None:
        """The positions start:stop of (C, 1, T) that it selects, all channels; or None."""
        return None

    @property
    def averages_positions(self) -> bool:
        """Whether each new position is the same weighted mean of positions in every channel."""
        return False

    @property
    def is_identity_vjp(self) -> bool:
        """Whether the inputs' cotangents are the output's, unchanged."""
        return False

    @property
    def works_in_place(self) -> bool:
        """Whether its operator may write the output over the first input."""
        return False

    @property
    def masks_on_load(self) -> bool:
        """Whether its input-backward applies its activation's bits as it reads the cotangent."""
        return False

    @property
    def takes_epilogue(self) -> bool:
        """Whether its input-backward adds another branch's cotangent and masks the result."""
        return False

    @property
    def can_update_image(self) -> bool:
        """Whether its input-backward can be added straight to the image."""
        return False

    @property
    def overwrites_cotangent(self) -> bool:
        """Whether its input-backward may write over the cotangent that it reads.

        Only for operations of one input, or whose first input's cotangent is computed last.
        """
        return False

    @property
    def adds_other_itself(self) -> bool:
        """Whether its input-backward adds another branch's cotangent, which may be the output's."""
        return False

    @property
    def runs_by(self) -> str:
        """What runs it: "ours", operators of this project; "library", its products; "PyTorch"."""
        return "PyTorch"

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """Numbers of the values that the input-backward reads again.

        Args:
            side: which input it is for.
        """
        return ()

    def detail(self) -> str:
        """Sizes and options in a few words."""
        return ""

    def flops(self) -> int:
        """Floating-point operations of its products with weights, a multiply-add counted twice."""
        return 0

    def traffic(self, element_size: int = 4) -> int:
        """Bytes of one image that it reads and writes forward, without its weights.

        Args:
            element_size: bytes of an element of an activation.
        """
        return element_size * sum(map(count, (*self.in_shapes, self.shape)))

    def __str__(self) -> str:
        """One line."""
        terms = [self.kind, self.detail()]
        if not self.activation.is_identity:
            terms.append(f"+ {describe_activation(self.activation)}")
        return " ".join(filter(None, terms))
