"""A program on chip: which part of it, the plans of its launches, its constants, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.ir.program import Program
from sign_ext.engine.onchip.kernel_args import Constants, pack_constants, plan_words
from sign_ext.engine.onchip.partition import OnChipLayer, Trunk, rest_of, trunk_of, unusable
from sign_ext.engine.onchip.plan import OnChipPlan, SharedMemory, plan_shared_memory
from sign_ext.engine.onchip.shared_memory import BACKWARD, FORWARD, WHOLE
from sign_ext.errors import BackendError
from sign_ext.formatting import bytes_in_words


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of the kernel.

    Attributes:
        plan: where everything lies.
        words: the same as the kernel takes it.
    """

    plan: OnChipPlan
    words: Tensor


@dataclass(frozen=True, eq=False)
class OnChipNetwork:
    """What runs on chip, and what does not.

    Attributes:
        trunk: the layers on chip, and the affine map before them.
        launches: one for whole steps, or the forward and the backward one.
        constants: what they read.
        seed: the last value's cotangent, (C, H, W) or (F,), or None where the rest makes it.
        rest: what runs between the two, or None where a launch does whole steps.
        ends: why there is a rest, or "".
    """

    trunk: Trunk
    launches: tuple[Launch, ...]
    constants: Constants
    seed: Tensor | None
    rest: Program | None
    ends: str

    @property
    def layers(self) -> tuple[OnChipLayer, ...]:
        """Those on chip."""
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
        """In words: what is where."""
        first = self.launches[0].plan
        count = f"{len(self.layers)} layers"
        what = f"on chip: {count}, {bytes_in_words(first.bytes)} of shared memory for an image"
        if self.is_whole:
            return (f"{what}, all steps in one launch",)
        back = self.launches[1].plan
        words = f"{what} ({bytes_in_words(back.bytes)} backward), two launches a step"
        assert self.rest is not None
        rest = ", ".join(str(op) for op in self.rest.ops)
        return (words, f"between them, fused: {rest} ({self.ends})")


def put_on_chip(
    program: Program,
    has: SharedMemory,
    device: torch.device,
    *,
    momentum: bool = False,
    threads: int | None = None,
) -> OnChipNetwork:
    """As many of a program's first layers as fit; all of them, if they do, in one launch.

    Args:
        program: the network.
        has: the device's shared memory.
        device: where the constants go.
        momentum: whether there is a velocity.
        threads: of a block, 128, 256 or 512; None for the rule.

    Raises:
        BackendError: not even the first layer can run on chip; the message says why.
    """
    trunk = trunk_of(program)
    ends = trunk.ends
    for count in range(len(trunk.layers), 0, -1):
        layers = trunk.layers[:count]
        place = layers[-1].ends
        part = Trunk(layers, trunk.scale, trunk.shift, ends)
        whole = place == len(program.ops)
        if not whole and len(program.shape_of(place)) != 3:
            ends = "a linear layer is on chip only where all that follows it is"
            continue
        if not whole and any(min(op.inputs) < place for op in program.ops[place:]):
            ends = f"a value before {program.ops[place]} is read again behind it"
            continue
        if why := unusable(layers):
            ends = why
            continue
        modes = (WHOLE,) if whole else (FORWARD, BACKWARD)
        try:
            plans = [
                plan_shared_memory(layers, mode, has, momentum=momentum, threads=threads)
                for mode in modes
            ]
        except BackendError as error:
            ends = str(error)
            continue
        seed = program.seed if whole else None
        constants = pack_constants(part, seed, device)
        launches = tuple(Launch(plan, plan_words(layers, plan, constants)) for plan in plans)
        rest = None if whole else rest_of(program, place)
        return OnChipNetwork(part, launches, constants, seed, rest, "" if whole else ends)
    raise BackendError(f"no layer of this network can run on chip: {ends}")


def share_on_chip(network: OnChipNetwork, program: Program) -> float:
    """The part of a step's multiply-adds that is done on chip, from 0 to 1.

    Args:
        network: what was put there.
        program: the whole network.
    """
    everything = program.flops()
    outside = network.rest.flops() if network.rest is not None else 0
    return 1.0 - outside / everything if everything else 0.0
