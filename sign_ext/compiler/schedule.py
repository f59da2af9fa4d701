"""One step of a program as instructions on slots: what runs when, where it writes, what is freed.

A slot is one tensor of the step. The instruction that writes it allocates it, and it is freed after
the last instruction that reads it. An instruction in place gives its input's memory to its output.
The executor follows the schedule and the memory plan sums it, so the two cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from sign_ext.compiler.ir.op import Op, count, mask_bytes
from sign_ext.compiler.ir.program import Program


@dataclass(frozen=True)
class Slot:
    """A tensor of the step."""

    kind: str  # "image", "value", "cotangent", "bit mask", or the kind of another residue
    of: int  # the number of its value
    bytes: int  # of one image; 0 for the image itself, which is the caller's


@dataclass(frozen=True)
class Instruction:
    """One call of an operator.

    Attributes:
        kind: "forward", "backward", "seed" (the cotangent at the last value), "mask" (a cotangent
            back through an activation), "add" (two cotangents), "cast" (the image to activations).
        op: the operation's index in the program; for "mask" and "add", of the one that computed the
            value whose cotangent it is.
        side: which of the operation's inputs a "backward" is for.
        reads: slots, in the order that the executor's binder for this kind expects.
        out: the slot it writes.
        in_place: whether `out` takes over the memory of `reads[0]` (for "backward": of `other`, if
            there is one).
        mask: a bit mask written (forward) or read for the operation's own activation (backward).
        own: what else the operation keeps, by `Op.own_residues`, written (forward) or read
            (backward).
        other: another branch's cotangent, added.
        x_mask: the bit mask of the activation that made the input, applied to the result.
        x_slope: that activation's slope.
        frees: slots that nothing reads after it.
        workspace: bytes of one image that are allocated and freed while it runs.
    """

    kind: str
    op: int
    out: int
    reads: tuple[int, ...] = ()
    side: int = 0
    in_place: bool = False
    mask: int | None = None
    own: tuple[int, ...] = ()
    other: int | None = None
    x_mask: int | None = None
    x_slope: float = 0.0
    frees: tuple[int, ...] = ()
    workspace: int = 0

    @property
    def overwritten(self) -> int:
        """The slot whose memory an instruction in place takes over."""
        if self.kind == "backward" and self.other is not None:
            return self.other
        return self.reads[0]

    def slots_read(self) -> Iterator[int]:
        """Every slot it reads."""
        yield from self.reads
        for slot in (self.other, self.x_mask):
            if slot is not None:
                yield slot
        if self.kind in ("backward", "mask", "seed"):
            yield from self._residues()

    def slots_written(self) -> Iterator[int]:
        """Every slot it allocates."""
        if not self.in_place:
            yield self.out
        if self.kind == "forward":
            yield from self._residues()

    def _residues(self) -> Iterator[int]:
        if self.mask is not None:
            yield self.mask
        yield from self.own


@dataclass(frozen=True)
class Schedule:
    """The instructions of one step.

    Attributes:
        slots: all tensors; slot 0 is the image.
        instructions: in order.
        delta: the slot of δ.
        stem: how many instructions at the end are the first convolution's input-backward (and that
            of an affine map before it). An executor may replace them by adding δ straight to the
            image.
    """

    slots: tuple[Slot, ...]
    instructions: tuple[Instruction, ...]
    delta: int
    stem: int


def schedule(program: Program, element_size: int = 4, *, cast: bool = False) -> Schedule:
    """The instructions of one step.

    Args:
        program: any program.
        element_size: bytes of an element of an activation.
        cast: whether activations have another dtype than the image.
    """
    return _Scheduler(program, element_size, cast).run()


@dataclass
class _Scheduler:
    """Builds a schedule: forward, seed, backward, then the frees.

    A value's cotangent is the sum of what the operations that read it send back. `cotangent` maps
    each value to the slot of its sum so far; the operations are visited last to first, so the sum
    of an operation's output is complete when its turn comes.

    Ownership: several values may hold one slot, since a sum passes its cotangent through to its
    inputs without a copy. `holders` counts them. A slot with one holder may be overwritten by that
    holder's next sum or mask; with more, the result goes to a new slot and the others keep theirs.

    Attributes:
        value: slot of each value.
        masks: bit mask of each operation's own activation, by the operation's index.
        own: what else each operation keeps, by the operation's index.
        cotangent: slot of each value's cotangent so far; an entry goes when its operation is done.
        holders: how many values hold each cotangent slot.
        masked: values whose cotangent has already been pulled back through their activation.
    """

    program: Program
    element_size: int
    cast: bool
    slots: list[Slot] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    value: dict[int, int] = field(default_factory=dict)
    masks: dict[int, int] = field(default_factory=dict)
    own: dict[int, tuple[int, ...]] = field(default_factory=dict)
    cotangent: dict[int, int] = field(default_factory=dict)
    holders: Counter[int] = field(default_factory=Counter)
    masked: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Look up once what every operation needs to know of the program."""
        self.readers = self.program.readers()
        self.stem = self.program.stem()
        self.read_by_backward = {
            number
            for op in self.program.ops
            for side in range(len(op.inputs))
            for number in op.backward_reads(side)
        }

    def slot(self, kind: str, of: int, size: int | None = None) -> int:
        """A new slot, of the value's size unless another is given."""
        if size is None:
            size = count(self.program.shape_of(of)) * self.element_size
        self.slots.append(Slot(kind, of, size))
        return len(self.slots) - 1

    def run(self) -> Schedule:
        """The whole step."""
        program = self.program
        image = self.value[0] = self.slot("image", 0, 0)
        # An affine map of the image reads its float32 and writes the activations' dtype: no cast.
        readers = [program.ops[i] for i in self.readers[0]]
        if self.cast and not all(op.is_affine for op in readers):
            self.value[0] = self.slot("value", 0)
            self.instructions.append(Instruction("cast", 0, self.value[0], (image,)))
        for i, op in enumerate(program.ops):
            self._forward_op(i, op)
        delta = self._backward()
        stem = 0 if self.stem is None else self.stem + 1
        return Schedule(tuple(self.slots), tuple(self._with_frees(delta)), delta, stem)

    # Forward

    def _forward_op(self, i: int, op: Op) -> None:
        """One operation's value and bits."""
        number = i + 1
        reads = tuple(self.value[n] for n in op.inputs)
        in_place = self._may_work_in_place(i, op)
        out = self.slot("value", number)
        mask = None
        if not op.activation.is_identity:
            mask = self.masks[i] = self.slot("bit mask", number, mask_bytes(op.shape))
        residues = op.own_residues(self.element_size)
        own = self.own[i] = tuple(self.slot(each.kind, number, each.bytes) for each in residues)
        self.value[number] = out
        self.instructions.append(
            Instruction(
                "forward",
                i,
                out,
                reads,
                in_place=in_place,
                mask=mask,
                own=own,
                workspace=op.workspace(self.element_size),
            )
        )

    def _may_work_in_place(self, i: int, op: Op) -> bool:
        """Whether nothing reads the first input after this, and its operator can overwrite it."""
        number = op.inputs[0]
        if not op.works_in_place or number == 0:  # the image is the caller's
            return False
        if op.inputs.count(number) > 1 or number in self.read_by_backward:
            return False
        return all(reader <= i for reader in self.readers[number])

    # Backward

    def _backward(self) -> int:
        """Cotangents from the seed to the image; returns the slot of δ."""
        ops = self.program.ops
        last = len(ops)
        seed = self.slot("cotangent", last)
        if not ops:
            reads = (self.value[0],) if self.program.by_objective else ()
            self.instructions.append(Instruction("seed", -1, seed, reads))
            return seed
        # The seed is a constant, so its mask costs nothing extra: it is applied as it is written.
        # Of an objective, the cotangent is made from the last value, and masked like any other.
        by_objective = self.program.by_objective
        reads = (self.value[last],) if by_objective else ()
        mask = None if by_objective else self.masks.get(last - 1)
        self.instructions.append(Instruction("seed", last - 1, seed, reads, mask=mask))
        self._hold(last, seed)
        if mask is not None:
            self.masked.add(last)
        for i in reversed(range(last)):
            self._backward_op(i, ops[i])
        return self.cotangent[0]

    def _hold(self, number: int, slot: int) -> None:
        """Make a slot the cotangent of a value, in place of the one it held."""
        old = self.cotangent.get(number)
        if old is not None:
            self.holders[old] -= 1
        self.cotangent[number] = slot
        self.holders[slot] += 1

    def _backward_op(self, i: int, op: Op) -> None:
        """The cotangents of one operation's inputs, from that of its output, which is complete."""
        number = i + 1
        own_mask = self.masks.get(i) if number not in self.masked else None
        on_load = op.masks_on_load or i == self.stem
        if own_mask is not None and (op.has_residual or not on_load):
            # Nothing applies the bits on the way: the operator cannot, or the residual's cotangent,
            # which is passed through, needs them too.
            self._mask(number, own_mask, op.activation.slope)
            own_mask = None
        g = self.cotangent[number]
        # Inputs whose cotangent is computed from g come first, then those that g is passed through
        # to, so that g is never its own `other`; the other way round where the operator may take
        # g for it.
        sides = list(enumerate(op.inputs))
        for side, target in reversed(sides) if op.adds_other_itself else sides:
            if op.is_identity_vjp or (op.has_residual and side == 1):
                self._pass_through(target, g)
            else:
                self._compute(i, op, side, target, g, own_mask)
        self.holders[g] -= 1
        del self.cotangent[number]

    def _mask(self, number: int, mask: int, slope: float) -> None:
        """Pull a value's cotangent back through its activation, in place if it holds it alone."""
        g = self.cotangent[number]
        in_place = self.holders[g] == 1
        out = self.slot("cotangent", number)
        self.instructions.append(
            Instruction("mask", number - 1, out, (g,), in_place=in_place, mask=mask, x_slope=slope)
        )
        self._hold(number, out)

    def _pass_through(self, target: int, g: int) -> None:
        """Add an operation's cotangent to that of an input, unchanged."""
        earlier = self.cotangent.get(target)
        if earlier is None:
            self._hold(target, g)  # no copy: from here on two values hold the slot
            return
        in_place = self.holders[earlier] == 1
        out = self.slot("cotangent", target)
        self.instructions.append(
            Instruction("add", target - 1, out, (earlier, g), in_place=in_place)
        )
        self._hold(target, out)

    def _compute(
        self, i: int, op: Op, side: int, target: int, g: int, own_mask: int | None
    ) -> None:
        """One input's cotangent, added to what other branches sent back."""
        other = self.cotangent.get(target)
        if other is not None:
            in_place = op.takes_epilogue and self.holders[other] == 1
        else:
            in_place = op.overwrites_cotangent and side == 0 and self.holders[g] == 1
        x_mask = None
        slope = 0.0
        producer = target - 1
        # The input's own activation can be applied here only if this cotangent is the last to come.
        # Readers are visited last to first, so that is the first reader's.
        completes = self.readers[target][0] == i and op.inputs.count(target) == 1
        if op.takes_epilogue and completes and producer in self.masks:
            x_mask = self.masks[producer]
            slope = self.program.ops[producer].activation.slope
            self.masked.add(target)
        out = self.slot("cotangent", target)
        again = tuple(self.value[number] for number in op.backward_reads(side))
        self.instructions.append(
            Instruction(
                "backward",
                i,
                out,
                (g, *again),
                side=side,
                in_place=in_place,
                mask=own_mask,
                own=self.own[i],
                other=other,
                x_mask=x_mask,
                x_slope=slope,
                workspace=op.backward_workspace(self.element_size) if side == 0 else 0,
            )
        )
        self._hold(target, out)

    # Frees

    def _with_frees(self, delta: int) -> list[Instruction]:
        """Each instruction with the slots that it is the last to read or write.

        Two kinds of slots are not freed: the image and δ, which outlive the step, and a slot that
        an instruction in place overwrote, whose memory lives on in that instruction's output.
        """
        last: dict[int, int] = {}
        for t, instruction in enumerate(self.instructions):
            for slot in (*instruction.slots_read(), *instruction.slots_written(), instruction.out):
                last[slot] = t
        kept = {one.overwritten for one in self.instructions if one.in_place} | {0, delta}
        ends: dict[int, list[int]] = {}
        for slot, t in last.items():
            if slot not in kept:
                ends.setdefault(t, []).append(slot)
        return [
            replace(instruction, frees=tuple(sorted(ends.get(t, ()))))
            for t, instruction in enumerate(self.instructions)
        ]
