"""A compiled program's δ is autograd's: on known networks, on random ones, at ties."""

from __future__ import annotations

import pytest
import torch
from families import FAMILIES, QUICK_FAMILIES, some_slow, tv
from hypothesis import HealthCheck, given, settings
from networks import basic_cnn, lively
from random_networks import networks
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.eval_state import computing
from sign_ext.source_layer import Phi, SourceLayer, find_source_layer


def compiled(model: nn.Module, images: Tensor, source: SourceLayer | None = None):
    """The program and autograd's δ."""
    with computing(model):
        source = source or find_source_layer(model, images[:1])
        phi = Phi(model, source)
        program = compile_phi(phi, images[:1])
        x = images.clone().requires_grad_()
        value = phi(x)
        if not value.requires_grad:
            return program, torch.zeros_like(images)
        (delta,) = torch.autograd.grad(value, x, torch.ones_like(value), allow_unused=True)
    return program, torch.zeros_like(images) if delta is None else delta


def check(program: Program, delta: Tensor, images: Tensor, tolerance: float) -> None:
    got = program.pullback_of_ones(images)
    assert got.shape == images.shape
    assert (got - delta).norm() <= tolerance * delta.norm() + 1e-12


@pytest.mark.parametrize("name", some_slow(FAMILIES, QUICK_FAMILIES))
def test_equals_autograd_on(name):
    build, size = FAMILIES[name]
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(2)
    model = lively(build(), generator).eval().double().requires_grad_(False)
    images = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)
    program, delta = compiled(model, images)
    assert delta.norm() > 0
    check(program, delta, images, 1e-10)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
@given(networks())
def test_equals_autograd_on_random_networks(case):
    network, images = case
    network, images = network.double(), images.double()
    # Its own classifier, by name: a random network may hold other 1×1 convolutions after it.
    source = SourceLayer("classifier", "input", "Linear")
    try:
        program, delta = compiled(network, images, source)
    except RuntimeError as error:
        if "does not depend" not in str(error):
            raise
        return
    check(program, delta, images, 1e-9)


def test_operations_are_folded_and_fused():
    program, _ = compiled(basic_cnn().eval(), torch.rand(1, 3, 32, 32))
    assert [str(op) for op in program.ops] == [
        "convolution 3×3 + relu",
        "convolution 3×3",
        "max_pool 2×2/2 + relu",
        "convolution 3×3 + relu",
        "convolution 3×3",
        "max_pool 2×2/2 + relu",
        "linear + relu",
    ]
    # 1 bit for each element after a ReLU that was not pooled, 2 + 1 for each pooled one.
    bits = 32 * 32 * 32 + 3 * 32 * 16 * 16 + 64 * 16 * 16 + 3 * 64 * 8 * 8 + 512
    assert program.residue_bytes() == bits // 8
    assert program.flops() == 4 * (1024 * 27 * 32 + 1024 * 288 * 32 + 256 * 288 * 64) + 4 * (
        256 * 576 * 64 + 4096 * 512
    )


def test_residual_branches_and_heads_are_folded():
    program, _ = compiled(tv("mobilenet_v2").eval(), torch.rand(1, 3, 64, 64))
    assert len(program.ops) == 52  # every convolution, nothing else
    assert sum("+ residual" in str(op) for op in program.ops) == 10
    assert program.folded == ("reshape", "average_pool global")


def test_scale_is_folded_and_shift_too_where_nothing_is_padded():
    class Standardise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 127.5) / 127.5

    for padding, count in ((0, 1), (1, 2)):
        model = nn.Sequential(
            Standardise(), nn.Conv2d(3, 4, 3, padding=padding), nn.ReLU(), nn.Flatten()
        )
        model.append(nn.Linear(4 * (5 + 2 * padding) ** 2, 2)).eval().double()
        images = torch.rand(2, 3, 7, 7, dtype=torch.float64) * 255
        program, delta = compiled(model, images)
        assert len(program.ops) == count
        check(program, delta, images, 1e-12)


class Zeros(nn.Module):
    """Pre-activations that are exactly zero, and windows whose values are all the same."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 1, bias=False)
        self.activation = activation
        self.second = nn.Conv2d(8, 5, 3)
        self.classifier = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.activation(self.first(x)), 2)
        return self.classifier(self.second(x).mean((2, 3)))


@pytest.mark.parametrize(
    "activation", [nn.ReLU(), nn.ReLU6(), nn.Hardtanh(0.0, 1.0), nn.LeakyReLU(0.3)], ids=str
)
def test_ties_follow_pytorch(activation):
    torch.manual_seed(0)
    model = Zeros(activation).double().eval()
    images = torch.randint(-1, 2, (3, 1, 8, 8)).double()
    model.first.weight.data.copy_(
        torch.tensor([1.0, -1.0, 6.0, -6.0, 0.0, 2.0, 0.5, 1.0]).reshape(8, 1, 1, 1)
    )
    assert (images == 0).any()
    program, delta = compiled(model, images)
    check(program, delta, images, 1e-12)


def test_a_network_of_one_linear_has_a_constant_delta():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2)).double()
    images = torch.rand(3, 3, 2, 2, dtype=torch.float64)
    program, delta = compiled(model, images)
    assert program.ops == ()
    check(program, delta, images, 1e-12)


def test_printing_tells_operations_bytes_and_source():
    program, _ = compiled(basic_cnn().eval(), torch.rand(1, 3, 32, 32))
    text = str(program)
    assert "Φ: the input of '17'" in text
    assert "%3  max_pool 2×2/2 + relu(%2)   32×16×16  keeps bit mask 1.02 kB" in text
    assert text.splitlines()[-1] == (
        "one image: keeps 10.8 kB, passes through 444 kB of activations, 106 MFLOP a step"
    )
