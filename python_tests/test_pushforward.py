"""Section 2.1: Eq. 5 and 6 against each other, against finite differences and in closed form."""

from __future__ import annotations

import pytest
import torch
from networks import tiny_cnn
from torch import nn

from sign_ext import SourceLayerError, jacobian, pullback_of_ones, pushforward


@pytest.fixture
def model():
    return tiny_cnn().double().train()


@pytest.fixture
def images(torch_rng):
    return torch.rand(3, 3, 9, 11, generator=torch_rng, dtype=torch.float64) * 255


def phi(model, x):
    return model.eval()[:-1](x)


def test_jacobian_against_central_differences(model, images):
    got = jacobian(model, images)
    assert got.shape == (3, 28, 3, 9, 11)
    assert model.training
    for i in ((0, 0, 0), (1, 4, 10), (2, 8, 5)):
        step = torch.zeros_like(images)
        step[(slice(None), *i)] = 1e-4
        with torch.no_grad():
            expected = (phi(model, images + step) - phi(model, images - step)) / 2e-4
        torch.testing.assert_close(got[(slice(None), slice(None), *i)], expected, atol=1e-9, rtol=0)


def test_pushforward_is_the_jacobian_times_the_tangents(model, images, torch_rng):
    tangents = torch.randn(images.shape, generator=torch_rng, dtype=torch.float64)
    expected = torch.einsum("nachw,nchw->na", jacobian(model, images), tangents)
    torch.testing.assert_close(pushforward(model, images, tangents), expected)


def test_pullback_of_ones_is_the_jacobians_sum_over_outputs(model, images):
    expected = jacobian(model, images).sum(1)
    assert expected.norm() > 0
    torch.testing.assert_close(pullback_of_ones(model, images), expected)


def test_spatial_layers_are_summed_whole(model, images):
    delta = pullback_of_ones(model, images, layer="5")
    rows = jacobian(model, images, layer="5")
    assert rows.shape[1] == 7 * 4 * 5
    torch.testing.assert_close(delta, rows.sum(1))
    assert pushforward(model, images, images, layer="5").shape == (3, 7, 4, 5)


def test_a_linear_map_has_its_matrix_as_jacobian(torch_rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
    images = torch.rand(2, 3, 2, 2, generator=torch_rng)
    got = jacobian(model, images)
    expected = model[1].weight.detach().reshape(1, 5, 3, 2, 2).expand(2, -1, -1, -1, -1)
    torch.testing.assert_close(got, expected)


def test_callers_modes_do_not_matter(model, images):
    expected = pullback_of_ones(model, images), jacobian(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(pullback_of_ones(model, images), expected[0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(jacobian(model, images), expected[1])
        torch.testing.assert_close(
            pushforward(model, images, images),
            torch.einsum("nachw,nchw->na", expected[1], images),
        )


def test_errors(model, images):
    with pytest.raises(ValueError, match="tangents must be shaped as images"):
        pushforward(model, images, images[:1])
    with pytest.raises(ValueError, match="empty"):
        jacobian(model, images[:0])
    with pytest.raises(ValueError, match="closest"):
        pullback_of_ones(model, images, layer="55")
    with pytest.raises(SourceLayerError):
        pullback_of_ones(nn.Sequential(nn.BatchNorm2d(3)), images.float())
