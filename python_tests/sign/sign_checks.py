"""What the tests of iterative_sign share: a step size, the reference, a model's whole state."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from sign_ext.reference import iterative_sign_reference

STEP = 2000.0


def reference(model: nn.Sequential, images: Tensor, steps: int, **options) -> Tensor:
    exact = copy.deepcopy(model).double().eval()
    return iterative_sign_reference(exact[:-1], images.double(), steps, **options)


def assert_moved_like(got: Tensor, expected: Tensor, images: Tensor, tolerance=1e-4) -> None:
    moved = expected - images.double()
    assert moved.norm() > 1
    assert (got.double() - expected).norm() / moved.norm() < tolerance


def count_forwards(model):
    """How often the first module ran, by batch size, from now on."""
    seen: dict[int, int] = {}

    def hook(_, args):
        seen[len(args[0])] = seen.get(len(args[0]), 0) + 1

    handle = model[0].register_forward_pre_hook(hook)

    def stop():
        handle.remove()
        return seen

    return stop


def snapshot_of(model: nn.Module):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [len(m._backward_hooks) for m in model.modules()],
        torch.get_rng_state(),
        [v.data_ptr() for v in model.state_dict().values()],
        [v.stride() for v in model.state_dict().values()],
    )


def equal(a, b) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
