"""Starts trajectories on chip: plans for the device, checks the first step, keeps trajectories."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.fused.engine import FusedEngine
from sign_ext.engine.fused.step import Step
from sign_ext.engine.graphed import Record, record_cuda_graph
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.onchip.check import check_step, examples_of
from sign_ext.engine.onchip.network import OnChipNetwork, put_on_chip, share_on_chip
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.engine.trajectory import Problem, Trajectory, without_autocast
from sign_ext.errors import BackendError
from sign_ext.ops.native import NATIVE
from sign_ext.settings import SIGN

KEPT = 4  # batch shapes at a time
LEAST_SHARE = 0.5  # of a step's arithmetic on chip, for `auto` to choose this backend


@dataclass
class _Kept:
    network: OnChipNetwork
    trajectory: OnChipTrajectory


def why_refused(problem: Problem, device: torch.device) -> str | None:
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
    return why_settings_refused(problem)


def why_settings_refused(problem: Problem) -> str | None:
    """Why the call's options cannot run on chip, on any device, or None if they can.

    Args:
        problem: the call's.
    """
    settings = problem.settings
    if settings.precision != "bfloat16" or problem.model_dtype != torch.float32:
        return (
            "it computes in bfloat16, since one float32 value of 32×32×32 alone takes 131 kB. Pass "
            'precision="bfloat16" with a float32 network'
        )
    if settings.linearize_at == "input":
        return 'linearize_at="input" takes δ once, so nothing needs to stay on chip'
    if settings.rule != SIGN:
        return (
            "its kernel adds the gradient of the sum over Φ, whose cotangent of ones is known "
            'before the step, so it serves objective="features" with update="gradient" and no '
            f"projection; this call: {settings.rule}"
        )
    return None


def shared_memory_of(device: torch.device) -> SharedMemory:
    """The shared memory of a CUDA device.

    Args:
        device: a CUDA device.
    """
    chip = torch.cuda.get_device_properties(device)
    return SharedMemory(chip.shared_memory_per_block_optin, chip.shared_memory_per_multiprocessor)


def start_on_chip(problem: Problem, images: Tensor, network: OnChipNetwork) -> OnChipTrajectory:
    """A trajectory of a network on chip; its step is not recorded yet.

    Args:
        problem: the call's.
        images: like those to come, (N, C, H, W).
        network: what is on chip.
    """
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
        self._kept: BoundedCache[Hashable, _Kept] = BoundedCache(KEPT)
        self._planned: tuple[Program, Hashable, OnChipNetwork] | None = None  # the last plan

    def network(self, problem: Problem, images: Tensor) -> OnChipNetwork:
        """What runs on chip for images like these.

        Raises:
            BackendError: the network, the call's options or the device rule it out.
        """
        why = why_refused(problem, images.device)
        if why is not None:
            raise BackendError(f'backend="onchip" cannot run here: {why}')
        outline = self._fused.outline(problem, images)
        momentum = bool(problem.settings.momentum)
        key = (images.device, momentum)
        if self._planned is None or self._planned[:2] != (outline, key):
            program, memory = self._fused.program(problem, images), shared_memory_of(images.device)
            network = put_on_chip(program, memory, images.device, momentum=momentum)
            self._planned = (outline, key, network)
        return self._planned[2]

    def require_most(self, problem: Problem, images: Tensor) -> None:
        """Raise BackendError unless at least half of the step's arithmetic would be on chip."""
        self._fused.require_most(problem, images)
        network = self.network(problem, images)
        share = share_on_chip(network, self._fused.outline(problem, images))
        if share < LEAST_SHARE:
            raise BackendError(
                f"only {share:.0%} of the arithmetic would be done on chip: {network.stop_reason}"
            )

    def start(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, C, H, W), which are copied.

        It is valid until the next call that starts one of the same shape. There is no target: what
        would need one is refused.

        Raises:
            BackendError: the network, the call's options or the device rule it out.
        """
        network = self.network(problem, images)
        key = (images.shape, images.dtype, images.device, problem.settings.of_a_step)
        kept = self._kept.get_or_make(
            key, lambda: self._recorded(problem, images, network), lambda k: k.network is network
        )
        kept.trajectory.start(images)
        return kept.trajectory

    def _recorded(self, problem: Problem, images: Tensor, network: OnChipNetwork) -> _Kept:
        """A checked and recorded trajectory for batches of this shape."""
        examples = examples_of(images)
        check_step(start_on_chip(problem, examples, network), examples)
        trajectory = start_on_chip(problem, images, network)
        trajectory.start(images)
        trajectory.record(self._record)
        return _Kept(network, trajectory)
