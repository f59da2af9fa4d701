"""Algorithm 1 in plain PyTorch without sign_ext, from a first draft to a tuned loop, and its Φ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.eval_state import arithmetic
from sign_ext.source_layer import Phi, SourceLayer

Run = Callable[[Tensor], Tensor]


def freeze(phi: nn.Module, *, channels_last: bool = False) -> torch.memory_format:
    """Freeze Φ's weights and set their memory format, which is returned for the images."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    phi.requires_grad_(False).to(memory_format=memory_format)
    return memory_format


@contextmanager
def precision_context(
    precision: str, device: torch.device, *, tuned: bool = False
) -> Iterator[None]:
    """Compute at a precision, the same for all contenders of a race.

    Args:
        precision: "float32" (IEEE), "tf32" or "bfloat16" (autocast, the iterate in float32).
        device: where the images are.
        tuned: let cuDNN benchmark its algorithms for each shape, as its users do.
    """
    before = torch.backends.cudnn.benchmark
    lower = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with arithmetic(precision), lower:
        torch.backends.cudnn.benchmark = tuned
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before


def with_precision(precision: str, run: Run, *, tuned: bool = False) -> Run:
    """Return `run` at a precision; see `precision_context`."""

    def inner(images: Tensor) -> Tensor:
        with precision_context(precision, images.device, tuned=tuned):
            return run(images)

    return inner


def naive(phi: nn.Module, steps: int, step_size: float) -> Run:
    """A first draft: weights require gradients, and `.backward()` computes all of them."""
    for weight in phi.parameters():
        weight.requires_grad_(weight.is_floating_point())

    def run(images: Tensor) -> Tensor:
        p = images.clone()
        for _ in range(steps):
            x = p.detach().requires_grad_()
            phi(x).sum().backward()
            p = p + step_size * x.grad  # type: ignore[operator]
        phi.zero_grad()
        return p

    return run


def frozen(phi: nn.Module, steps: int, step_size: float, *, channels_last: bool = False) -> Run:
    """Frozen weights, `autograd.grad` for the images only, updated in place."""
    memory_format = freeze(phi, channels_last=channels_last)

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=memory_format)
        for _ in range(steps):
            x = p.detach().requires_grad_()
            (delta,) = torch.autograd.grad(phi(x).sum(), x)
            p.add_(delta, alpha=step_size)
        return p

    return run


def compiled(phi: nn.Module, steps: int, step_size: float, mode: str | None = None) -> Run:
    """`torch.compile` of the forward pass, and so of its backward pass; channels_last."""
    memory_format = freeze(phi, channels_last=True)
    # fullgraph: a network that is compiled only in part would be another contender.
    fast = torch.compile(phi, mode=mode, dynamic=False, fullgraph=True)

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=memory_format)
        for _ in range(steps):
            torch.compiler.cudagraph_mark_step_begin()  # max-autotune replays CUDA graphs
            x = p.detach().requires_grad_()
            (delta,) = torch.autograd.grad(fast(x).sum(), x)
            p.add_(delta, alpha=step_size)
        return p

    return run


def captured(phi: nn.Module, steps: int, step_size: float) -> Run:
    """A CUDA graph of one step, captured by hand and replayed; channels_last."""
    memory_format = freeze(phi, channels_last=True)
    graphs: dict[torch.Size, tuple[Tensor, torch.cuda.CUDAGraph]] = {}

    def step(p: Tensor) -> None:
        x = p.detach().requires_grad_()
        (delta,) = torch.autograd.grad(phi(x).sum(), x)
        p.add_(delta, alpha=step_size)

    def capture(images: Tensor) -> tuple[Tensor, torch.cuda.CUDAGraph]:
        p = images.clone(memory_format=memory_format)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(p)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(p)
        return p, graph

    def run(images: Tensor) -> Tensor:
        if images.shape not in graphs:
            graphs[images.shape] = capture(images)
        p, graph = graphs[images.shape]
        p.copy_(images)
        for _ in range(steps):
            graph.replay()
        return p.clone()

    return run


class HookedPhi(nn.Module):
    """Φ of a network whose layers after Φ cannot be removed.

    Args:
        model: the network.
        source: where Φ is read.
    """

    def __init__(self, model: nn.Module, source: SourceLayer) -> None:
        """Keep the network; the hook exists only during a forward pass."""
        super().__init__()
        self.model = model
        self._phi = Phi(model, source)

    def forward(self, images: Tensor) -> Tensor:
        """Φ(images)."""
        return self._phi(images)


def extract_phi(model: nn.Module, source: SourceLayer, image: Tensor) -> nn.Module:
    """Return a copy of the network that computes Φ, as a user without sign_ext would make it.

    If the classifier can be replaced by `nn.Identity`, the copy is the plain network without it,
    which every tool for modules handles; otherwise the copy is hooked.

    Args:
        model: the network; it is not modified.
        source: where Φ is read.
        image: (1, C, H, W), to check that the copy computes Φ.

    Returns:
        The copy, in evaluation mode.
    """
    network = copy.deepcopy(model).eval()
    hooked = HookedPhi(network, source)
    if source.side == "output" or not source.name:
        return hooked
    with torch.no_grad():
        expected = hooked(image)
        parent, _, leaf = source.name.rpartition(".")
        classifier = network.get_submodule(source.name)
        setattr(network.get_submodule(parent), leaf, nn.Identity())
        if _same(network, image, expected):
            return network
    setattr(network.get_submodule(parent), leaf, classifier)
    return hooked


def _same(network: nn.Module, image: Tensor, expected: Tensor) -> bool:
    """Whether the network's output equals Φ's values, in any shape."""
    try:
        found: Any = network(image)
    except Exception:  # layers after the classifier may reject another shape
        return False
    return (
        isinstance(found, Tensor)
        and found.numel() == expected.numel()
        and torch.allclose(found.flatten(), expected.flatten(), rtol=1e-4, atol=1e-6)
    )
