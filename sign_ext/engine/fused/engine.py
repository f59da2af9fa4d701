"""Compiles, binds and records fused steps, and keeps them for the calls that follow."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.compiler.trace import trace
from sign_ext.engine.agreement import check_gradient, distance_from_autograd
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
from sign_ext.errors import BackendError, UnsupportedOperation
from sign_ext.eval_state import same_bits, why_not_recorded
from sign_ext.network_state import StructureWatch, constants_of, weights_digest
from sign_ext.probe import ImageStatistics, random_images, statistics_of
from sign_ext.source_layer import Phi

MOST_ISLANDS = 0.5  # of a step's estimated work, for `auto`
PROGRAMS_KEPT = 4  # image shapes at a time
SUPPORTED = (torch.float32, torch.float64, torch.bfloat16)  # dtypes of networks
RANDOM_IMAGES = 3  # at which a new program is checked, beside the caller's first
# A kept program is looked at again where it is further from autograd than this, and than this many
# times what rounding was before. To look again costs a recording, so that the bound may be tight.
LEAST_ERROR = 1e-4
MARGIN = 3.0


@dataclass
class _Compiled:
    graph: GraphModule
    constants: list[Tensor]  # what the graph reads that is neither parameter nor buffer
    digest: Hashable
    program: Program
    rounding: float  # the largest distance from autograd that was found to be rounding


class ProgramCache:
    """The compiled programs of one network, kept while they are what the network computes.

    The network may change between two calls in ways that nothing can watch: a global variable, a
    number that a forward pass read from a tensor. So each call compares the program's δ with
    autograd's on one random image, which costs as much as one image of one step. A program that is
    further off than rounding ever was is recorded anew.
    """

    def __init__(
        self,
        network: nn.Module,
        structure: StructureWatch | None = None,
        *,
        strict: bool = False,
    ) -> None:
        """Keep programs of `network`.

        Args:
            network: the network.
            structure: its watch; None makes one.
            strict: whether to refuse operations without a rule, instead of making islands.
        """
        self._strict = strict
        self._network = network
        self._structure = structure if structure is not None else StructureWatch(network)
        self._kept: BoundedCache[Hashable, _Compiled] = BoundedCache(PROGRAMS_KEPT)
        self._drawn = 0  # random images so far: each call has fresh ones

    def get(self, problem: Problem, images: Tensor) -> Program:
        """The program of Φ for images of this shape, as the network is now.

        Args:
            problem: the call's, its network frozen and in evaluation mode.
            images: (N, C, H, W), N ≥ 1.

        Raises:
            UnsupportedOperation: the network has an operation that the compiler does not know, or
                its gradient is not that of its operations.
        """
        dtype, phi = problem.model_dtype, problem.phi
        assert isinstance(phi, Phi)
        if dtype not in SUPPORTED:
            raise UnsupportedOperation(f"networks in {str(dtype).removeprefix('torch.')}")
        if why := why_not_recorded(self._network):
            raise UnsupportedOperation(why)
        like = problem.like or statistics_of(images)
        image_kind = (images.shape[1:], dtype, images.device)

        def key() -> Hashable:
            return (image_kind, phi.source, self._structure.key(problem))

        fresh: list[_Compiled] = []

        def make() -> _Compiled:
            random = self._random(like, images, RANDOM_IMAGES).to(dtype)
            fresh.append(self._compile(phi, images[:1].to(dtype), random))
            return fresh[0]

        before = key()
        kept = self._kept.get_or_make(before, make)
        if fresh:
            # The recording may have shown what the forward pass itself writes.
            if (after := key()) != before:
                self._kept.get_or_make(after, lambda: kept)
        else:
            self._renew(kept, phi, images, like)
        return kept.program

    def _random(self, like: ImageStatistics, images: Tensor, count: int) -> Tensor:
        """Random images shaped as these; other ones each time."""
        self._drawn += 1
        return random_images(like, images.shape[1:], count, self._drawn)

    def _compile(self, phi: Phi, image: Tensor, random: Tensor) -> _Compiled:
        """Record, build and check a program.

        Args:
            phi: Φ.
            image: the caller's first, (1, C, H, W).
            random: others, at which the gradient is checked too.
        """
        with self._structure.running():
            graph = trace(phi, image)
        constants = constants_of(graph, self._network)
        digest = weights_digest(self._network, constants)
        program = self._build(graph, phi, image)
        try:
            rounding = check_gradient(program, phi, torch.cat([image, random]))
        except UnsupportedOperation:
            raise
        except Exception:  # a network may check what it is given, and refuse a random image
            rounding = check_gradient(program, phi, image)
        return _Compiled(graph, constants, digest, program, rounding)

    def _build(self, graph: GraphModule, phi: Phi, image: Tensor) -> Program:
        again = None if self._strict else recording_again(phi, image)
        return build(graph, image.dtype, str(phi.source), again=again)

    def _renew(self, kept: _Compiled, phi: Phi, images: Tensor, like: ImageStatistics) -> None:
        """Bring a kept program up to date with the network."""
        dtype = kept.program.seed.dtype
        digest = weights_digest(self._network, kept.constants)
        if kept.digest != digest:
            # The same structure with other weights: the recorded graph still holds.
            kept.program = self._build(kept.graph, phi, images[:1].to(dtype))
            kept.digest = digest
        random = self._random(like, images, 1).to(dtype)
        try:
            error = distance_from_autograd(kept.program, phi, random)
        except Exception:  # as in `_compile`
            return
        if error <= max(LEAST_ERROR, MARGIN * kept.rounding):
            return
        try:
            new = self._compile(phi, images[:1].to(dtype), random)
        except UnsupportedOperation:
            self._kept.drop(lambda entry: entry is kept)
            raise
        with torch.no_grad():
            old, now = (p.pullback_of_ones(random) for p in (kept.program, new.program))
        kept.rounding = max(new.rounding, kept.rounding if same_bits(old, now) else 0.0)
        if not same_bits(old, now):  # the network has changed; or else it was rounding
            kept.graph, kept.constants = new.graph, new.constants
            kept.digest, kept.program = new.digest, new.program


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
        strict: bool = False,
        record: Record = record_cuda_graph,
    ) -> None:
        """Nothing is compiled yet.

        Args:
            network: the network.
            tuning_plan: choices for some batch shapes; those measured are added to it.
            measure: whether to measure choices for shapes that the tuning plan does not have.
            strict: whether to refuse operations without a rule, instead of making islands.
            record: turns a step into its replay.
        """
        self.tuning_plan = tuning_plan if tuning_plan is not None else TuningPlan()
        self.measure = measure
        self.structure = StructureWatch(network)
        self._programs = ProgramCache(network, self.structure, strict=strict)
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

    def require_most(self, problem: Problem, images: Tensor) -> None:
        """Raise BackendError if islands hold more of the step than its compiled operations.

        PyTorch runs them in `autograd` and `graphed` too, with fewer copies.
        """
        program = self.program(problem, images)
        found = [
            (share, op)
            for share, op in zip(program.shares(), program.ops, strict=True)
            if isinstance(op, Island)
        ]
        share = sum(share for share, _ in found)
        if share > MOST_ISLANDS:
            _, largest = max(found, key=lambda each: each[0])
            raise BackendError(
                f"operations without a rule hold {share:.0%} of a step (estimated): "
                f'{largest.label()}; backend="fused" compiles the rest'
            )

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
        key = (images.shape, images.dtype, images.device, problem.settings)
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
