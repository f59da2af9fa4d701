"""Φ that contenders get is the plain network without its classifier, where that can be."""

from __future__ import annotations

import torch
from torch import nn

from sign_ext.benchmarking.loops import HookedPhi, extract_phi
from sign_ext.source_layer import Phi, find_source_layer, named_source_layer

IMAGE = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_classifier_at_the_end_is_taken_out() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    source = find_source_layer(model, IMAGE)
    phi = extract_phi(model, source, IMAGE)
    assert isinstance(phi, nn.Sequential)
    assert isinstance(phi[-1], nn.Identity)
    assert isinstance(model[-1], nn.Linear)
    assert phi[0].weight is not model[0].weight
    torch.testing.assert_close(phi(IMAGE), Phi(model, source)(IMAGE))


def test_what_stands_behind_the_classifier_is_not_phi() -> None:
    # As in SqueezeNet: the classifier is a convolution, and its outputs are averaged.
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    source = find_source_layer(model, IMAGE)
    assert source.name == "2"
    phi = extract_phi(model, source, IMAGE)
    assert isinstance(phi, HookedPhi)
    assert phi(IMAGE).shape == (1, 4, 4, 4)
    torch.testing.assert_close(phi(IMAGE), model[:2](IMAGE))
    assert len(list(phi.parameters())) == len(list(model.parameters()))


def test_a_layer_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).eval()
    phi = extract_phi(model, named_source_layer(model, "1"), IMAGE)
    torch.testing.assert_close(phi(IMAGE), model[:2](IMAGE))
