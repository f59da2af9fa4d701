"""What iterative_sign refuses, and how it says so; what it warns about."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from networks import tiny_cnn
from sign_checks import equal, snapshot_of
from torch import nn

from sign_ext import (
    BackendError,
    DivergenceError,
    InputIteration,
    NegligibleDeltaWarning,
    SignTransform,
    iterative_sign,
)
from sign_ext.models import build_model


def test_divergence_names_the_first_bad_step(images):
    class Exploding(nn.Module):
        def forward(self, x):
            return x**8

    model = nn.Sequential(Exploding(), nn.Flatten(), nn.Linear(297, 2))
    steps = 0
    p = images.double()
    while p.abs().max() < torch.finfo(torch.float32).max:
        p = p + 8 * p**7
        steps += 1
    out = images.clone()
    with pytest.raises(DivergenceError, match=f"step {steps} of 50.*step_size=1 ") as caught:
        iterative_sign(model, images, out=out, batch_size=2)
    assert caught.value.step == steps
    assert torch.equal(out, images)
    with pytest.raises(DivergenceError):  # a clamp does not hide it
        iterative_sign(model, images, step_size=1e37, clamp=(0, 255))


def test_negligible_delta_warns_once(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    sign = SignTransform(model, 2)
    with pytest.warns(NegligibleDeltaWarning, match="constant.*layer=NAME"):
        sign.transform(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sign.transform(images)


def test_a_step_too_small_to_matter_warns(model, images):
    with pytest.warns(NegligibleDeltaWarning, match="Raise the step size"):
        got = iterative_sign(model, images, 3, step_size=1e-9)
    assert torch.equal(got, images)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_call_that_moves_images_does_not_warn(model, images, momentum):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NegligibleDeltaWarning)
        moved = iterative_sign(model, images, 2, step_size=2000.0, momentum=momentum)
    assert (moved - images).abs().max() > 1


BAD = [
    ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ({"steps": 2.5}, TypeError, "steps must be an integer"),
    ({"steps": True}, TypeError, "steps must be an integer"),
    ({"snapshots": (0, 5)}, ValueError, "outside 1…steps"),
    ({"snapshots": (50, 100)}, ValueError, "snapshot 100 is outside 1…steps = 1…50"),
    ({"snapshots": ()}, ValueError, "empty"),
    ({"snapshots": (2, 2)}, ValueError, "twice"),
    ({"snapshots": 50}, TypeError, "snapshots"),
    ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
    ({"momentum": -0.1}, ValueError, "momentum"),
    ({"clamp": (255, 0)}, ValueError, "reversed"),
    ({"clamp": 255}, TypeError, "pair"),
    ({"step_size": math.nan}, ValueError, "step_size must be finite"),
    ({"step_size": "1"}, TypeError, "step_size must be a number"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"backend": "fast"}, ValueError, "backend must be one of auto, autograd, graphed"),
    ({"precision": "half"}, ValueError, "precision must be one of"),
    ({"linearize_at": "p"}, ValueError, "linearize_at must be one of iterate, input"),
    ({"layer": "5x"}, ValueError, "not a module of this Sequential; the closest are '5'"),
    ({"layer": 5}, TypeError, "layer must be a module's name"),
    ({"backend": "graphed"}, BackendError, "needs model and images on a CUDA device"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options_are_refused(model, images, options, error, message):
    before, kept = snapshot_of(model), images.clone()
    with pytest.raises(error, match=message):
        iterative_sign(model, images, **options)
    assert equal(before, snapshot_of(model))
    assert torch.equal(images, kept)


def test_bad_images_are_refused(model, images):
    cases = [
        (images.byte(), TypeError, r"images.float\(\)"),
        (images.numpy(), TypeError, "torch.Tensor"),
        (images[0], ValueError, r"images\[None\]"),
        (images[0, 0], ValueError, "2 dimensions"),
        (images.to("meta"), ValueError, "images are on meta, the model is on cpu"),
        (images.to_sparse(), ValueError, "layout"),
    ]
    for value in (torch.nan, torch.inf):
        bad = images.clone()
        bad[2, 1, 3, 3] = value
        cases.append((bad, ValueError, "1 of 5 samples, first in sample 2"))
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            iterative_sign(model, given)


def test_bad_outputs_are_refused(model, images):
    cases = [
        ({"out": images.double()}, ValueError, "float32"),
        ({"out": images[:2]}, ValueError, "must be"),
        ({"out": 3}, TypeError, "tensor"),
        ({"out": images[:1].expand(5, -1, -1, -1)}, ValueError, "overlaps itself"),
        ({"out": images.flip(0), "snapshots": (1,)}, TypeError, "dict"),
        ({"out": {2: images}, "snapshots": (1,)}, ValueError, "keys"),
        ({"out": {1: images, 2: images}, "snapshots": (1, 2)}, ValueError, "overlap"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            iterative_sign(model, images, **options)
    longer = torch.zeros(6, 3, 9, 11)
    with pytest.raises(ValueError, match="without being them"):
        iterative_sign(model, longer[:5], out=longer[1:])


def test_bad_models_are_refused(images):
    with pytest.raises(TypeError, match="Module"):
        iterative_sign(lambda x: x, images)
    mixing = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), *tiny_cnn())
    with pytest.raises(ValueError, match="mixes the samples"):
        iterative_sign(mixing, images)
    with torch.inference_mode():
        frozen = tiny_cnn()
    with pytest.raises(ValueError, match="inference_mode"):
        iterative_sign(frozen, images)
    with pytest.raises(TypeError, match="unexpected keyword"):
        iterative_sign(tiny_cnn(), images, step=3)


def test_channels_last_images_are_named(torch_rng):
    model = build_model("basic_cnn", image_shape=(3, 12, 12)).eval()
    images = torch.rand(2, 12, 12, 3, generator=torch_rng) * 255
    sign = SignTransform(model, 1)
    for call in (sign.transform, sign.calibrate, sign.source_layer, sign.explain):
        with pytest.raises(ValueError, match=r"looks like \(N, H, W, C\).*permute\(0, 3, 1, 2\)"):
            call(images)
    moved = images.permute(0, 3, 1, 2)
    assert sign.transform(moved).shape == moved.shape


class TakesChannelsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = build_model("basic_cnn", image_shape=(3, 12, 12))

    def forward(self, x):
        return self.inner(x.permute(0, 3, 1, 2))


def test_a_network_that_takes_channels_last_gets_them(torch_rng):
    images = torch.rand(2, 12, 12, 3, generator=torch_rng) * 255
    assert iterative_sign(TakesChannelsLast().eval(), images, 1).shape == images.shape


@pytest.mark.parametrize("kind", [SignTransform, InputIteration])
def test_an_unknown_option_to_change_is_named_with_the_closest_one(kind):
    transform = kind(tiny_cnn(), 3)
    with pytest.raises(
        TypeError, match=rf"^{kind.__name__} has no option 'stepsize', did you mean 'step_size'\?; "
    ):
        transform.with_options(stepsize=2.0)
    with pytest.raises(TypeError, match="has no option 'model'"):
        transform.with_options(model=nn.Identity())
    assert transform.with_options(step_size=2.0).settings.step_size == 2.0
