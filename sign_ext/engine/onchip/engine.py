"""Starts trajectories on chip: asks the device, plans, checks the first step, keeps them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.program import Program
from sign_ext.engine.fused.engine import FusedEngine
from sign_ext.engine.fused.step import Step
from sign_ext.engine.graphed import Record, record_cuda_graph
from sign_ext.engine.onchip.network import OnChipNetwork, put_on_chip, share_on_chip
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.engine.trajectory import Problem, Trajectory, without_autocast
from sign_ext.errors import BackendError
from sign_ext.ops.native import NATIVE

KEPT = 4  # batch shapes at a time
LEAST_SHARE = 0.5  # of a step's arithmetic, for `auto` to take it
TOLERANCE = 0.03  # of the first step's check: sums in another order, rounded to bfloat16


@dataclass
class _Kept:
    program: Program
    trajectory: OnChipTrajectory


def refusal(problem: Problem, device: torch.device) -> str | None:
    """Why no network can run on chip in this call, or None if one can.

    Args:
        problem: the call's.
        device: where the images are.
    """
    if device.type != "cuda":
        return f"it needs an NVIDIA GPU; model and images are on {device}"
    if not NATIVE.cuda:
        return f"no CUDA operator was built: {NATIVE.why}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU has no matrix unit for bfloat16 (compute capability 8.0)"
    return refused_settings(problem)


def refused_settings(problem: Problem) -> str | None:
    """Why the call's options keep it off the chip, on any device.

    Args:
        problem: the call's.
    """
    settings = problem.settings
    if settings.precision != "bfloat16" or problem.model_dtype != torch.float32:
        return (
            "it computes in bfloat16: a float32 value of 32×32×32 alone takes 131 kB. Pass "
            'precision="bfloat16" with a float32 network'
        )
    if settings.linearize_at == "input":
        return 'linearize_at="input" takes one product, and nothing that could stay on chip'
    return None


def shared_memory_of(device: torch.device) -> SharedMemory:
    """What a CUDA device has.

    Args:
        device: a CUDA device.
    """
    chip = torch.cuda.get_device_properties(device)
    return SharedMemory(chip.shared_memory_per_block_optin, chip.shared_memory_per_multiprocessor)


def start_on_chip(
    problem: Problem, images: Tensor, program: Program, has: SharedMemory
) -> OnChipTrajectory:
    """A trajectory, not yet checked or recorded.

    Args:
        problem: the call's.
        images: like those to come, (N, C, H, W).
        program: the network.
        has: the device's shared memory.

    Raises:
        BackendError: no layer fits.
    """
    momentum = bool(problem.settings.momentum)
    network = put_on_chip(program, has, images.device, momentum=momentum)
    rest = None
    if network.rest is not None:
        with torch.no_grad(), without_autocast(images.device):
            rest = Step(network.rest, torch.bfloat16, images.device, len(images))
    return OnChipTrajectory(problem, images, network, rest)


class OnChipEngine:
    """Starts trajectories on chip, keeping those of the last few batch shapes."""

    name = "onchip"

    def __init__(self, fused: FusedEngine, record: Record = record_cuda_graph) -> None:
        """Take programs from `fused`; `record` turns a step into its replay."""
        self._fused = fused
        self._record = record
        self._kept: OrderedDict[Hashable, _Kept] = OrderedDict()

    def network(self, problem: Problem, images: Tensor) -> OnChipNetwork:
        """What would run on chip for images like these.

        Raises:
            BackendError: nothing would; the message says why.
        """
        why = refusal(problem, images.device)
        if why is not None:
            raise BackendError(f'backend="onchip" cannot run here: {why}')
        program = self._fused.program(problem, images)
        momentum = bool(problem.settings.momentum)
        device = images.device
        return put_on_chip(program, shared_memory_of(device), device, momentum=momentum)

    def require_most(self, problem: Problem, images: Tensor) -> None:
        """Raise BackendError unless most of the step would be done on chip."""
        network = self.network(problem, images)
        share = share_on_chip(network, self._fused.program(problem, images))
        if share < LEAST_SHARE:
            raise BackendError(
                f"only {share:.0%} of the arithmetic would be done on chip: {network.ends}"
            )

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, C, H, W), which are copied.

        It is valid until the next call that starts one of the same shape.

        Raises:
            BackendError: the network, the call or the device keeps it off the chip.
        """
        why = refusal(problem, images.device)
        if why is not None:
            raise BackendError(f'backend="onchip" cannot run here: {why}')
        program = self._fused.program(problem, images)
        key = (images.shape, images.dtype, images.device, problem.settings)
        kept = self._kept.pop(key, None)
        if kept is None or kept.program is not program:
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            has = shared_memory_of(images.device)
            trajectory = start_on_chip(problem, images, program, has)
            check_step(trajectory, images)
            trajectory.start(images)
            trajectory.record(self._record)
            kept = _Kept(program, trajectory)
        self._kept[key] = kept
        kept.trajectory.start(images)
        return kept.trajectory


@torch.no_grad()
def check_step(trajectory: OnChipTrajectory, images: Tensor) -> None:
    """Compare the first step on chip with the reference, on the first image.

    The kernel reads a plan, and a device may differ from the ones it was tried on: what is wrong
    there must not go unnoticed.

    Args:
        trajectory: at any place; it is left one step behind `images`.
        images: the batch.

    Raises:
        BackendError: they differ by more than rounding.
    """
    settings = trajectory.problem.settings
    trajectory.start(images)
    trajectory.advance(1)
    first = images[:1].double()
    moved = trajectory.iterate[:1].double() - first
    expected = settings.step_size * trajectory.reference(images[:1])
    if settings.clamp is not None:
        expected = torch.clamp(first + expected, *settings.clamp) - first
    size = float(expected.norm())
    error = float((moved - expected).norm())
    # A step of a few units in the last place of p is rounding too.
    rounding = 4 * torch.finfo(torch.float32).eps * float(first.norm())
    if not error <= TOLERANCE * size + rounding:
        raise BackendError(
            f"the first step on chip differs from its reference by {error / max(size, 1e-30):.1%} "
            '(relative L2): backend="fused" runs it'
        )
