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
from sign_ext.model_inputs import NO_INPUTS, ModelInputs
from sign_ext.ops import sign_update_
from sign_ext.ops.watch import NEVER, new_counts, new_watch, reset_counts
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

    def for_images(self, rows: slice) -> Problem:
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
        with torch.enable_grad(), self.autocast(p.device):
            x = p.detach().to(self.model_dtype).requires_grad_()
            value = self.phi(x)
        (delta,) = torch.autograd.grad(value, x, torch.ones_like(value))
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
    """

    def __init__(
        self, problem: Problem, images: Tensor, layout: torch.memory_format | None = None
    ) -> None:
        """Allocate for batches shaped as `images` (N, ...); None: the compiled steps' layout."""
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

    def start(self, images: Tensor) -> None:
        """p*_0 = p: restart from `images`, which are copied into the same buffers.

        The order matters. Recorded graphs hold the buffers' addresses, so buffers are written and
        never replaced. δ at p reads the iterate and comes after it. And everything is written on
        the current stream, where the steps are replayed as well: they wait for these writes, and
        these for the steps before.
        """
        self.iterate.copy_(images)
        if self.velocity is not None:
            self.velocity.zero_()
        self._watch.zero_()
        reset_counts(self._counts)
        if self.delta is not None:
            self.delta.copy_(self.pullback_of_ones())

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}."""
        for _ in range(steps):
            self.step()

    def pullback_of_ones(self) -> Tensor:
        """δ = Σ_a ∂Φ^a/∂x^i at the iterate, in the network's dtype."""
        return self.problem.pullback_of_ones(self.iterate)[0]

    def step(self) -> None:
        """Lines 3 and 4 of Algorithm 1: δ_{k+1}, and p*_{k+1} = p*_k + δ_{k+1}."""
        settings = self.problem.settings
        delta = self.delta if self.delta is not None else self.pullback_of_ones()
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
        return exceeds_rounding(reach, self.iterate)
