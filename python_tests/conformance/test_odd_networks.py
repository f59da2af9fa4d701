"""`auto` runs what the plain float32 loop runs: odd networks against a float64 loop."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import step_for
from odd_networks import HEIGHT, ODD, REFUSED, WIDTH
from torch import Tensor, nn

from sign_ext import SignTransform, SourceLayerError, iterative_sign


def loop(phi: nn.Module, p: Tensor, steps: int, step_size: float | None) -> Tensor:
    """Algorithm 1 in plain autograd; without a step size, δ."""
    for _ in range(steps):
        x = p.clone().requires_grad_()
        (delta,) = torch.autograd.grad(phi(x).sum(), x)
        if step_size is None:
            return delta
        p = p + step_size * delta
    return p


def check(model: nn.Module, phi: nn.Module, images: Tensor, **options) -> SignTransform:
    dtype = next(model.parameters()).dtype
    exact = copy.deepcopy(phi).double().eval().requires_grad_(False)
    step_size = step_for(loop(exact, images.double(), 1, None), 3.0)
    plain = loop(copy.deepcopy(phi).eval(), images.to(dtype), 2, step_size)  # it works
    sign = SignTransform(model, 2, step_size=step_size, **options)
    got = sign.transform(images)
    moved = loop(exact, images.double(), 2, step_size) - images.double()
    error = (got.double() - images.double() - moved).norm() / moved.norm()
    bound = {torch.float16: 3e-2, torch.bfloat16: 0.2}.get(dtype, 2e-4)
    assert error <= bound, f"{error:.2e}"
    assert plain.isfinite().all()
    return sign


@pytest.mark.parametrize("name", ODD)
def test_equals_a_float64_loop(name, torch_rng):
    torch.manual_seed(3)
    model, phi = ODD[name]()
    images = torch.rand(4, 3, HEIGHT, WIDTH, generator=torch_rng) * 255
    check(model, phi, images)


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_says_why_and_what_to_do(name, torch_rng):
    build, message = REFUSED[name]
    torch.manual_seed(4)
    with pytest.raises(SourceLayerError, match=message):
        iterative_sign(build(), torch.rand(4, 3, HEIGHT, WIDTH, generator=torch_rng), 1)


@pytest.mark.parametrize(("name", "layer"), [("arc_face", "0.5"), ("distilled", "norm")])
def test_the_layer_that_the_error_names_works(name, layer, torch_rng):
    torch.manual_seed(5)
    model = REFUSED[name][0]()
    images = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch_rng) * 255
    if name == "arc_face":
        check(model, model[0], images, layer=layer)
    else:  # the sum over a LayerNorm is constant, which is said
        with pytest.warns(UserWarning, match="constant"):
            iterative_sign(model, images, 1, layer=layer)
