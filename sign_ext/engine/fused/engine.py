"""Compiles, binds and records fused steps, and keeps them for the calls that follow."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.engine.fused.programs import ProgramCache
from sign_ext.engine.fused.step import Step, activation_dtype, schedule_in
from sign_ext.engine.fused.trajectory import (
    DepthFirstTrajectory,
    FusedTrajectory,
    RecordedTrajectory,
)
from sign_ext.engine.fused.tune import measure_blocks, measure_choices
from sign_ext.engine.fused.tuning_plan import StepChoices, TuningPlan, machine_of, tuning_key
from sign_ext.engine.graphed import Record, record_cuda_graph
from sign_ext.engine.trajectory import (
    Problem,
    Trajectory,
    iterate_dtype,
    repeatable,
    without_autocast,
)
from sign_ext.errors import UnsupportedOperation
from sign_ext.network_state import StructureWatch

STEPS_KEPT = 4  # batch shapes at a time: a full batch, a partial one, and two of an earlier call


@dataclass
class _Bound:
    program: Program
    step: Step
    trajectory: FusedTrajectory | None = None


class FusedEngine:
    """Starts trajectories of compiled steps."""

    name = "fused"

    def __init__(
        self,
        network: nn.Module,
        tuning_plan: TuningPlan | None = None,
        *,
        measure: bool = False,
        record: Record = record_cuda_graph,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            network: the network.
            tuning_plan: choices for some batch shapes; those measured are added to it.
            measure: whether to measure choices for shapes that the tuning plan does not have.
            record: turns a step into its replay.
        """
        self.tuning_plan = tuning_plan if tuning_plan is not None else TuningPlan()
        self.measure = measure
        self.structure = StructureWatch(network)
        self._programs = ProgramCache(network, self.structure)
        self._record = record
        self._kept: BoundedCache[Hashable, _Bound] = BoundedCache(STEPS_KEPT)
        self._problem: Problem | None = None  # of the current call, whose program is `_program`
        self._program: tuple[Hashable, Program] | None = None

    def program(self, problem: Problem, images: Tensor) -> Program:
        """The program for images of this shape, checked once a call against the network.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        if images.dim() != 4:
            raise UnsupportedOperation(
                f"the compiler takes images (N, C, H, W), not {images.dim()}-d"
            )
        key = (images.shape[1:], images.device)
        if problem is not self._problem or self._program is None or self._program[0] != key:
            with without_autocast(images.device):
                program = self._programs.get(problem, images)
            self._problem, self._program = problem, (key, program)
        return self._program[1]

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan:
        """What a batch of such images needs with the fixed rule's choices; nothing is bound.

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
        return self._bound(problem, images).step

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, C, H, W), which are copied.

        It is valid until the next call that starts one of the same shape.

        Raises:
            BackendError: the network cannot be compiled, or a step of it cannot be recorded.
        """
        bound = self._bound(problem, images)
        with torch.no_grad():
            if images.device.type == "cpu":
                trajectory: FusedTrajectory = DepthFirstTrajectory(problem, images, bound.step)
            else:
                if bound.trajectory is None:
                    bound.trajectory = RecordedTrajectory(problem, images, bound.step, self._record)
                trajectory = bound.trajectory
            trajectory.start(images)
        return trajectory

    def _bound(self, problem: Problem, images: Tensor) -> _Bound:
        program = self.program(problem, images)
        key = (images.shape, images.dtype, images.device, problem.settings, problem.memory_format)
        # Steps for such images that were bound before the weights changed are of no use any more.
        self._kept.drop(
            lambda kept: (
                kept.program.image_shape == program.image_shape and kept.program is not program
            )
        )
        return self._kept.get_or_make(key, lambda: self._bind(problem, program, images))

    def _bind(self, problem: Problem, program: Program, images: Tensor) -> _Bound:
        """A program's step for batches of this shape."""
        dtype = activation_dtype(problem.model_dtype, problem.settings.precision)
        with repeatable(images.device):
            choices = self._choices(problem, program, dtype, images)
            tf32 = problem.settings.precision == "tf32"
            step = Step(program, dtype, images.device, len(images), choices, tf32=tf32)
        return _Bound(program, step)

    def _choices(
        self, problem: Problem, program: Program, dtype: torch.dtype, images: Tensor
    ) -> StepChoices | None:
        """The tuning plan's choices, measured first if asked for; None for the fixed rule."""
        precision = problem.settings.precision
        key = tuning_key(images, precision)
        if key not in self.tuning_plan.choices and self.measure:
            self.tuning_plan.machine = machine_of(images.device)
            batch = images.contiguous(memory_format=torch.channels_last)
            batch = batch.to(iterate_dtype(problem.model_dtype))
            chosen = measure_choices(program, dtype, batch)
            blocks = measure_blocks(program, dtype, batch, tf32=precision == "tf32")
            self.tuning_plan.choices[key] = replace(chosen, blocks=blocks)
        return self.tuning_plan.choices.get(key)
