"""Signals and volumes beside images; what is blamed where weights, Φ or δ are not finite."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from networks import tiny_cnn
from sign_checks import STEP
from torch import Tensor, nn

from sign_ext import (
    DivergenceError,
    SignTransform,
    iterative_sign,
    jacobian,
    pullback_of_ones,
)
from sign_ext.reference import iterative_sign_reference


class Spectrum(nn.Module):
    """A waveform (N, 1, T) as an image of its short-time spectrum."""

    def forward(self, x: Tensor) -> Tensor:
        frames = x[:, 0].unfold(1, 8, 4)  # (N, frames, 8)
        return torch.fft.rfft(frames).abs().square()[:, None]


class Sequence(nn.Module):
    """(N, C, T) through a GRU; its last state."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gru = nn.GRU(channels, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(x.transpose(1, 2))[1][0]


NETWORKS = {
    "waveform": ((1, 30), [nn.Conv1d(1, 4, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool1d(3)]),
    "channels": ((6, 21), [nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.GELU(), nn.MaxPool1d(2)]),
    "grouped": ((6, 21), [nn.Conv1d(6, 6, 3, groups=3, padding=1), nn.SiLU()]),
    "spectrum": ((1, 32), [Spectrum(), nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]),
    "rows": ((6, 21), [nn.Linear(21, 5), nn.Tanh()]),
    "perceptron": ((2, 13), [nn.Flatten(), nn.Linear(26, 7), nn.ReLU()]),
    "gru": ((4, 9), [Sequence(4)]),
    "volume": ((2, 5, 6, 7), [nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.ReLU()]),
    "volume, perceptron": ((2, 3, 4, 5), [nn.Flatten(), nn.Linear(120, 7), nn.ReLU()]),
    "volume, pooled": ((1, 4, 4, 4), [nn.Conv3d(1, 3, 3, padding=1), nn.AdaptiveMaxPool3d(2)]),
}


def network_of(name: str) -> tuple[nn.Sequential, tuple[int, ...]]:
    shape, layers = NETWORKS[name]
    body = copy.deepcopy(nn.Sequential(*layers, nn.Flatten())).eval()
    for module in body.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            module.reset_parameters()
    with torch.no_grad():
        features = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(features, 3)).eval(), shape


@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("name", NETWORKS)
def test_signals_and_volumes(name, batch_size, torch_rng):
    model, shape = network_of(name)
    signals = torch.randn(5, *shape, generator=torch_rng) + 0.3
    exact = copy.deepcopy(model).double()[:-1]
    options = {"step_size": 0.3, "momentum": 0.2}
    expected = iterative_sign_reference(exact, signals.double(), 3, **options)
    got = iterative_sign(model, signals, 3, batch_size=batch_size, **options)
    assert got.dtype == torch.float32
    assert (expected - signals).abs().max() > 1e-2
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_signals_of_other_layouts_and_options(torch_rng):
    model, shape = network_of("channels")
    dense = torch.randn(5, *shape[::-1], generator=torch_rng)
    exact = copy.deepcopy(model).double()[:-1]
    for signals in (dense.transpose(1, 2), dense[:1, :, :1].expand(5, 21, 6).transpose(1, 2)):
        expected = iterative_sign_reference(exact, signals.double(), 2)
        got = iterative_sign(model, signals, 2, tune=True)
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    signals = dense.transpose(1, 2)
    sign = SignTransform(model, 2)
    assert "compiled" in sign.explain(signals).reason
    assert sign.calibrate(signals, steps=2, pixel_range=4.0).images == 5
    assert jacobian(model, signals).shape == (5, 36, 6, 21)


def test_an_image_without_its_batch_is_still_told(images, torch_rng):
    """(C, H, W) could now be C signals; the network's layers say that it is not."""
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), Mean(), nn.Linear(4, 2))
    cases = [
        (tiny_cnn().eval(), images[0], "Conv2d"),
        (grey, torch.rand(1, 9, 9, generator=torch_rng), "Conv2d"),  # PyTorch itself takes this one
        (network_of("volume")[0], torch.rand(2, 5, 6, 7, generator=torch_rng), "Conv3d"),
        (network_of("volume, pooled")[0], torch.rand(1, 4, 4, 4, generator=torch_rng), "Conv3d"),
    ]
    for model, image, kind in cases:
        for ask in (
            lambda m, x: iterative_sign(m, x, 2),
            lambda m, x: iterative_sign(m, x, 2, layer="0"),
            pullback_of_ones,
            lambda m, x: SignTransform(m).explain(x),
        ):
            with pytest.raises(ValueError, match=rf"{kind} layers.*images\[None\]"):
                ask(model, image)
        assert iterative_sign(model, image[None], 2).shape == image[None].shape


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


def test_other_ranks_are_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Linear(3, 2))
    for shape in ((12,), (4, 12), (1, 1, 1, 2, 2, 3)):
        with pytest.raises(ValueError, match=rf"signals, \(N, C, T\), got {len(shape)} dim"):
            iterative_sign(model, torch.rand(shape))


@pytest.mark.parametrize("backend", ["auto", "autograd"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["1.weight", "2.bias", "5.weight"])
def test_weights_that_are_not_finite_are_named(images, name, value, backend):
    model = tiny_cnn().eval()
    parameter = model.get_parameter(name)
    with torch.no_grad():
        parameter.view(-1)[1] = value
    of = f"'{name}' holds NaN or Inf in 1 of {parameter.numel()} values"
    out = images.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing else is blamed first
        with pytest.raises(ValueError, match=of):
            iterative_sign(model, images, 2, out=out, backend=backend)
        sign = SignTransform(model, backend=backend)
        for ask in (sign.calibrate, sign.explain, lambda x: pullback_of_ones(model, x)):
            with pytest.raises(ValueError, match=of):
                ask(images)
        with pytest.raises(ValueError, match=of):
            sign.calibrate(images, step_sizes=[1.0], steps=2)
    assert torch.equal(out, images)


def test_statistics_that_are_not_finite_are_named(images):
    model = tiny_cnn().eval()
    model[2].running_mean[0] = math.nan
    model[5].weight.data[0] = math.nan
    with pytest.raises(ValueError, match=r"'5.weight' holds .* \(and 1 more"):
        iterative_sign(model, images, 2)
    model[5].reset_parameters()
    with pytest.raises(ValueError, match=r"'2.running_mean' holds NaN or Inf in 1 of 5"):
        iterative_sign(model, images, 2)


def test_weights_that_phi_does_not_use_are_not_blamed(images):
    model = tiny_cnn().eval()
    expected = iterative_sign(model, images, 2, step_size=STEP)
    with torch.no_grad():
        model[-1].weight[0, 0] = math.nan  # after the source layer
    torch.testing.assert_close(iterative_sign(model, images, 2, step_size=STEP), expected)


def test_a_mask_of_infinity_is_not_blamed(images):
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tensor([0.0, -math.inf, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean((2, 3))
            return ((x + self.mask).softmax(1) * x).sum(1, keepdim=True) ** 3

    model = nn.Sequential(Masked(), nn.Linear(1, 2))
    exact = copy.deepcopy(model).double()[:1]
    expected = iterative_sign_reference(exact, images.double(), 2, step_size=0.01)
    got = iterative_sign(model, images, 2, step_size=0.01)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(DivergenceError, match=r"step_size=1e.36 is too large"):
        iterative_sign(model, images, 20, step_size=1e36)


class Norm(nn.Module):
    """Its slope at 0 is 0/0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).pow(2).sum(2).sqrt()


@pytest.mark.parametrize("options", [{}, {"clamp": (0, 255)}, {"linearize_at": "input"}])
def test_a_slope_that_does_not_exist_is_not_blamed_on_the_step(images, options):
    model = nn.Sequential(Norm(), nn.Linear(3, 2))
    images[3] = 0
    with pytest.raises(DivergenceError, match="δ of image 3 as it was given is not finite") as e:
        iterative_sign(model, images, 2, batch_size=2, **options)
    assert e.value.step == 1
    assert "step_size" not in str(e.value)


def test_a_half_network_that_overflows_is_not_blamed_on_the_step(images):
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 4), Square(), nn.Linear(4, 2)).half()
    with torch.no_grad():
        model[1].weight.fill_(100)
    with pytest.raises(DivergenceError, match=r"Φ of image \d as .* not finite in torch.float16"):
        iterative_sign(model, images, 2, backend="autograd")
