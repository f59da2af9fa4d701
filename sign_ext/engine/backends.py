"""Which backend runs a call, and why; and the fallbacks, which say so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sign_ext.compiler.memory_plan import MemoryPlan
from sign_ext.engine.fused.engine import FusedEngine
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.graphed import GraphedEngine
from sign_ext.engine.onchip.engine import OnChipEngine
from sign_ext.engine.trajectory import AutogradEngine, Problem, Trajectory
from sign_ext.errors import BackendError
from sign_ext.ops.native import NATIVE
from sign_ext.settings import Settings


@dataclass(frozen=True)
class Choice:
    """A backend's name and the reason for it."""

    backend: str
    reason: str


def native_on(device: torch.device) -> str | None:
    """Why the fused operators do not run natively on `device`, or None if they do."""
    if not NATIVE.loaded:
        return NATIVE.why
    if device.type == "cpu" or (device.type == "cuda" and NATIVE.cuda):
        return None
    if device.type == "cuda":
        return f"no CUDA operator was built: {NATIVE.why}"
    return f"there are no native operators for {device.type}"


def candidates(backend: str, device: torch.device, precision: str = "float32") -> list[Choice]:
    """The backends to try for images on `device`, best first.

    Args:
        backend: "auto", or a backend by name.
        device: where the images and the network are.
        precision: of the call: in bfloat16 a network may run on chip.

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
        return [Choice(backend, "asked for by name")]
    found = []
    missing = native_on(device)
    if missing is None and on_cuda and precision == "bfloat16":
        found.append(Choice("onchip", "auto: most of the network fits in shared memory"))
    if missing is None:
        found.append(Choice("fused", "auto: the network is compiled to fused operators"))
    without = "" if missing is None else f" (fused: {missing})"
    if on_cuda:
        found.append(
            Choice("graphed", f"auto: on {device} one recorded step is replayed K times{without}")
        )
    found.append(Choice("autograd", f"auto: runs any network on any device{without}"))
    return found


def choose(backend: str, device: torch.device) -> Choice:
    """The backend for images on `device`, as far as it can be told without the network.

    Args:
        backend: "auto", or a backend by name.
        device: where the images and the network are.

    Raises:
        BackendError: the backend asked for by name cannot run there.
    """
    return candidates(backend, device)[0]


class Engines:
    """The backends of one network: chosen by name or by rule, with what they compiled kept."""

    def __init__(
        self, settings: Settings, network: nn.Module, plan: TuningPlan, *, measure: bool = False
    ) -> None:
        """`settings` name the backend, or "auto"; `plan` and `measure` are the fused one's."""
        self._backend = settings.backend
        self._precision = settings.precision
        self.fused = FusedEngine(network, plan, measure=measure)
        self.onchip = OnChipEngine(self.fused)
        self._engines: dict[str, OnChipEngine | FusedEngine | GraphedEngine | AutogradEngine] = {
            "onchip": self.onchip,
            "fused": self.fused,
            "graphed": GraphedEngine(network),
            "autograd": AutogradEngine(),
        }
        self._handed_over: torch.cuda.Event | None = None
        # Why `auto` passed a backend over, for each kind of image.
        self._refused: dict[object, dict[str, str]] = {}

    def candidates(self, device: torch.device) -> list[Choice]:
        """The backends to try for images on `device`; BackendError if none can run there."""
        return candidates(self._backend, device, self._precision)

    def choice(self, device: torch.device, images: Tensor | None = None) -> Choice:
        """The backend for images on `device`, and why; BackendError if it cannot run there.

        Args:
            device: where images and network are.
            images: images like those to come; without them, what was found out is that of the
                last ones seen.
        """
        refused = self._refusals(images)
        for candidate in self.candidates(device):
            if candidate.backend not in refused:
                break
        if not refused or self._backend != "auto":
            return candidate
        why = "; ".join(f"{name} was tried: {reason}" for name, reason in refused.items())
        return Choice(candidate.backend, f"auto: {why}")

    def _refusals(self, images: Tensor | None) -> dict[str, str]:
        if images is not None:
            return self._refused.get(_kind(images), {})
        return next(reversed(self._refused.values())) if self._refused else {}

    def refuse(self, backend: str, images: Tensor, reason: str) -> dict[str, str]:
        """Remember that `auto` passes a backend over for images like these, and why."""
        kind = _kind(images)
        self._refused[kind] = {**self._refused.pop(kind, {}), backend: reason}
        return self._refused[kind]

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan | None:
        """The compiled step's memory plan, or None where no compiled step will run.

        Args:
            problem: the call's.
            images: images like those to come, (N, ...).
        """
        tried = {candidate.backend for candidate in self.candidates(images.device)}
        if not (tried - set(self._refusals(images))) & {"fused", "onchip"}:
            return None
        try:
            return self.fused.memory(problem, images)
        except BackendError:  # `start` meets it again, and says so or goes on to the next
            return None

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied.

        Raises:
            BackendError: the backend asked for by name cannot run this network; `auto` goes on to
                the next and remembers why.
        """
        if self._handed_over is not None and images.is_cuda:
            torch.cuda.current_stream(images.device).wait_event(self._handed_over)
        refused = self._refused.get(_kind(images), {})
        for candidate in self.candidates(images.device):
            if candidate.backend in refused:
                continue
            try:
                if candidate.backend == "onchip" and self._backend == "auto":
                    self.onchip.require_most(problem, images)
                return self._engines[candidate.backend].start(problem, images)
            except BackendError as error:
                if self._backend != "auto":
                    raise
                refused = self.refuse(candidate.backend, images, str(error))
        raise AssertionError("autograd runs every network")

    def hand_over(self, device: torch.device) -> None:
        """Remember when a finished iterate will have been read by this stream.

        The next trajectory may work in the same buffers, on another stream: it waits until then.

        Args:
            device: where the iterate is.
        """
        if device.type == "cuda":
            self._handed_over = torch.cuda.current_stream(device).record_event()


def _kind(images: Tensor) -> object:
    """What a refusal may depend on."""
    return (images.shape[1:], images.device)
