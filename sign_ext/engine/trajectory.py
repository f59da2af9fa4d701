"""One batch's trajectory p*_0 = p, p*_1, …, p*_K: its buffers, its steps, and what is watched.

`Trajectory` itself is the `autograd` backend: any module, on any device, one eager forward and
backward pass a step. It is leaner than a naive loop already: parameters are frozen, so no weight
gradient is computed, and 2-d convolutions run in channels_last where that works (`eager.py`). The
other backends derive from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sign_ext.change import exceeds_rounding
from sign_ext.engine.objective import NO_TARGET, Cotangent, Rows, Target, cotangent_of
from sign_ext.engine.update import Ball, update_
from sign_ext.model_inputs import NO_INPUTS, ModelInputs
from sign_ext.ops import sign_update_
from sign_ext.ops.watch import NEVER, new_counts, new_watch, raise_watch, reset_counts
from sign_ext.probe import ImageStatistics
from sign_ext.settings import Settings
from sign_ext.source_layer import Phi


@dataclass(frozen=True)
class Problem:
    """What every step of every batch shares.

    Attributes:
        phi: Φ up to its source layer, from images (N, ...) to outputs.
        settings: the options of SIGN.
        model_dtype: what Φ takes; the iterate is cast to it for each product.
        inputs: what else the network is given in this call.
        like: the images' statistics, for random ones that resemble them; None: each batch's own.
        witness: a random image (1, ...) and autograd's δ there, taken in this call; None: neither.
    """

    phi: Callable[[Tensor], Tensor]
    settings: Settings
    model_dtype: torch.dtype
    inputs: ModelInputs = NO_INPUTS
    like: ImageStatistics | None = field(default=None, compare=False)
    witness: tuple[Tensor, Tensor] | None = field(default=None, compare=False)

    def for_images(self, rows: Rows) -> Problem:
        """The same with Φ for some of the call's images, where each has further inputs of its own.

        Args:
            rows: which images.
        """
        if not self.inputs.per_image:
            return self
        assert isinstance(self.phi, Phi)
        phi = Phi(self.phi.model, self.phi.source, self.inputs[rows])
        return replace(self, phi=phi)

    def autocast(self, device: torch.device) -> AbstractContextManager[None]:
        """The caller's autocast switched off, or bfloat16 switched on where that was asked for."""
        if not torch.amp.is_autocast_available(device.type):
            return nullcontext()
        wanted = self.settings.precision == "bfloat16"
        # No weight cache: it would keep copies from one step, or graph, to the next.
        return torch.autocast(device.type, torch.bfloat16, enabled=wanted, cache_enabled=False)

    def pullback_of_ones(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """δ = Σ_a ∂Φ^a/∂x^i at p, in the network's dtype, and Φ(p) with its graph."""
        return self.pullback(p, torch.ones_like)

    def pullback(self, p: Tensor, cotangent: Cotangent) -> tuple[Tensor, Tensor]:
        """The pull-back to p of a cotangent that is made from Φ(p), and Φ(p) with its graph.

        Args:
            p: (N, ...).
            cotangent: from Φ(p), or the network's output, to the cotangent there.
        """
        with torch.enable_grad(), self.autocast(p.device):
            x = p.detach().to(self.model_dtype).requires_grad_()
            value = self.phi(x)
        (delta,) = torch.autograd.grad(value, x, cotangent(value.detach()))
        return delta, value


def iterate_dtype(model_dtype: torch.dtype) -> torch.dtype:
    """float64 for a float64 network, else float32: p* is never kept in fewer bits than that."""
    return torch.float64 if model_dtype == torch.float64 else torch.float32


def compiled_layout(images: Tensor) -> torch.memory_format:
    """Layout of the iterate for compiled steps, whose operators have the channels innermost."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    return layouts.get(images.dim(), torch.contiguous_format)


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """The caller's autocast switched off for a device.

    Args:
        device: where the work is.
    """
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


_switch_lock = threading.Lock()
# One entry for each `repeatable` that is open: cuDNN's switches as they were before the first one.
_saved_switches: list[tuple[bool, bool]] = []


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """No gradients, no caller's autocast, and the library's deterministic algorithms only.

    cuDNN's switches belong to the process: where several threads are inside, the last to leave
    restores them.

    Args:
        device: where the work is.
    """
    cudnn = torch.backends.cudnn
    with _switch_lock:
        before = _saved_switches[0] if _saved_switches else (cudnn.benchmark, cudnn.deterministic)
        _saved_switches.append(before)
        cudnn.benchmark, cudnn.deterministic = False, True
    try:
        with torch.no_grad(), without_autocast(device):
            yield
    finally:
        with _switch_lock:
            before = _saved_switches.pop()
            if not _saved_switches:
                cudnn.benchmark, cudnn.deterministic = before


class Trajectory:
    """The iterate of one batch and its next steps.

    Every tensor that a step writes is allocated here, once, so that a step can be recorded and
    replayed. Nothing in a step waits for the device: steps note on the device whether they were
    finite, and the host reads that once, after the last one.

    Attributes:
        iterate: p*_k.
        gradient: the objective's gradient at the last step, where it is asked for alone, or None.
    """

    def __init__(
        self,
        problem: Problem,
        images: Tensor,
        layout: torch.memory_format | None = None,
        target: Target = NO_TARGET,
    ) -> None:
        """Allocate for batches like one.

        Args:
            problem: the call's.
            images: (N, ...).
            layout: of the iterate; None: the compiled steps'.
            target: what the batch aims at; others may come with each start.
        """
        self.problem = problem
        dtype = iterate_dtype(problem.model_dtype)
        layout = layout or compiled_layout(images)
        self.iterate = torch.empty_like(images, dtype=dtype, memory_format=layout)
        settings = problem.settings
        self.velocity = torch.empty_like(self.iterate) if settings.momentum else None
        # δ at p, where it is taken once for all steps.
        self.delta = torch.empty_like(self.iterate) if settings.linearize_at == "input" else None
        # The watch is the largest |δ| and |p + step_size · v| of all steps so far; the counts are
        # the number of steps and the first bad one (`sign_ext.ops.watch`).
        self._watch = new_watch(dtype, images.device)
        self._counts = new_counts(images.device)
        rule = settings.rule
        self._labels = None if target.labels is None else torch.empty_like(target.labels)
        self._ball = Ball(rule, self.iterate, settings.clamp) if rule.project else None
        self.gradient = torch.empty_like(self.iterate) if rule.update == "none" else None

    def start(self, images: Tensor, target: Target = NO_TARGET) -> None:
        """p*_0 = p: restart from `images`, which are copied into the same buffers.

        The order matters. Recorded graphs hold the buffers' addresses, so buffers are written and
        never replaced. δ at p reads the iterate and comes after it. And everything is written on
        the current stream, where the steps are replayed as well: they wait for these writes, and
        these for the steps before.
        """
        self.iterate.copy_(images)
        if self._labels is not None:
            assert target.labels is not None
            self._labels.copy_(target.labels)
        if self._ball is not None:
            self._ball.start(images if target.origin is None else target.origin)
        if self.velocity is not None:
            self.velocity.zero_()
        self._watch.zero_()
        reset_counts(self._counts)
        if self.delta is not None:
            self.delta.copy_(self.pullback())

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}."""
        for _ in range(steps):
            self.step()

    def cotangent(self, rows: slice) -> Cotangent | None:
        """What makes some rows' cotangent at the network's output; None for ones at Φ.

        Args:
            rows: of the batch.
        """
        rule = self.problem.settings.rule
        if not rule.reads_output:
            return None
        return cotangent_of(rule, None if self._labels is None else self._labels[rows])

    def pullback(self) -> Tensor:
        """δ at the iterate, in the network's dtype: Σ_a ∂Φ^a/∂x^i, or an objective's gradient."""
        cotangent = self.cotangent(slice(0, len(self.iterate)))
        if cotangent is None:
            return self.problem.pullback_of_ones(self.iterate)[0]
        return self.problem.pullback(self.iterate, cotangent)[0]

    def step(self) -> None:
        """Lines 3 and 4 of Algorithm 1: δ_{k+1}, and p*_{k+1} = p*_k + δ_{k+1}."""
        settings = self.problem.settings
        delta = self.delta if self.delta is not None else self.pullback()
        if settings.rule.needs_delta:
            with torch.no_grad():
                self._apply(delta, slice(0, len(self.iterate)), self._counts)
            return
        low, high = settings.clamp or (None, None)
        with torch.no_grad():
            sign_update_(
                self.iterate,
                delta,
                self.velocity,
                step_size=settings.step_size,
                momentum=settings.momentum,
                clamp_min=low,
                clamp_max=high,
                watch=self._watch,
                counts=self._counts,
            )

    def _apply(self, delta: Tensor, rows: slice, counts: Tensor | None) -> None:
        """Move some rows by a gradient that is whole in memory, or keep it where it is wanted."""
        settings = self.problem.settings
        p = self.iterate[rows]
        if self.gradient is not None:
            self.gradient[rows].copy_(delta)
            raise_watch(self._watch, delta, p, counts)
            return
        update_(
            p,
            delta,
            None if self.velocity is None else self.velocity[rows],
            settings.rule,
            self._ball,
            rows,
            step_size=settings.step_size,
            momentum=settings.momentum,
            clamp=settings.clamp,
            watch=self._watch,
            counts=counts,
        )

    def first_bad_step(self) -> int:
        """The first step (from 1) that was not finite for some image, or 0. Waits for the device.

        A step is bad when its δ, or its p + step_size · v before the clamp, has a NaN or an
        infinity; after the clamp an infinity would look like a bound. The watch is a running
        maximum in which NaN stays, so every later step finds it bad as well: of their numbers the
        update operator keeps the smallest.
        """
        first = int(self._counts[1])
        return 0 if first == NEVER else first

    def moved(self) -> bool:
        """Whether the steps so far moved these images beyond rounding. Waits for the device."""
        settings = self.problem.settings
        # A velocity sums to at most |δ| / (1 - μ), so no variable went further than this.
        factor = abs(settings.step_size) / (1 - settings.momentum)
        reach = self._watch[0] * factor * self._counts[0]
        if settings.rule.update in ("sign", "l2"):  # however small the gradient is, unless it is 0
            return bool(self._watch[0] > 0) and factor > 0
        return exceeds_rounding(reach, self.iterate)
