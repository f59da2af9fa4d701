"""The memory plan: the bytes that one image of a batch needs, summed over a schedule."""

from __future__ import annotations

from dataclasses import dataclass

from sign_ext.compiler.schedule import Schedule
from sign_ext.formatting import bytes_in_words


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one image.

    Attributes:
        peak: the most that is alive at once, not counting the image, its velocity and the weights.
        residues: bit masks, pool indices and other tensors that only carry something from the
            forward to the backward pass.
        at: the index of the instruction at which the peak is reached.
        buffers: how many tensors a step allocates.
        traffic: read and written by the step's operators.
        largest: the image's share of the largest tensor.
    """

    peak: int
    residues: int
    at: int
    buffers: int
    traffic: int
    largest: int

    def __str__(self) -> str:
        """One line."""
        return (
            f"{bytes_in_words(self.peak)} an image at its peak, of which residues at most "
            f"{bytes_in_words(self.residues)}; {self.buffers} buffers a step"
        )


def plan_memory(schedule: Schedule, *, updates_in_place: bool = True) -> MemoryPlan:
    """Sum a schedule's allocations.

    Args:
        schedule: the instructions of a step.
        updates_in_place: whether the stem's input-backward goes straight into the image, so that
            δ is never allocated.
    """
    slots = schedule.slots
    alive = peak = at = buffers = traffic = 0
    first_of_stem = len(schedule.instructions) - schedule.stem
    for t, instruction in enumerate(schedule.instructions):
        for slot in instruction.slots_written():
            if updates_in_place and t >= first_of_stem and slots[slot].kind == "cotangent":
                continue
            alive += slots[slot].bytes
            buffers += 1
        if alive + instruction.workspace > peak:
            peak, at = alive + instruction.workspace, t
        traffic += slots[instruction.out].bytes
        traffic += sum(slots[slot].bytes for slot in instruction.slots_read())
        alive -= sum(slots[slot].bytes for slot in instruction.frees)
    residues = sum(s.bytes for s in slots if s.kind not in ("image", "value", "cotangent"))
    largest = max((slot.bytes for slot in slots), default=0)
    return MemoryPlan(peak, residues, at, buffers, traffic, largest)
