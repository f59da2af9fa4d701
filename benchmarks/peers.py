"""Peers: other implementations of Algorithm 1, each as a skilled user of it would write it.

The peers that `sign-ext bench` also runs are in `sign_ext.benchmarking.loops`.
"""

from __future__ import annotations

import importlib
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sign_ext.benchmarking.loops import Run, freeze


def fold(phi: nn.Module) -> int:
    """Fold each BatchNorm into the convolution before it, in place.

    Args:
        phi: A network in evaluation mode in which convolution and BatchNorm are adjacent children,
            as in torchvision and timm. timm's BatchNorm includes the activation, which is kept.

    Returns:
        The number of folded BatchNorms.
    """
    count = 0
    for parent in list(phi.modules()):
        for (first, conv), (second, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, first, fuse_conv_bn_eval(conv, norm))
                setattr(parent, second, getattr(norm, "act", nn.Identity()))
                count += 1
    return count


def store(phi: nn.Module, precision: str) -> nn.Module:
    """Store the weights in bfloat16 if that is the precision, so that no step casts them."""
    if precision == "bfloat16":
        for module in phi.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.bfloat16()
    return phi


def attack_style(phi: nn.Module, steps: int, step_size: float) -> Run:
    """The loop of torchattacks' PGD: gradients of the images only, weights still trainable."""

    def run(images: Tensor) -> Tensor:
        images = images.clone().detach()
        p = images.clone().detach()
        for _ in range(steps):
            p.requires_grad = True
            (delta,) = torch.autograd.grad(phi(p).sum(), p, retain_graph=False, create_graph=False)
            p = p.detach() + step_size * delta
        return p

    return run


def functional(phi: nn.Module, steps: int, step_size: float) -> Run:
    """`torch.func.grad` of the sum of the outputs, in channels_last."""
    layout = freeze(phi, channels_last=True)
    gradient = torch.func.grad(lambda x: phi(x).sum())

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=layout)
        for _ in range(steps):
            p.add_(gradient(p), alpha=step_size)
        return p

    return run


def memory_saving(phi: nn.Module) -> nn.Module:
    """Φ with the layers of memsave_torch, which save no inputs if their weights are frozen.

    Raises:
        ImportError: memsave_torch is not installed.
    """
    freeze(phi)
    converted: nn.Module = importlib.import_module("memsave_torch.nn").convert_to_memory_saving(phi)
    return converted.eval()
