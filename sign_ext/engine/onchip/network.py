"""What of a program runs on chip: its layers, their launches and constants, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.ir.program import Program
from sign_ext.engine.onchip.kernel_args import Constants, pack_constants, plan_args
from sign_ext.engine.onchip.partition import (
    OnChipLayer,
    Trunk,
    rest_of,
    trunk_of,
    why_not_cut_after,
)
from sign_ext.engine.onchip.plan import OnChipPlan, SharedMemory, plan_shared_memory
from sign_ext.engine.onchip.shared_memory import BACKWARD, FORWARD, WHOLE
from sign_ext.errors import BackendError
from sign_ext.formatting import bytes_in_words


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of the kernel.

    Attributes:
        plan: where everything lies.
        args: the same, as the kernel takes it.
    """

    plan: OnChipPlan
    args: Tensor


@dataclass(frozen=True, eq=False)
class OnChipNetwork:
    """What runs on chip, and what does not.

    Attributes:
        trunk: the layers on chip, and the affine map before them.
        launches: one for whole steps, or a forward and a backward one.
        constants: what they read.
        seed: the last value's cotangent, (C, H, W) or (F,), or None where the rest computes it.
        rest: what runs between the two launches, or None where one launch does whole steps.
        stop_reason: why there is a rest, or "".
    """

    trunk: Trunk
    launches: tuple[Launch, ...]
    constants: Constants
    seed: Tensor | None
    rest: Program | None
    stop_reason: str

    @property
    def layers(self) -> tuple[OnChipLayer, ...]:
        """The layers on chip."""
        return self.trunk.layers

    @property
    def is_whole(self) -> bool:
        """Whether one launch does all steps."""
        return self.rest is None

    @property
    def features_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the last value on chip."""
        return self.layers[-1].shape

    def lines(self) -> tuple[str, ...]:
        """A description for people: what runs where."""
        on_chip = (
            f"on chip: {len(self.layers)} layers, "
            f"{bytes_in_words(self.launches[0].plan.bytes)} of shared memory for an image"
        )
        if self.rest is None:
            return (f"{on_chip}, all steps in one launch",)
        backward = bytes_in_words(self.launches[1].plan.bytes)
        rest = ", ".join(str(op) for op in self.rest.ops)
        return (
            f"{on_chip} ({backward} backward), two launches a step",
            f"between them, fused: {rest} ({self.stop_reason})",
        )


def put_on_chip(
    program: Program,
    memory: SharedMemory,
    device: torch.device,
    *,
    momentum: bool = False,
    threads: int | None = None,
) -> OnChipNetwork:
    """As many of a program's first layers as fit; if all of them do, in one launch.

    Args:
        program: the network.
        memory: the device's shared memory.
        device: where the constants go.
        momentum: whether there is a velocity.
        threads: in a block, 128, 256 or 512; None for the rule.

    Raises:
        BackendError: not even the first layer can run on chip; the message says why.
    """
    trunk = trunk_of(program)
    stop_reason = trunk.stop_reason
    for count in range(len(trunk.layers), 0, -1):
        layers = trunk.layers[:count]
        end = layers[-1].end
        whole = end == len(program.ops)
        why = (None if whole else _why_no_rest(program, end)) or why_not_cut_after(layers)
        if why is not None:
            stop_reason = why
            continue
        modes = (WHOLE,) if whole else (FORWARD, BACKWARD)
        try:
            plans = [
                plan_shared_memory(layers, mode, memory, momentum=momentum, threads=threads)
                for mode in modes
            ]
        except BackendError as error:
            stop_reason = str(error)
            continue
        part = Trunk(layers, trunk.scale, trunk.shift, stop_reason)
        seed = program.seed if whole else None
        constants = pack_constants(part, seed, device)
        launches = tuple(Launch(plan, plan_args(layers, plan, constants)) for plan in plans)
        if whole:
            return OnChipNetwork(part, launches, constants, seed, None, "")
        rest = rest_of(program, end)
        return OnChipNetwork(part, launches, constants, seed, rest, stop_reason)
    raise BackendError(f"no layer of this network can run on chip: {stop_reason}")


def _why_no_rest(program: Program, end: int) -> str | None:
    """Why the operations from `end` on cannot run off chip, or None."""
    if len(program.shape_of(end)) != 3:
        return "a linear layer is on chip only where all that follows it is"
    if any(min(op.inputs) < end for op in program.ops[end:]):
        return f"a value before {program.ops[end]} is read again after it"
    return None


def share_on_chip(network: OnChipNetwork, program: Program) -> float:
    """The share of a step's multiply-adds that is done on chip, from 0 to 1.

    Args:
        network: what is on chip.
        program: the whole network.
    """
    everything = program.flops()
    outside = network.rest.flops() if network.rest is not None else 0
    return 1.0 - outside / everything if everything else 0.0
