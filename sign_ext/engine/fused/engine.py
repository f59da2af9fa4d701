"""Starts fused trajectories: compiles, and keeps what it compiled and recorded."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.engine.fused.programs import Programs
from sign_ext.engine.fused.step import Step, activation_dtype, schedule_in
from sign_ext.engine.fused.trajectory import (
    DepthFirstTrajectory,
    FusedTrajectory,
    RecordedTrajectory,
)
from sign_ext.engine.fused.tune import measured_blocks, measured_choices
from sign_ext.engine.fused.tuning_plan import Choices, TuningPlan, key_of, machine_of
from sign_ext.engine.graphed import Record, record_cuda_graph
from sign_ext.engine.trajectory import (
    Problem,
    Trajectory,
    iterate_dtype,
    repeatable,
    without_autocast,
)
from sign_ext.errors import UnsupportedOperation

STEPS_KEPT = 4  # batch shapes at a time: a full batch, a partial one, and a change of mind


@dataclass
class _Kept:
    program: Program
    step: Step
    trajectory: FusedTrajectory | None = None


class FusedEngine:
    """Starts trajectories of compiled steps."""

    name = "fused"

    def __init__(
        self,
        network: nn.Module,
        plan: TuningPlan | None = None,
        *,
        measure: bool = False,
        record: Record = record_cuda_graph,
    ) -> None:
        """Compile `network` when it is needed.

        Args:
            network: the network.
            plan: algorithm choices for some batch shapes; those measured are added to it.
            measure: whether to measure choices for shapes that the plan does not have.
            record: turns a step into its replay.
        """
        self.programs = Programs(network)
        self.plan = plan if plan is not None else TuningPlan()
        self.measure = measure
        self._record = record
        self._kept: BoundedCache[Hashable, _Kept] = BoundedCache(STEPS_KEPT)
        self._problem: Problem | None = None  # of this call, whose program is `_program`
        self._program: tuple[Hashable, Program] | None = None

    def program(self, problem: Problem, images: Tensor) -> Program:
        """The program for images of this shape; weights are looked at once a call.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        if images.dim() != 4:
            raise UnsupportedOperation(
                f"the compiler takes images (N, C, H, W), not {images.dim()}-d"
            )
        key = (images.shape[1:], images.device)
        if problem is not self._problem or self._program is None or self._program[0] != key:
            # The first image tells shapes and types; its values only check the gradient.
            image = images[:1].to(problem.model_dtype)
            with without_autocast(images.device):
                program = self.programs.get(problem.phi, image)  # type: ignore[arg-type]
            self._problem, self._program = problem, (key, program)
        return self._program[1]

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan:
        """What a batch of such images needs by the fixed rule's choices; nothing is bound.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        dtype = activation_dtype(problem.model_dtype, problem.settings.precision)
        return plan_memory(schedule_in(self.program(problem, images), dtype))

    def step(self, problem: Problem, images: Tensor) -> Step:
        """The bound step for batches of this shape.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        return self._get(problem, images).step

    def _get(self, problem: Problem, images: Tensor) -> _Kept:
        program = self.program(problem, images)
        key = (images.shape, images.dtype, images.device, problem.settings, problem.memory_format)
        # What was prepared from weights that have changed is of no use any more.
        self._kept.drop(
            lambda kept: (
                kept.program.image_shape == program.image_shape and kept.program is not program
            )
        )
        return self._kept.get_or_make(key, lambda: self._bind(problem, program, images))

    def _bind(self, problem: Problem, program: Program, images: Tensor) -> _Kept:
        """A program's step for batches of this shape."""
        dtype = activation_dtype(problem.model_dtype, problem.settings.precision)
        with repeatable(images.device):
            choices = self._choices(problem, program, dtype, images)
            tf32 = problem.settings.precision == "tf32"
            step = Step(program, dtype, images.device, len(images), choices, tf32=tf32)
        return _Kept(program, step)

    def _choices(
        self, problem: Problem, program: Program, dtype: torch.dtype, images: Tensor
    ) -> Choices | None:
        """The plan's choices, measured if they are to be; None for the fixed rule."""
        precision = problem.settings.precision
        key = key_of(images, precision)
        if key not in self.plan.choices and self.measure:
            self.plan.machine = machine_of(images.device)
            given = images.contiguous(memory_format=torch.channels_last)
            given = given.to(iterate_dtype(problem.model_dtype))
            chosen = measured_choices(program, dtype, given)
            blocks = measured_blocks(program, dtype, given, tf32=precision == "tf32")
            self.plan.choices[key] = replace(chosen, blocks=blocks)
        return self.plan.choices.get(key)

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, C, H, W), which are copied.

        It is valid until the next call that starts one of the same shape.

        Raises:
            BackendError: the network cannot be compiled, or a step of it cannot be recorded.
        """
        kept = self._get(problem, images)
        with torch.no_grad():
            if images.device.type == "cpu":
                trajectory: FusedTrajectory = DepthFirstTrajectory(problem, images, kept.step)
            else:
                if kept.trajectory is None:
                    kept.trajectory = RecordedTrajectory(problem, images, kept.step, self._record)
                trajectory = kept.trajectory
            trajectory.start(images)
        return trajectory
