"""The compiled programs and bound steps of one network, kept while they are what it computes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.build import build, recording_again
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.program import Program, constant_bytes
from sign_ext.compiler.record import READS_WEIGHTS
from sign_ext.compiler.trace import trace
from sign_ext.engine.agreement import (
    TOLERANCE,
    Agreement,
    cancelled_below,
    check_gradient,
    distance_of,
)
from sign_ext.engine.fused.step import Step, without_weights
from sign_ext.engine.trajectory import Problem
from sign_ext.engine.witness import Witnesses
from sign_ext.errors import UnsupportedOperation
from sign_ext.eval_state import same_bits, why_not_recorded
from sign_ext.network_state import (
    StructureWatch,
    constants_of,
    release_weights,
    weights_digest,
    with_weights,
)
from sign_ext.probe import pullback, relative_distances, statistics_of
from sign_ext.source_layer import Phi

PROGRAMS_KEPT = 8  # image shapes, source layers and further inputs at a time
STEPS_KEPT = 4  # batch shapes at a time: a full batch, a partial one, and two of an earlier call
SUPPORTED = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # dtypes of networks
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
    dtype: torch.dtype  # of the network
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
    autograd's on one random image, of which the network's forward pass says at least whether it is
    still what it was (`known_layer.py`). A program that is further off than rounding ever was is
    recorded anew.

    Several threads may use it, and several transforms of the network do. It does not keep the
    network alive.

    Attributes:
        structure: the network's watch.
        witnesses: the random images.
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
        self.witnesses = Witnesses()

    def clear(self) -> None:
        """Forget all programs and steps."""
        with self._free:
            self._kept = BoundedCache(PROGRAMS_KEPT)
            self._refused = BoundedCache(PROGRAMS_KEPT)
            self._mostly_islands = BoundedCache(PROGRAMS_KEPT)
            self._steps = BoundedCache(STEPS_KEPT)
            self.witnesses.clear()

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
                f"networks in {str(dtype).removeprefix('torch.')}; those in float32, float64, "
                "bfloat16 and float16 are compiled"
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
            random = self.witnesses.draw(like, images, RANDOM_IMAGES).to(dtype)
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
            random = self.witnesses.take(like, images, dtype) if witness is None else witness[0]
            self._follow_weights(key, kept, phi, images[:1].to(dtype), random)
            outline = kept.outline
            step = self._step_like(outline)
        try:
            expected = pullback(phi, random)[1] if witness is None else witness[1]
        except Exception:  # as in `_compile`
            return kept
        if witness is not None and step is not None:
            if self._distance(kept, step, random, expected) <= _most_rounding(kept):
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
        image = seed.new_zeros((1, *kept.outline.image_shape), dtype=kept.dtype)
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

    def has_any(self, shape: torch.Size) -> bool:
        """Whether there is a program, which a call may compare with autograd.

        Args:
            shape: of one image, (C, ...).
        """
        with self._free:
            return any(kept.outline.image_shape == tuple(shape) for kept in self._kept.values())

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
            dtype=image.dtype,
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

    def _distance(self, kept: Compiled, step: Step, image: Tensor, expected: Tensor) -> float:
        """How far a step's δ at the random image of a call is from autograd's."""
        got = self.witnesses.delta_of(step, image)
        return float(relative_distances(got, expected, kept.agreement.least).max())

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
        most, least = _most_rounding(kept), kept.agreement.least
        if step is not None:
            rounding = self._distance(kept, step, image, expected)
        else:
            rounding = distance_of(self.program(kept, phi), image, expected, least)
        if rounding <= most:
            return False
        if not least:
            # Rounding alone may have agreed where the program was checked.
            least = float(cancelled_below(phi, image).min())
            if float(expected.double().norm()) < least:
                kept.agreement = kept.agreement.with_cancelled(least)
                return self._is_off(kept, phi, step, image, expected)
        if step is None:
            return True
        off = distance_of(self.program(kept, phi), image, expected, kept.agreement.least) > most
        if not off:  # the step's algorithms may round more than the program's
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
