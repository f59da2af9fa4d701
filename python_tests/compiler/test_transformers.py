"""Transformers of timm, at few blocks and small images: no islands, and autograd's δ."""

from __future__ import annotations

import pytest
import torch

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.island import Island
from sign_ext.source_layer import Phi, find_source_layer

timm = pytest.importorskip("timm")

NETWORKS = {
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 2}, 64),
    "deit3_small_patch16_224": ({"img_size": 48, "depth": 2, "embed_dim": 96, "num_heads": 3}, 48),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "depths": (2, 2), "embed_dim": 48}, 56),
    "eva02_tiny_patch14_224": ({"img_size": 42, "depth": 2, "embed_dim": 96, "num_heads": 3}, 42),
    "mobilevit_xxs": ({}, 64),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_delta_is_autograds_without_islands(name):
    options, size = NETWORKS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **options).eval().requires_grad_(False).double()
    for parameter in model.parameters():  # with the norms' initial weights δ would be zero
        parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.randn(3, 3, size, size).double()
    phi = Phi(model, find_source_layer(model, images[:1]))
    program = compile_phi(phi, images[:1], strict=True)
    x = images.clone().requires_grad_()
    value = phi(x)
    (wanted,) = torch.autograd.grad(value, x, torch.ones_like(value))
    got = program.pullback_of_ones(images)
    assert float((got - wanted).norm()) < 1e-11 * float(wanted.norm())
    assert not any(isinstance(op, Island) for op in program.ops)
