"""p*_K of every backend against an independent float64 loop, on the networks the project names."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from networks import basic_cnn, lively, step_for
from torch import Tensor, nn

from sign_ext import SignTransform, iterative_sign


def features_of(name: str, model: nn.Module):
    """Φ written by hand for each network: everything before the classifier."""
    if name == "basic_cnn":
        return lambda x: model[:-1](x)
    if name == "mobilenet_v2":
        return lambda x: torch.flatten(nn.functional.adaptive_avg_pool2d(model.features(x), 1), 1)

    def resnet(x: Tensor) -> Tensor:
        x = model.maxpool(torch.relu(model.bn1(model.conv1(x))))
        x = model.layer4(model.layer3(model.layer2(model.layer1(x))))
        return x.mean((2, 3))

    return resnet


def build(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if name == "basic_cnn":
        return basic_cnn()
    return torchvision.models.get_model(name, weights=None, num_classes=10)


def loop(phi, p: Tensor, steps: int, step_size, momentum, at_input, clamp) -> list[Tensor]:
    """SIGN written once more, from the paper alone: all iterates, in p's dtype."""
    current, velocity, path = p.clone(), torch.zeros_like(p), []
    for _ in range(steps):
        x = (p if at_input else current).clone().requires_grad_()
        total = phi(x).flatten(1).sum(1)
        total.backward(torch.ones_like(total))
        velocity = velocity * momentum + x.grad
        current = current + velocity * step_size
        if clamp:
            current = current.clamp(*clamp)
        path.append(current)
    return path


CASES = {
    "as printed": {},
    "at the input": {"linearize_at": "input"},
    "momentum": {"momentum": 0.9},
    "momentum at the input, clamped": {
        "momentum": 0.5,
        "linearize_at": "input",
        "clamp": (0.0, 255.0),
    },
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def check(name: str, case: dict, device: str, backend: str = "auto") -> None:
    generator = torch.Generator().manual_seed(20 + len(name))
    size = (32, 32) if name == "basic_cnn" else (39, 33)
    model = lively(build(name, seed=3), generator).eval().to(device)
    images = (torch.rand(5, 3, *size, generator=generator) * 255).to(device)
    exact = copy.deepcopy(model).double()
    steps, marks = 4, (1, 3, 4)
    options = {"momentum": 0.0, "linearize_at": "iterate", "clamp": None, **case}

    x = images.double().requires_grad_()
    phi64, phi32 = features_of(name, exact), features_of(name, model)
    (delta,) = torch.autograd.grad(phi64(x).sum(), x)
    rule = (
        step_for(delta, 3.0),
        options["momentum"],
        options["linearize_at"] == "input",
        options["clamp"],
    )
    expected = loop(phi64, images.double(), steps, *rule)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        eager = loop(phi32, images, steps, *rule)
    got = iterative_sign(
        model,
        images,
        steps,
        step_size=rule[0],
        snapshots=marks,
        batch_size=3,
        backend=backend,
        **options,
    )
    assert list(got) == list(marks)
    for k in marks:
        moved = expected[k - 1] - images.double()
        error = (got[k].double() - images.double() - moved).norm() / moved.norm()
        eager_error = (eager[k - 1].double() - images.double() - moved).norm() / moved.norm()
        assert error <= max(1e-5, 3 * eager_error), f"{name}, step {k}: {error:.2e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(
    "name",
    [
        "basic_cnn",
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("resnet18", marks=pytest.mark.slow),
    ],
)
def test_equals_a_float64_loop(name, case, device):
    check(name, case, device)


@pytest.mark.parametrize("backend", ["autograd", "fused"])
@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2"])
def test_each_backend_equals_a_float64_loop(name, backend):
    check(name, CASES["momentum"], "cpu", backend)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["autograd", "graphed", "fused"])
@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2"])
def test_each_cuda_backend_equals_a_float64_loop(name, backend):
    check(name, CASES["momentum"], "cuda", backend)


def test_the_two_linearisations_differ():
    """One step cannot tell them apart, several must: otherwise the parity above is blind."""
    torch.manual_seed(1)
    model, images = basic_cnn().eval(), torch.rand(2, 3, 32, 32) * 255
    phi = model[:-1]
    x = images.clone().requires_grad_()
    (delta,) = torch.autograd.grad(phi(x).sum(), x)
    step = step_for(delta)
    one = [SignTransform(model, 1, step_size=step, linearize_at=at) for at in ("iterate", "input")]
    torch.testing.assert_close(one[0].transform(images), one[1].transform(images))
    several = [
        SignTransform(model, 4, step_size=step, linearize_at=at).transform(images)
        for at in ("iterate", "input")
    ]
    assert (several[0] - several[1]).norm() > 1e-2 * (several[0] - images).norm()
