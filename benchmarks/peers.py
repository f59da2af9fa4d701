"""Other ways to run Algorithm 1, each as its own users would write it at its best."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Run = Callable[[Tensor], Tensor]


def features_of(model: nn.Module) -> nn.Module:
    """Φ alone: the same network with its last Linear replaced, so that peers skip it too."""
    name, _ = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Identity())
    return model


def naive(phi: nn.Module, steps: int, step_size: float) -> Run:
    """What one writes first: weights want gradients, `.backward()` computes them all."""

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
    """Frozen weights and `autograd.grad` of the images alone."""
    phi.requires_grad_(False)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    phi.to(memory_format=layout)

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=layout)
        for _ in range(steps):
            x = p.detach().requires_grad_()
            (delta,) = torch.autograd.grad(phi(x).sum(), x)
            p.add_(delta, alpha=step_size)
        return p

    return run


def functional(phi: nn.Module, steps: int, step_size: float) -> Run:
    """`torch.func.grad` of the sum."""
    phi.requires_grad_(False)
    gradient = torch.func.grad(lambda x: phi(x).sum())

    def run(images: Tensor) -> Tensor:
        p = images.clone()
        for _ in range(steps):
            p = p + step_size * gradient(p)
        return p

    return run


def compiled(phi: nn.Module, steps: int, step_size: float, mode: str | None = None) -> Run:
    """`torch.compile` of the forward pass, its backward with it; channels_last."""
    phi.requires_grad_(False)
    phi.to(memory_format=torch.channels_last)
    fast = torch.compile(phi, mode=mode)

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=torch.channels_last)
        for _ in range(steps):
            x = p.detach().requires_grad_()
            (delta,) = torch.autograd.grad(fast(x).sum(), x)
            p.add_(delta, alpha=step_size)
        return p

    return run
