"""What a schedule is made of: slots and instructions, plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A tensor of the step."""

    kind: str  # "image", "value", "cotangent", "bit mask", "pool index"
    of: int  # the number of the value that it belongs to
    bytes: int  # of one image; 0 for the image itself, which is the caller's


@dataclass(frozen=True)
class Instruction:
    """One call of an operator.

    Attributes:
        what: "forward", "backward", "seed" (the cotangent at the last value), "mask" (a cotangent
            back through an activation), "add" (two cotangents), "cast" (the image to activations).
        op: the operation's place in the program; for "mask" and "add" of the value in question.
        side: which of the operation's inputs a "backward" is for.
        reads: slots, in the order that the executor's binding of `what` expects.
        out: the slot written.
        in_place: whether `out` takes over the memory of `reads[0]` (for "backward": of `other`).
        mask: a bit mask written (forward) or read for the operation's own activation (backward).
        index: a pool index written or read.
        inner: bit masks of the two activations within a block, written (forward) or read
            (backward); None where that is the identity.
        other: another branch's cotangent, added.
        x_mask: the bit mask of the activation that made the input, applied to the result.
        x_slope: that activation's slope.
        frees: slots that nothing reads any more.
    """

    what: str
    op: int
    out: int
    reads: tuple[int, ...] = ()
    side: int = 0
    in_place: bool = False
    mask: int | None = None
    index: int | None = None
    inner: tuple[int | None, int | None] = (None, None)
    other: int | None = None
    x_mask: int | None = None
    x_slope: float = 0.0
    frees: tuple[int, ...] = ()

    @property
    def taken(self) -> int:
        """The slot whose memory an instruction in place takes over."""
        taken = self.other if self.what == "backward" else self.reads[0]
        assert taken is not None
        return taken

    def slots_read(self) -> Iterator[int]:
        """Every slot it reads."""
        yield from self.reads
        for slot in (self.other, self.x_mask):
            if slot is not None:
                yield slot
        if self.what in ("backward", "mask", "seed"):
            for slot in (self.mask, self.index, *self.inner):
                if slot is not None:
                    yield slot

    def slots_written(self) -> Iterator[int]:
        """Every slot it allocates."""
        if not self.in_place:
            yield self.out
        if self.what == "forward":
            for slot in (self.mask, self.index, *self.inner):
                if slot is not None:
                    yield slot


@dataclass(frozen=True)
class Schedule:
    """The instructions of one step.

    Attributes:
        slots: all tensors; slot 0 is the image.
        instructions: in order.
        delta: the slot that δ ends in, or the cotangent that the stem's update takes.
        stem: how many instructions at the end are the first convolution's input-backward (and that
            of an affine map before it), which an executor may add straight to the image.
    """

    slots: tuple[Slot, ...]
    instructions: tuple[Instruction, ...]
    delta: int
    stem: int
