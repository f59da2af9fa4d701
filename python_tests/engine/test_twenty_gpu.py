"""Two recorded steps of the twenty networks on a GPU against float64."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import step_for, unsettled
from test_twenty_networks import naive_delta
from torch import Tensor
from twenty import TWENTY

from sign_ext import SignTransform

STEPS = 2


def moved(name: str, precision: str, device: str) -> tuple[float, float]:
    """Errors of p*_2 − p, the fused backend's and autograd's, the median of five images."""
    torch.manual_seed(7)
    generator = torch.Generator().manual_seed(7)
    model = unsettled(TWENTY[name][0]().eval().requires_grad_(False), generator).to(device)
    images = torch.rand(5, 3, *TWENTY[name][1], generator=generator).to(device)
    exact = copy.deepcopy(model).double()
    walked = images.double()
    delta = naive_delta(exact, walked)
    step_size = step_for(delta, 0.01)
    for _ in range(STEPS):
        walked = walked + step_size * delta
        delta = naive_delta(exact, walked)
    options = {"step_size": step_size, "precision": precision}
    found = [
        SignTransform(model, STEPS, backend=backend, **options).transform(images)
        for backend in ("fused", "autograd")
    ]
    errors = [_median_error(got - images, walked - images) for got in found]
    return errors[0], errors[1]


def _median_error(got: Tensor, wanted: Tensor) -> float:
    errors = (got.double() - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return float(errors.median())


def check(name: str, precision: str, device: str) -> None:
    ours, eager = moved(name, precision, device)
    assert ours <= max(1e-4, 3 * eager), f"{ours:.1e}, autograd {eager:.1e}"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TWENTY)
def test_the_twenty_walk_as_in_float64(name: str, precision: str) -> None:
    check(name, precision, "cuda")


@pytest.mark.parametrize("name", ["unet", "convnext_tiny"])
def test_some_of_the_twenty_on_a_cpu(name: str) -> None:
    check(name, "float32", "cpu")
