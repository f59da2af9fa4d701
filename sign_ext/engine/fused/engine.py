"""Starts trajectories of compiled steps, and keeps those for the calls that follow."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.engine.fused.programs import STEPS_KEPT, Bind, Compiled, ProgramCache
from sign_ext.engine.fused.step import Step, activation_dtype, schedule_in
from sign_ext.engine.fused.trajectory import (
    DepthFirstTrajectory,
    FusedTrajectory,
    RecordedTrajectory,
)
from sign_ext.engine.fused.tune import measure_blocks, measure_choices
from sign_ext.engine.fused.tuning_plan import StepChoices, TuningPlan, machine_of, tuning_key
from sign_ext.engine.graphed import Record, record_cuda_graph
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.trajectory import (
    Problem,
    Trajectory,
    compiled_layout,
    iterate_dtype,
    repeatable,
    without_autocast,
)
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi

MOST_ISLANDS = 0.5  # of a step's estimated work, for `auto`


@dataclass
class _Bound:
    outline: Program
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
        strict: bool = False,
        record: Record = record_cuda_graph,
        programs: ProgramCache | None = None,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            network: the network.
            tuning_plan: choices for some batch shapes; those measured are added to it.
            measure: whether to measure choices for shapes that the tuning plan does not have.
            strict: whether to refuse operations without a rule, instead of making islands.
            record: turns a step into its replay.
            programs: what was compiled of the network already; None begins anew.
        """
        self.tuning_plan = tuning_plan if tuning_plan is not None else TuningPlan()
        self.measure = measure
        self._strict = strict
        self._programs = programs if programs is not None else ProgramCache(network)
        self.structure = self._programs.structure
        self._record = record
        self._kept: BoundedCache[Hashable, _Bound] = BoundedCache(STEPS_KEPT)
        self._problem: Problem | None = None  # of the current call, whose program is `_program`
        self._program: tuple[Hashable, Compiled] | None = None

    def program(self, problem: Problem, images: Tensor) -> Program:
        """The program for images of this shape, checked once a call against the network.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        assert isinstance(problem.phi, Phi)
        return self._programs.program(self._compiled(problem, images), problem.phi)

    def outline(self, problem: Problem, images: Tensor) -> Program:
        """The same without weights, which need not be put together for it.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        return self._compiled(problem, images).outline

    def _compiled(self, problem: Problem, images: Tensor, most_islands: float = 1.0) -> Compiled:
        key = (images.shape[1:], images.device)
        if problem is not self._problem or self._program is None or self._program[0] != key:
            with without_autocast(images.device):
                compiled = self._programs.get(
                    problem,
                    images,
                    self._first_step(problem, images),
                    strict=self._strict,
                    most_islands=most_islands,
                )
            self._problem, self._program = problem, (key, compiled)
        self._program[1].islands.require(most_islands)
        return self._program[1]

    def require_most(self, problem: Problem, images: Tensor) -> None:
        """Raise BackendError if islands hold more of the step than its compiled operations.

        PyTorch runs them in `autograd` and `graphed` too, with fewer copies.
        """
        if problem.model_dtype == torch.float16 and images.device.type == "cuda":
            raise UnsupportedOperation(
                "a compiled step of a network in float16 computes in float32, without the GPU's "
                'units for float16; backend="fused" compiles it'
            )
        self._compiled(problem, images, MOST_ISLANDS)

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan:
        """What a batch of such images needs with the fixed rule's choices; nothing is bound.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        dtype = activation_dtype(problem.model_dtype, problem.settings.precision)
        return plan_memory(schedule_in(self.outline(problem, images), dtype))

    def step(self, problem: Problem, images: Tensor) -> Step:
        """The bound step for batches of this shape.

        Raises:
            UnsupportedOperation: the compiler does not know an operation of the network.
        """
        return self._bound(problem, images).step

    def start(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, C, H, W), which are copied, towards a target.

        It is valid until the next call that starts one of the same shape.

        Raises:
            BackendError: the network cannot be compiled, or a step of it cannot be recorded.
        """
        bound = self._bound(problem, images, target)
        about = (problem, images, bound.step)
        with torch.no_grad():
            if images.device.type == "cpu":
                trajectory: FusedTrajectory = DepthFirstTrajectory(*about, target)
            else:
                if bound.trajectory is None:
                    bound.trajectory = RecordedTrajectory(*about, self._record, target)
                trajectory = bound.trajectory
            trajectory.start(images, target)
        return trajectory

    def _bound(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> _Bound:
        compiled = self._compiled(problem, images)
        outline = compiled.outline
        options = (problem.settings.of_a_step, target.kind)
        key = (images.shape, images.dtype, images.device, options)
        # Steps for such images that were bound before the weights changed are of no use any more.
        self._kept.drop(
            lambda kept: (
                kept.outline.image_shape == outline.image_shape and kept.outline is not outline
            )
        )
        return self._kept.get_or_make(key, lambda: self._bind(problem, compiled, images))

    def _first_step(self, problem: Problem, images: Tensor) -> Bind | None:
        """What binds a new program's step, where that has the program's own precision.

        It takes a third of the time in which the program itself computes δ, to be checked. On a
        GPU the program takes no longer, and is what a step may be compared with.
        """
        precision = problem.settings.precision
        planned = tuning_key(images, precision) in self.tuning_plan.choices or self.measure
        if images.device.type != "cpu" or precision != "float32" or planned:
            return None
        return self._binding(problem, images, None)

    def _binding(self, problem: Problem, images: Tensor, choices: StepChoices | None) -> Bind:
        """What binds a program's step for batches of this shape, with the step's key."""
        precision = problem.settings.precision
        dtype, tf32 = activation_dtype(problem.model_dtype, precision), precision == "tf32"
        device = images.device

        def bind(program: Program) -> Step:
            with repeatable(device):
                return Step(program, dtype, device, len(images), choices, tf32=tf32)

        return (images.shape, dtype, device, choices, tf32), bind

    def _bind(self, problem: Problem, compiled: Compiled, images: Tensor) -> _Bound:
        """A program's step for batches of this shape."""
        assert isinstance(problem.phi, Phi)
        with repeatable(images.device):
            binding = self._binding(problem, images, self._choices(problem, images))
            step = self._programs.step(compiled, problem.phi, binding)
        return _Bound(compiled.outline, step)

    def _choices(self, problem: Problem, images: Tensor) -> StepChoices | None:
        """The tuning plan's choices, measured first if asked for; None for the fixed rule."""
        precision = problem.settings.precision
        key = tuning_key(images, precision)
        if key not in self.tuning_plan.choices and self.measure:
            self.tuning_plan.machine = machine_of(images.device)
            batch = images.contiguous(memory_format=compiled_layout(images))
            batch = batch.to(iterate_dtype(problem.model_dtype))
            dtype = activation_dtype(problem.model_dtype, precision)
            program = self.program(problem, images)
            chosen = measure_choices(program, dtype, batch)
            blocks = measure_blocks(program, dtype, batch, tf32=precision == "tf32")
            self.tuning_plan.choices[key] = replace(chosen, blocks=blocks)
        return self.tuning_plan.choices.get(key)
