"""Other ways to run Algorithm 1, each as its own users would write it at its best.

Those that `sign-ext bench` compares too are in `sign_ext.benchmarking.loops`.
"""

from __future__ import annotations

import importlib
import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sign_ext.benchmarking.loops import Run, freeze


def fold(phi: nn.Module) -> int:
    """Fold each BatchNorm into the convolution that stands before it, in place.

    Args:
        phi: a network in evaluation mode whose convolutions and BatchNorms are neighbours in
            their parent, as in torchvision's and timm's; timm's BatchNorm brings its activation.

    Returns:
        How many were folded.
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
    """Keep the weights in bfloat16 where that is the precision, so that no step casts them."""
    if precision == "bfloat16":
        for module in phi.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.bfloat16()
    return phi


def attack_style(phi: nn.Module, steps: int, step_size: float) -> Run:
    """The loop of torchattacks' PGD: gradients of the images alone, the weights left trainable."""

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
    """`torch.func.grad` of the sum; channels_last."""
    layout = freeze(phi, channels_last=True)
    gradient = torch.func.grad(lambda x: phi(x).sum())

    def run(images: Tensor) -> Tensor:
        p = images.clone(memory_format=layout)
        for _ in range(steps):
            p.add_(gradient(p), alpha=step_size)
        return p

    return run


def memory_saving(phi: nn.Module) -> nn.Module:
    """Φ with the layers of memsave_torch, which keep no input where their weights are frozen.

    Raises:
        ImportError: memsave_torch is not installed.
    """
    freeze(phi)
    converted: nn.Module = importlib.import_module("memsave_torch.nn").convert_to_memory_saving(phi)
    return converted.eval()
