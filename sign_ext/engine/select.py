"""Which backend runs a call, and why; and the one fallback, which says so."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sign_ext.engine.autograd import AutogradEngine
from sign_ext.engine.graphed import GraphedEngine
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.errors import BackendError


@dataclass(frozen=True)
class Choice:
    """A backend's name and the reason for it."""

    backend: str
    reason: str


def choose(backend: str, device: torch.device) -> Choice:
    """The backend for images on `device`.

    Args:
        backend: "auto", or a backend by name.
        device: where the images and the network are.

    Raises:
        BackendError: the backend asked for by name cannot run there.
    """
    on_cuda = device.type == "cuda"
    if backend == "graphed" and not on_cuda:
        raise BackendError(
            f'backend="graphed" records CUDA graphs and needs model and images on a CUDA device; '
            f'they are on {device}. Use backend="auto" or "autograd"'
        )
    if backend != "auto":
        return Choice(backend, "asked for by name")
    if on_cuda:
        return Choice("graphed", f"auto: on {device} one recorded step is replayed K times")
    return Choice("autograd", f"auto: the backend for {device.type}; graphed needs a CUDA device")


class Engines:
    """The backends of one network: chosen by name or by rule, with recorded graphs kept."""

    def __init__(self, backend: str, network: nn.Module) -> None:
        """`backend` is "auto" or a backend's name."""
        self._backend = backend
        self._autograd = AutogradEngine()
        self._graphed = GraphedEngine(network)
        self._cannot_graph: str | None = None  # why `auto` went from graphed to autograd

    def choice(self, device: torch.device) -> Choice:
        """The backend for images on `device`, and why; BackendError if it cannot run there."""
        if self._backend == "auto" and self._cannot_graph is not None:
            return Choice("autograd", f"auto: graphed was tried: {self._cannot_graph}")
        return choose(self._backend, device)

    def start(self, problem: Problem, images: Tensor) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied.

        Raises:
            BackendError: the backend asked for by name cannot run this network; `auto` falls back
                to `autograd` and remembers why.
        """
        if self.choice(images.device).backend == "graphed":
            try:
                return self._graphed.start(problem, images)
            except BackendError as error:
                if self._backend != "auto":
                    raise
                self._cannot_graph = str(error)
        return self._autograd.start(problem, images)
