"""Compiles, binds and records fused steps, and keeps them for the calls that follow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.program import Program, constant_bytes
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.compiler.record import READS_WEIGHTS
from sign_ext.compiler.trace import trace
from sign_ext.engine.agreement import TOLERANCE, Agreement, check_gradient, distance_of
from sign_ext.engine.fused.step import Step, activation_dtype, schedule_in, without_weights
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
from sign_ext.eval_state import same_bits, why_not_recorded
from sign_ext.network_state import (
    StructureWatch,
    constants_of,
    release_weights,
    weights_digest,
    with_weights,
)
from sign_ext.probe import (
    ImageStatistics,
    pullback,
    random_images,
    statistics_of,
)
from sign_ext.source_layer import Phi

MOST_ISLANDS = 0.5  # of a step's estimated work, for `auto`
PROGRAMS_KEPT = 8  # image shapes, source layers and further inputs at a time
STEPS_KEPT = 4  # batch shapes at a time: a full batch, a partial one, and two of an earlier call
SUPPORTED = (torch.float32, torch.float64, torch.bfloat16)  # dtypes of networks
RANDOM_IMAGES = 3  # at which a new program is checked, beside the caller's first
# A kept program is looked at again where it is further from autograd than this, and than this many
# times what rounding was before. To look again costs a recording, so that the bound may be tight.
LEAST_ERROR = 1e-4
MARGIN = 3.0


# What decides a step beside its program, and what makes the step.
Bind = tuple[Hashable, Callable[[Program], Step]]


@dataclass
class Compiled:
    """A program of a network, and what it was made of; it is brought up to date in place."""

    strict: bool  # without islands

    graph: GraphModule  # without the network's parameters and buffers
    own: dict[str, str]  # where those go, by their names in the network
    constants: list[Tensor]  # what else the graph reads
    digest: Hashable
    outline: Program  # without weights; another one for other values of these
    program: Program | None  # with them, until a step has prepared its own
    bytes: int  # of the weights
    island_bytes: int  # of those that islands read
    agreement: Agreement  # the largest distance from autograd that was found to be rounding
    islands: Islands


@dataclass(frozen=True)
class Islands:
    """How much of a step islands hold.

    Attributes:
        share: estimated, from 0 to 1.
        largest: what the largest is called, or "" without any.
    """

    share: float
    largest: str

    @classmethod
    def of(cls, program: Program) -> Islands:
        """Those of a program, which may lack weights."""
        found = [
            (share, op)
            for share, op in zip(program.shares(), program.ops, strict=True)
            if isinstance(op, Island)
        ]
        largest = max(found, key=lambda each: each[0], default=None)
        return cls(sum(share for share, _ in found), largest[1].label() if largest else "")

    def require(self, most: float) -> None:
        """Raise UnsupportedOperation if they hold more than `most`."""
        if self.share > most:
            raise UnsupportedOperation(
                f"operations without a rule hold {self.share:.0%} of a step (estimated): "
                f'{self.largest}; backend="fused" compiles the rest'
            )


class ProgramCache:
    """The compiled programs of one network, kept while they are what the network computes.

    The network may change between two calls in ways that nothing can watch: a global variable, a
    number that a forward pass read from a tensor. So each call compares the program's δ with
    autograd's on one random image, which costs as much as one image of one step. A program that is
    further off than rounding ever was is recorded anew.

    Several threads may use it, and several transforms of the network do. It does not keep the
    network alive.
    """

    def __init__(self, network: nn.Module, structure: StructureWatch | None = None) -> None:
        """Keep programs of `network`.

        Args:
            network: the network.
            structure: its watch; None makes one.
        """
        self.structure = structure if structure is not None else StructureWatch(network)
        self._free = threading.RLock()
        self._kept: BoundedCache[Hashable, Compiled] = BoundedCache(PROGRAMS_KEPT)
        self._refused: BoundedCache[Hashable, str] = BoundedCache(PROGRAMS_KEPT)
        self._mostly_islands: BoundedCache[Hashable, Islands] = BoundedCache(PROGRAMS_KEPT)
        self._steps: BoundedCache[tuple[Program, Hashable], Step] = BoundedCache(STEPS_KEPT)
        self._drawn = 0  # random images so far: each call has fresh ones

    def clear(self) -> None:
        """Forget all programs and steps."""
        with self._free:
            self._kept = BoundedCache(PROGRAMS_KEPT)
            self._refused = BoundedCache(PROGRAMS_KEPT)
            self._mostly_islands = BoundedCache(PROGRAMS_KEPT)
            self._steps = BoundedCache(STEPS_KEPT)

    def bytes(self) -> int:
        """About how much memory the programs take, and the weights that steps have prepared."""
        with self._free:
            # A step has the weights for both directions in its operators' order, and islands' as
            # they are.
            of_a_step = {
                kept.outline: 2 * kept.bytes - kept.island_bytes for kept in self._kept.values()
            }
            whole = sum(kept.bytes for kept in self._kept.values() if kept.program is not None)
            return whole + sum(of_a_step.get(outline, 0) for outline, _ in self._steps)

    def get(
        self,
        problem: Problem,
        images: Tensor,
        bind: Bind | None = None,
        *,
        strict: bool = False,
        most_islands: float = 1.0,
    ) -> Compiled:
        """What is compiled of Φ for images of this shape, as the network is now.

        Args:
            problem: the call's, its network frozen and in evaluation mode.
            images: (N, C, H, W), N ≥ 1.
            bind: a step of the program's own dtype that the call needs: of a new program it is
                bound at once, and checked in the program's place.
            strict: whether to refuse operations without a rule, instead of making islands.
            most_islands: of a step's estimated work; a network that has more is refused, before
                anything else is done for it.

        Raises:
            UnsupportedOperation: the network does what the compiler does not know, has too many
                islands, or its gradient is not that of its operations.
        """
        dtype, phi = problem.model_dtype, problem.phi
        assert isinstance(phi, Phi)
        if dtype not in SUPPORTED:
            raise UnsupportedOperation(
                f"networks in {str(dtype).removeprefix('torch.')}; those in float32, float64 and "
                "bfloat16 are compiled"
            )
        if why := why_not_recorded(phi.model):
            raise UnsupportedOperation(why)
        like = problem.like or statistics_of(images)
        # Everything that decides a program, and nothing that does not: neither the step size, nor
        # the number of steps, nor the precision, which is a step's.
        kind = (images.shape[1:], dtype, images.device, phi.source, problem.inputs.key, strict)

        def key() -> Hashable:
            return (kind, self.structure.key(problem))

        fresh: list[Compiled] = []

        def make() -> Compiled:
            random = self.random(like, images, RANDOM_IMAGES).to(dtype)
            image = images[:1].to(dtype)
            compiled = self._compile(key, phi, image, random, strict, bind, most_islands)
            fresh.append(compiled)
            return fresh[0]

        with self._free:
            before = key()
            if why := self._refused.get(before):
                raise UnsupportedOperation(why)
            if islands := self._mostly_islands.get(before):
                islands.require(most_islands)
            kept = self._kept.get_or_make(before, make)
            if fresh:
                # The recording may have shown what the forward pass itself writes.
                if (after := key()) != before:
                    self._kept.get_or_make(after, lambda: kept)
                return kept
            kept.islands.require(most_islands)
            witness = problem.witness
            if witness is not None and witness[0].shape[1:] != images.shape[1:]:
                witness = None
            random = self.random(like, images).to(dtype) if witness is None else witness[0]
            self._follow_weights(key, kept, phi, images[:1].to(dtype), random)
            outline = kept.outline
            step = self._step_like(outline)
        try:
            expected = pullback(phi, random)[1] if witness is None else witness[1]
        except Exception:  # as in `_compile`
            return kept
        if witness is not None and step is not None:
            if distance_of(step, random, expected, kept.agreement.least) <= _most_rounding(kept):
                return kept
            # It may have been taken in another layout than the caller's.
            expected = pullback(phi, random)[1]
        if self._is_off(kept, phi, step, random, expected):
            with self._free:
                if kept.outline is outline:  # no other thread has renewed it meanwhile
                    self._renew(key, kept, phi, images[:1].to(dtype), random)
        return kept

    def program(self, kept: Compiled, phi: Phi) -> Program:
        """A program with its weights; they are put together anew where steps have prepared them.

        Args:
            kept: from `get`.
            phi: Φ.
        """
        with self._free:
            return kept.program if kept.program is not None else self._build(kept, phi)

    def _build(self, kept: Compiled, phi: Phi) -> Program:
        seed = kept.outline.seed
        image = seed.new_zeros((1, *kept.outline.image_shape))
        with with_weights(kept.graph, phi.model, kept.own):
            again = self._again(phi, image)
            return build(
                kept.graph,
                seed.dtype,
                str(phi.source),
                again=again,
                strict=kept.strict,
                by_objective=phi.source.by_objective,
            )

    def _again(self, phi: Phi, image: Tensor) -> Callable[[], GraphModule]:
        """What islands and merged images need, a second recording."""
        record = recording_again(phi, image)

        def again() -> GraphModule:
            with self.structure.running():
                return record()

        return again

    def has_any(self) -> bool:
        """Whether there is a program, which a call may compare with autograd."""
        return len(self._kept) > 0

    def random(self, like: ImageStatistics, images: Tensor, count: int = 1) -> Tensor:
        """Random images shaped as some; other ones each time.

        Args:
            like: their statistics.
            images: (N, ...).
            count: how many.
        """
        self._drawn += 1
        return random_images(like, images.shape[1:], count, self._drawn)

    def _compile(
        self,
        key: Callable[[], Hashable],
        phi: Phi,
        image: Tensor,
        random: Tensor,
        strict: bool,
        bind: Bind | None = None,
        most_islands: float = 1.0,
    ) -> Compiled:
        """Record, build and check a program.

        Args:
            key: the program's; where an operation has no rule, that is kept in its place.
            phi: Φ.
            image: the caller's first, (1, C, H, W).
            random: others, at which the gradient is checked too.
            strict: as for `get`.
            bind: as for `get`.
            most_islands: as for `get`.
        """
        network = phi.model
        with self.structure.running():
            graph = trace(phi, image)
        constants = constants_of(graph, network)
        digest = weights_digest(network, constants)
        try:
            again = self._again(phi, image)
            program = build(
                graph,
                image.dtype,
                str(phi.source),
                again=again,
                strict=strict,
                by_objective=phi.source.by_objective,
            )
        except UnsupportedOperation as refused:
            why = str(refused)  # whatever the images; what follows may depend on them
            self._refused.get_or_make(key(), lambda: why)
            raise
        islands = Islands.of(program)
        try:
            islands.require(most_islands)
        except UnsupportedOperation:
            self._mostly_islands.get_or_make(key(), lambda: islands)
            raise
        own = release_weights(graph, network)
        step = None if bind is None else bind[1](program)
        checked = program if step is None else step
        try:
            agreement = check_gradient(checked, phi, torch.cat([image, random]))
        except UnsupportedOperation:
            raise
        except Exception:  # a network may check what it is given, and refuse a random image
            agreement = check_gradient(checked, phi, image)
        in_islands = [w for op in program.ops if isinstance(op, Island) for w in op.constants()]
        new = Compiled(
            strict=strict,
            graph=graph,
            own=own,
            constants=constants,
            digest=digest,
            outline=without_weights(program),
            program=program,
            bytes=constant_bytes(program),
            island_bytes=sum(w.nbytes for w in in_islands),
            agreement=agreement,
            islands=islands,
        )
        if bind is not None and step is not None:
            bound, new.program = step, None
            self._steps.get_or_make((new.outline, bind[0]), lambda: bound)
        return new

    def _follow_weights(
        self, key: Callable[[], Hashable], kept: Compiled, phi: Phi, image: Tensor, random: Tensor
    ) -> None:
        """Give a kept program the weights' values as they are now."""
        digest = weights_digest(phi.model, kept.constants)
        if kept.digest == digest:
            return
        if kept.graph.meta[READS_WEIGHTS]:  # as numbers, of which the graph has the old ones
            self._replace(kept, self._compile(key, phi, image, random, kept.strict))
            return
        # The same structure with other weights: the recorded graph still holds.
        kept.program = self._build(kept, phi)
        kept.outline = without_weights(kept.program)
        kept.digest = digest

    def _step_like(self, outline: Program) -> Step | None:
        """A bound step of a program, in the program's own dtype."""
        for (of, _), step in zip(self._steps, self._steps.values(), strict=True):
            if of is outline and step.dtype == outline.seed.dtype:
                return step
        return None

    def _is_off(
        self, kept: Compiled, phi: Phi, step: Step | None, image: Tensor, expected: Tensor
    ) -> bool:
        """Whether a program is further from autograd on an image than rounding explains.

        Args:
            kept: the program.
            phi: Φ.
            step: a step of it, which takes a third of the program's own time; or None.
            image: (1, C, H, W).
            expected: autograd's δ there.
        """
        least = kept.agreement.least
        most = _most_rounding(kept)
        if step is not None:
            rounding = distance_of(step, image, expected, least)
            if rounding <= most:
                return False
        off = distance_of(self.program(kept, phi), image, expected, least) > most
        if step is not None and not off:  # the step's algorithms may round more than the program's
            kept.agreement = kept.agreement.but_at_least(min(rounding, TOLERANCE[image.dtype]))
        return off

    def _renew(
        self, key: Callable[[], Hashable], kept: Compiled, phi: Phi, image: Tensor, random: Tensor
    ) -> None:
        """Record a program anew that is off, or find that it is off by rounding."""
        try:
            new = self._compile(key, phi, image, random, kept.strict)
        except UnsupportedOperation:
            self._kept.drop(lambda entry: entry is kept)
            raise
        assert new.program is not None
        with torch.no_grad():
            old = self.program(kept, phi).pullback_of_ones(random)
            now = new.program.pullback_of_ones(random)
        if not same_bits(old, now):  # the network has changed; or else it was rounding
            self._replace(kept, new)
        elif new.agreement.least:  # of δ that had not cancelled before
            kept.agreement = new.agreement
        else:
            kept.agreement = new.agreement.but_at_least(kept.agreement.rounding)

    def _replace(self, kept: Compiled, new: Compiled) -> None:
        """Put a new recording in the place of a kept one, under the same key."""
        vars(kept).update(vars(new))

    def step(self, kept: Compiled, phi: Phi, bind: Bind) -> Step:
        """A program's bound step, which holds no buffers: transforms and threads may share it.

        Args:
            kept: the program, from `get`.
            phi: Φ.
            bind: the step.
        """
        key, make = bind
        with self._free:
            # Steps that were bound before the weights changed are of no use any more.
            current = {entry.outline for entry in self._kept.values()}
            for entry in [entry for entry in self._steps if entry[0] not in current]:
                self._steps.drop_key(entry)
            step = self._steps.get_or_make(
                (kept.outline, key), lambda: make(self.program(kept, phi))
            )
            if step.dtype == kept.outline.seed.dtype:  # it can be compared with autograd itself
                kept.program = None
            return step


def _most_rounding(kept: Compiled) -> float:
    """The largest distance of a kept program from autograd that is taken for rounding."""
    return max(LEAST_ERROR, MARGIN * kept.agreement.rounding)


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
