"""Which backend runs a call, and why.

`candidates` is the rule, from the device and the options alone. `Engines.resolve` asks each
candidate in turn whether it can run this network on these images; `SignTransform.explain` reports
its answer and `Engines.start` acts on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from sign_ext.compiler.memory_plan import MemoryPlan
from sign_ext.engine.eager import AutogradEngine, Layout
from sign_ext.engine.fused.engine import FusedEngine
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.graphed import GraphedEngine
from sign_ext.engine.kept import kept_for
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.onchip.engine import OnChipEngine
from sign_ext.engine.trajectory import Problem, Trajectory, compiled_layout
from sign_ext.errors import BackendError, first_line
from sign_ext.ops.native import NATIVE
from sign_ext.settings import Settings

FAILURES_KEPT = 16  # kinds of images and structures of the network at a time


@dataclass(frozen=True)
class BackendChoice:
    """A backend, and why it is that one.

    Attributes:
        backend: its name.
        reason: why it runs.
        failures: the backends that `auto` would have taken before it, and why each cannot run.
    """

    backend: str
    reason: str
    failures: Mapping[str, str] = field(default_factory=dict)


def missing_native(device: torch.device) -> str | None:
    """Why the fused operators do not run natively on `device`, or None if they do."""
    if not NATIVE.loaded:
        return NATIVE.why
    if device.type == "cpu" or (device.type == "cuda" and NATIVE.cuda):
        return None
    if device.type == "cuda":
        return f"no CUDA operator was built: {NATIVE.why}"
    return f"there are no native operators for {device.type}"


def candidates(
    backend: str, device: torch.device, precision: str = "float32"
) -> list[BackendChoice]:
    """The backends to try for images on `device`, best first.

    Args:
        backend: "auto", or a backend by name.
        device: where the images and the network are.
        precision: the call's; `auto` tries the chip in bfloat16 only.

    Raises:
        BackendError: the backend asked for by name cannot run there.
    """
    on_cuda = device.type == "cuda"
    if backend == "graphed" and not on_cuda:
        raise BackendError(
            f'backend="graphed" records CUDA graphs and needs model and images on a CUDA device; '
            f'they are on {device}. Use backend="auto", "fused" or "autograd"'
        )
    if backend == "onchip" and not on_cuda:
        raise BackendError(
            'backend="onchip" keeps an image in the shared memory of an NVIDIA GPU and needs model '
            f'and images on a CUDA device; they are on {device}. Use backend="auto", "fused" or '
            '"autograd"'
        )
    if backend != "auto":
        return [BackendChoice(backend, "asked for by name")]
    found = []
    missing = missing_native(device)
    if missing is None and on_cuda and precision == "bfloat16":
        found.append(BackendChoice("onchip", "auto: most of the network fits in shared memory"))
    if missing is None:
        found.append(BackendChoice("fused", "auto: the network is compiled to fused operators"))
    without = "" if missing is None else f" (fused: {missing})"
    if on_cuda:
        found.append(
            BackendChoice(
                "graphed", f"auto: on {device} one recorded step is replayed K times{without}"
            )
        )
    found.append(BackendChoice("autograd", f"auto: runs any network on any device{without}"))
    return found


def choose(backend: str, device: torch.device) -> BackendChoice:
    """The backend for images on `device` as far as it can be known without the network.

    Args:
        backend: "auto", or a backend by name.
        device: where the images and the network are.

    Raises:
        BackendError: the backend asked for by name cannot run there.
    """
    return candidates(backend, device)[0]


class Engines:
    """The backends of one network, with what they have compiled and recorded.

    Attributes:
        kept: what all transforms of the network share.
        fused: the backend that compiles.
        onchip: the backend that keeps an image's values on chip.
    """

    def __init__(
        self,
        settings: Settings,
        network: nn.Module,
        plan: TuningPlan,
        *,
        measure: bool = False,
        strict: bool = False,
        eager_only: str = "",
    ) -> None:
        """Compile nothing yet.

        Args:
            settings: its backend and precision decide what is tried.
            network: the network.
            plan: the fused backend's algorithm choices.
            measure: whether the fused backend measures what the plan lacks.
            strict: whether the compiler refuses operations without a rule.
            eager_only: why no step may be compiled or recorded, or "" if it may.
        """
        self._eager_only = eager_only
        self._backend = settings.backend
        self._precision = settings.precision
        self.kept = kept_for(network)
        self.fused = FusedEngine(
            network, plan, measure=measure, strict=strict, programs=self.kept.programs
        )
        self._layouts = self.kept.layouts
        self.onchip = OnChipEngine(self.fused)
        self._engines: dict[str, OnChipEngine | FusedEngine | GraphedEngine | AutogradEngine] = {
            "onchip": self.onchip,
            "fused": self.fused,
            "graphed": GraphedEngine(
                network, structure=self.fused.structure, layouts=self._layouts
            ),
            "autograd": AutogradEngine(self._layouts),
        }
        self._buffers_read: torch.cuda.Event | None = None
        # What `auto` tried to start and could not, by kind of images and the network's structure:
        # backend → reason. Only `start` writes it, so that asking never changes what runs.
        self._failures: dict[Hashable, dict[str, str]] = {}
        self._latest: dict[str, str] = {}  # in the last batch that was started

    def candidates(self, device: torch.device) -> list[BackendChoice]:
        """The backends to try for images on `device`; BackendError if none can run there."""
        if self._eager_only:
            if self._backend not in ("auto", "autograd"):
                raise BackendError(
                    f"backend={self._backend!r} cannot run this call: {self._eager_only}. Use "
                    'backend="auto" or "autograd"'
                )
            (autograd,) = candidates("autograd", device)
            return [replace(autograd, reason=self._eager_only)]
        return candidates(self._backend, device, self._precision)

    def resolve(self, problem: Problem, images: Tensor) -> BackendChoice:
        """Decide what runs images like these; the answer changes nothing.

        A backend is passed over if it cannot run this network on these images, or if an earlier
        call failed to start it on such images and the network's structure is still the same. What
        only shows when a step is recorded, such as a network that waits for the device, is not
        known before the first call.

        Args:
            problem: the call's.
            images: (N, ...), N ≥ 1.

        Raises:
            BackendError: the backend asked for by name cannot run this network.
        """
        failures = dict(self._failures.get(self._kind(problem, images), {}))
        for candidate in self.candidates(images.device):
            if candidate.backend in failures and self._backend == "auto":
                continue
            try:
                self._check(candidate.backend, problem, images)
            except Exception as error:  # what no compiler foresaw is no reason to fail
                if not self._may_go_on(candidate.backend, error):
                    raise
                failures[candidate.backend] = first_line(error)
            else:
                return _chosen(candidate, failures)
        raise AssertionError("autograd runs every network")

    def _may_go_on(self, backend: str, error: Exception) -> bool:
        """Whether the next backend is to be tried after one has failed."""
        if self._backend != "auto" or backend == "autograd":
            return False
        return not isinstance(error, torch.OutOfMemoryError)

    def _check(self, backend: str, problem: Problem, images: Tensor) -> None:
        """Raise BackendError where it is known without a step that the backend cannot run."""
        if backend == "onchip":
            if self._backend == "auto":
                self.onchip.require_most(problem, images)
            else:
                self.onchip.network(problem, images)
        elif backend == "fused":
            if self._backend == "auto":
                self.fused.require_most(problem, images)
            else:
                self.fused.outline(problem, images)

    def last_choice(self, device: torch.device) -> BackendChoice:
        """The backend for images on `device` as far as earlier calls tell, without images.

        Args:
            device: where images and network are.

        Raises:
            BackendError: the backend asked for by name cannot run there.
        """
        failures = self._latest
        for candidate in self.candidates(device):
            if candidate.backend not in failures:
                return _chosen(candidate, failures)
        raise AssertionError("autograd runs every network")

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan | None:
        """The compiled step's memory plan, or None where no compiled step will run.

        Args:
            problem: the call's.
            images: images like those to come, (N, ...).
        """
        tried = {candidate.backend for candidate in self.candidates(images.device)}
        tried -= set(self._failures.get(self._kind(problem, images), {}))
        if not tried & {"fused", "onchip"}:
            return None
        try:
            if "fused" in tried:
                self._check("fused", problem, images)
            return self.fused.memory(problem, images)
        except Exception as error:  # `start` meets it again, and raises or tries the next backend
            if isinstance(error, BackendError) or self._may_go_on("fused", error):
                return None
            raise

    def start(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied.

        Args:
            problem: the call's.
            images: the batch.
            target: its labels and what its projection is around.

        Raises:
            BackendError: the backend asked for by name cannot run this network; `auto` goes on to
                the next and remembers why.
        """
        if self._buffers_read is not None and images.is_cuda:
            torch.cuda.current_stream(images.device).wait_event(self._buffers_read)
        while True:  # at most once a backend: each failure rules one out
            choice = self.resolve(problem, images)
            try:
                trajectory = self._engines[choice.backend].start(problem, images, target)
            except Exception as error:
                if not self._may_go_on(choice.backend, error):
                    raise
                self._remember(
                    problem, images, {**choice.failures, choice.backend: first_line(error)}
                )
            else:
                self._remember(problem, images, choice.failures)
                return trajectory

    def step_failed(self, problem: Problem, images: Tensor, error: Exception) -> bool:
        """Rule out what ran a step that raised; False where nothing is left to try.

        Args:
            problem: the call's.
            images: the batch.
            error: what a step of its trajectory raised.
        """
        choice = self.resolve(problem, images)
        if self._may_go_on(choice.backend, error):
            self._remember(problem, images, {**choice.failures, choice.backend: first_line(error)})
            return True
        if choice.backend != "autograd" or isinstance(error, torch.OutOfMemoryError):
            return False
        why = f"channels_last fails: {first_line(error)}"
        return self._layouts.rule_out(problem, images, why)

    def layout(self, backend: str, problem: Problem, images: Tensor) -> Layout:
        """How a backend lays out the iterates of images like these.

        Args:
            backend: its name.
            problem: the call's.
            images: (N, ...), N ≥ 1.
        """
        if backend in ("onchip", "fused"):
            return Layout(compiled_layout(images))
        return self._layouts.choose(problem, images)

    def _remember(self, problem: Problem, images: Tensor, failures: Mapping[str, str]) -> None:
        """Keep why backends cannot run images like these."""
        self._latest = dict(failures)
        if failures:
            kind = self._kind(problem, images)
            self._failures.pop(kind, None)
            self._failures[kind] = self._latest
            while len(self._failures) > FAILURES_KEPT:
                del self._failures[next(iter(self._failures))]

    def _kind(self, problem: Problem, images: Tensor) -> Hashable:
        """What a failure may depend on: not the weights, which training changes in every step."""
        return (images.shape[1:], images.device, self.fused.structure.key(problem))

    def finish_reading(self, device: torch.device) -> None:
        """Remember when a finished iterate will have been read by this stream.

        The next trajectory may work in the same buffers, on another stream: it waits until then.

        Args:
            device: where the iterate is.
        """
        if device.type == "cuda":
            self._buffers_read = torch.cuda.current_stream(device).record_event()


def _chosen(candidate: BackendChoice, failures: Mapping[str, str]) -> BackendChoice:
    """A candidate with the reason why it, and none before it, runs."""
    if not failures:
        return candidate
    tried = "; ".join(f"{name} was tried: {reason}" for name, reason in failures.items())
    return BackendChoice(candidate.backend, f"auto: {tried}", dict(failures))
