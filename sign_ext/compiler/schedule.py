"""One step of a program as instructions on slots: what is computed when, where, and what is freed.

A slot is one tensor of the step. It is allocated by the instruction that writes it and freed after
the last one that reads it; an instruction in place hands its input's memory to its output. The
executor follows the schedule and the memory plan adds it up, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.compiler.ir.op import Op, count, mask_bytes
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise, Smooth
from sign_ext.compiler.ir.pooling import MaxPool
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.shaping import Reshape
from sign_ext.compiler.ir.traits import (
    is_affine,
    is_free,
    is_identity_vjp,
    masks_on_load,
    scales,
    stem_of,
    takes_epilogue,
)

# What a schedule is made of: slots and instructions, plain data.


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
        kind: "forward", "backward", "seed" (the cotangent at the last value), "mask" (a cotangent
            back through an activation), "add" (two cotangents), "cast" (the image to activations).
        op: the operation's place in the program; for "mask" and "add" of the value in question.
        side: which of the operation's inputs a "backward" is for.
        reads: slots, in the order that the executor's binding of this kind expects.
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

    kind: str
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
        taken = self.other if self.kind == "backward" else self.reads[0]
        assert taken is not None
        return taken

    def slots_read(self) -> Iterator[int]:
        """Every slot it reads."""
        yield from self.reads
        for slot in (self.other, self.x_mask):
            if slot is not None:
                yield slot
        if self.kind in ("backward", "mask", "seed"):
            for slot in (self.mask, self.index, *self.inner):
                if slot is not None:
                    yield slot

    def slots_written(self) -> Iterator[int]:
        """Every slot it allocates."""
        if not self.in_place:
            yield self.out
        if self.kind == "forward":
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


@dataclass
class _Scheduler:
    program: Program
    element_size: int
    cast: bool
    slots: list[Slot] = field(default_factory=list)
    done: list[Instruction] = field(default_factory=list)

    def slot(self, kind: str, of: int, size: int | None = None) -> int:
        """A new slot; the size is that of the value unless it is given."""
        if size is None:
            size = count(self.program.shape_of(of)) * self.element_size
        self.slots.append(Slot(kind, of, size))
        return len(self.slots) - 1

    def run(self) -> Schedule:
        """Forward, seed, backward; then what is freed when."""
        program = self.program
        image = self.slot("image", 0, 0)
        self.value = {0: image}
        self.masks: dict[int, int] = {}
        self.indices: dict[int, int] = {}
        self.inner: dict[int, tuple[int | None, int | None]] = {}  # bit masks within blocks
        # An affine map of the image reads its float32 and writes the activations' type.
        readers = [program.ops[i] for i in program.readers()[0]]
        if self.cast and not all(is_affine(op) for op in readers):
            self.value[0] = self.slot("value", 0)
            self.done.append(Instruction("cast", 0, self.value[0], (image,)))
        for i, op in enumerate(program.ops):
            self.forward(i, op)
        self.stem = stem_of(program)
        delta = self.backward()
        count_of_stem = 0 if self.stem is None else self.stem + 1
        return Schedule(tuple(self.slots), tuple(self._with_frees(delta)), delta, count_of_stem)

    # Forward

    def forward(self, i: int, op: Op) -> None:
        """One operation's value and bits."""
        number = i + 1
        reads = tuple(self.value[n] for n in op.inputs)
        in_place = self._may_work_in_place(i, op)
        out = self.slot("value", number)
        mask = index = None
        if not op.activation.is_identity:
            mask = self.masks[i] = self._mask_slot(number, op)
        if isinstance(op, MaxPool):
            (kept,) = op.kept(self.element_size)
            index = self.indices[i] = self.slot("pool index", number, kept.bytes)
        inner = self.inner[i] = self._inner_masks(number, op)
        self.value[number] = out
        self.done.append(
            Instruction(
                "forward", i, out, reads, in_place=in_place, mask=mask, index=index, inner=inner
            )
        )

    def _inner_masks(self, number: int, op: Op) -> tuple[int | None, int | None]:
        """The bit masks of a block's first two activations."""
        if not isinstance(op, InvertedResidual):
            return None, None
        first, second = (
            None if part.activation.is_identity else self._mask_slot(number, part)
            for part in (op.expand, op.depthwise)
        )
        return first, second

    def _mask_slot(self, number: int, op: Op) -> int:
        return self.slot("bit mask", number, mask_bytes(op.shape))

    def _may_work_in_place(self, i: int, op: Op) -> bool:
        """Whether nobody reads the first input after this."""
        if not isinstance(op, Pointwise | Reshape) or op.inputs[0] == 0:
            return False
        if isinstance(op, Reshape) and not is_free(op):
            return False
        number = op.inputs[0]
        if op.inputs.count(number) > 1 or self._is_kept(number):
            return False
        return all(reader <= i for reader in self.program.readers()[number])

    def _is_kept(self, number: int) -> bool:
        """Whether a value is needed again in the backward pass."""
        for op in self.program.ops:
            if isinstance(op, Smooth):
                kept = op.output if op.keeps_output else op.inputs[0]
                if kept == number:
                    return True
            if isinstance(op, Multiply) and number in op.inputs:
                return True
        return False

    # Backward

    def backward(self) -> int:
        """Cotangents from the seed to the image; returns the slot of δ."""
        program = self.program
        ops = program.ops
        last = len(ops)
        if not ops:
            seed = self.slot("cotangent", 0)
            self.done.append(Instruction("seed", -1, seed))
            return seed
        self.cotangent: dict[int, int] = {}
        self.holders: Counter[int] = Counter()  # values that hold each slot
        self.masked: set[int] = set()
        self._give(last, self.slot("cotangent", last))
        mask = self.masks.get(last - 1)
        self.done.append(Instruction("seed", last - 1, self.cotangent[last], mask=mask))
        if mask is not None:
            self.masked.add(last)
        for i in reversed(range(last)):
            self._backward_op(i, ops[i])
        return self.cotangent[0]

    def _give(self, number: int, slot: int) -> None:
        old = self.cotangent.get(number)
        if old is not None:
            self.holders[old] -= 1
        self.cotangent[number] = slot
        self.holders[slot] += 1

    def _backward_op(self, i: int, op: Op) -> None:
        number = i + 1
        own_mask = self.masks.get(i) if number not in self.masked else None
        adds = isinstance(op, Convolution | Linear | Pointwise | InvertedResidual)
        passes_on = len(op.inputs) > 1 and adds
        on_load = masks_on_load(op) or scales(op) or i == self.stem
        if own_mask is not None and (passes_on or not on_load):
            self._mask(number, own_mask, op.activation.slope)
            own_mask = None
        g = self.cotangent[number]
        # First what is computed from the cotangent, then what it is handed on to. A block adds what
        # was handed on, which its own input's cotangent may be: there it is the other way round.
        sides = list(enumerate(op.inputs))
        for side, target in reversed(sides) if isinstance(op, InvertedResidual) else sides:
            hands_on = (passes_on and side == 1) or is_identity_vjp(op)
            if hands_on:
                self._pass_through(target, g)
            else:
                self._compute(i, op, side, target, g, own_mask)
        self.holders[g] -= 1
        del self.cotangent[number]

    def _mask(self, number: int, mask: int, slope: float) -> None:
        """A cotangent back through the activation of its value, in place if nobody else has it."""
        g = self.cotangent[number]
        in_place = self.holders[g] == 1
        out = self.slot("cotangent", number)
        self.done.append(
            Instruction("mask", number - 1, out, (g,), in_place=in_place, mask=mask, x_slope=slope)
        )
        self._give(number, out)

    def _pass_through(self, target: int, g: int) -> None:
        """The same cotangent for an input that was only added."""
        had = self.cotangent.get(target)
        if had is None:
            self._give(target, g)
            return
        in_place = self.holders[had] == 1
        out = self.slot("cotangent", target)
        self.done.append(Instruction("add", target - 1, out, (had, g), in_place=in_place))
        self._give(target, out)

    def _compute(
        self, i: int, op: Op, side: int, target: int, g: int, own_mask: int | None
    ) -> None:
        """One input's cotangent, added to what other branches gave it."""
        other = self.cotangent.get(target)
        in_place = takes_epilogue(op) and other is not None and self.holders[other] == 1
        x_mask = None
        slope = 0.0
        producer = target - 1
        is_last = self.program.readers()[target][0] == i and op.inputs.count(target) == 1
        if takes_epilogue(op) and is_last and producer in self.masks:
            x_mask = self.masks[producer]
            slope = self.program.ops[producer].activation.slope
            self.masked.add(target)
        out = self.slot("cotangent", target)
        kept: tuple[int, ...] = ()
        if isinstance(op, Smooth):
            kept = (self.value[op.output if op.keeps_output else op.inputs[0]],)
        elif isinstance(op, Multiply):
            kept = (self.value[op.inputs[1 - side]],)
        self.done.append(
            Instruction(
                "backward",
                i,
                out,
                (g, *kept),
                side=side,
                in_place=in_place,
                mask=own_mask,
                index=self.indices.get(i),
                inner=self.inner[i],
                other=other,
                x_mask=x_mask,
                x_slope=slope,
            )
        )
        self._give(target, out)

    # Frees

    def _with_frees(self, delta: int) -> list[Instruction]:
        """Each instruction with the slots that it reads or writes last."""
        last: dict[int, int] = {}
        for t, instruction in enumerate(self.done):
            for slot in (*instruction.slots_read(), *instruction.slots_written()):
                last[slot] = t
            last[instruction.out] = t
        taken = {instruction.taken for instruction in self.done if instruction.in_place}
        ends: dict[int, list[int]] = {}
        for slot, t in last.items():
            # Memory that an instruction in place has taken over lives on in its output.
            if slot not in taken and slot not in (0, delta):
                ends.setdefault(t, []).append(slot)
        return [
            replace(instruction, frees=tuple(sorted(ends.get(t, ()))))
            for t, instruction in enumerate(self.done)
        ]


def schedule(program: Program, element_size: int = 4, *, cast: bool = False) -> Schedule:
    """The instructions of one step.

    Args:
        program: any program.
        element_size: bytes of an element of an activation.
        cast: whether activations have another dtype than the image.
    """
    return _Scheduler(program, element_size, cast).run()
