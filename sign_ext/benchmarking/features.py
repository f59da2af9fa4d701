"""Φ as a module of its own, as somebody without sign_ext would make it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.source_layer import Phi, SourceLayer


class Hooked(nn.Module):
    """Φ of a network from which the layers behind it cannot be taken out.

    Args:
        model: the network.
        source: where Φ is read.
    """

    def __init__(self, model: nn.Module, source: SourceLayer) -> None:
        """Keep the network; it is hooked only while it runs."""
        super().__init__()
        self.model = model
        self._phi = Phi(model, source)

    def forward(self, images: Tensor) -> Tensor:
        """Φ(images)."""
        return self._phi(images)


def features_of(model: nn.Module, source: SourceLayer, image: Tensor) -> nn.Module:
    """A copy of the network that computes Φ and nothing behind it.

    Where the classifier can be replaced by `nn.Identity`, the copy is the plain network without
    it, which everything that takes modules understands; else the copy is hooked.

    Args:
        model: the network; it is not changed.
        source: where Φ is read.
        image: (1, C, H, W) to see that the copy's values are Φ's.

    Returns:
        The copy, in evaluation mode.
    """
    network = copy.deepcopy(model).eval()
    hooked = Hooked(network, source)
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
    """Whether the network's output is Φ's values, however it shapes them."""
    try:
        found: Any = network(image)
    except Exception:  # what stands behind the classifier may refuse anything else
        return False
    return (
        isinstance(found, Tensor)
        and found.numel() == expected.numel()
        and torch.allclose(found.flatten(), expected.flatten(), rtol=1e-4, atol=1e-6)
    )
