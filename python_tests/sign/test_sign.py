"""iterative_sign and SignTransform: what comes out."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import basic_cnn
from sign_checks import STEP, assert_moved_like, count_forwards, reference
from torch import nn

from sign_ext import (
    SignTransform,
    iterative_sign,
)
from sign_ext.engine.fused.step import Step
from sign_ext.reference import iterative_sign_reference


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5, 7])
def test_batch_size_changes_nothing(model, images, batch_size):
    got = iterative_sign(model, images, 3, step_size=STEP, batch_size=batch_size)
    assert_moved_like(got, reference(model, images, 3, step_size=STEP), images)


def test_snapshots_are_the_iterates_of_one_trajectory(model, images):
    sign = SignTransform(model, 6, step_size=STEP, snapshots=(5, 2), backend="autograd")
    stop = count_forwards(model)
    got = sign.transform(images)
    forwards = stop()
    assert list(got) == [5, 2]
    for k, tensor in got.items():
        alone = iterative_sign(model, images, k, step_size=STEP, backend="autograd")
        torch.testing.assert_close(tensor, alone, rtol=0, atol=0)
    # Five products reach both snapshots, not 5 + 2, and step 6 is never taken. One image finds the
    # source layer and checks it, and decides the layout by running in both; whether samples
    # interact is asked at two points, with two images each alone, both together, and one of them
    # twice; whether the images' units fit is seen at two images alone.
    assert forwards == {5: 5, 1: 2 + 2 + 2 * 2 + 2, 2: 2 * 2}


def test_linearising_at_the_input_costs_one_product(model, images):
    stop = count_forwards(model)
    iterative_sign(model, images, 9, step_size=STEP, linearize_at="input", backend="autograd")
    assert stop()[len(images)] == 1


def count_products(monkeypatch) -> list[int]:
    """The batches whose forward and backward pass a compiled step ran, from now on."""
    ran: list[int] = []
    original = Step._run

    def counted(step, images, *others):
        ran.append(len(images))
        return original(step, images, *others)

    monkeypatch.setattr(Step, "_run", counted)
    return ran


@pytest.mark.parametrize(("linearize_at", "products"), [("iterate", 5), ("input", 1)])
def test_compiled_steps_take_as_many_products(model, images, monkeypatch, linearize_at, products):
    sign = SignTransform(
        model,
        6,
        step_size=STEP,
        snapshots=(5, 2),
        backend="fused",
        linearize_at=linearize_at,
    )
    ran = count_products(monkeypatch)
    sign.transform(images)
    # First the new program's step is compared with autograd, at the first image and three others.
    assert ran == [4, *[len(images)] * products]
    ran.clear()
    sign.transform(images)
    assert ran == [1, *[len(images)] * products]  # at one


@pytest.mark.parametrize("backend", ["autograd", "fused"])
def test_nothing_after_the_source_layer_is_computed(model, images, backend):
    ran = []
    head = model[-1]
    original = head.forward
    head.forward = lambda x: ran.append(len(x)) or original(x)
    iterative_sign(model, images, 2, step_size=STEP, backend=backend)
    assert ran == [1]  # once, for one image, when the layer was looked for
    ran.clear()
    iterative_sign(model, images, 2, step_size=STEP, layer="6", backend=backend)
    assert ran == [1]  # once, to see that the layer runs once


def test_a_named_layer_is_read_at_its_output(model, images):
    exact = copy.deepcopy(model).double()
    got = iterative_sign(model, images, 3, layer="5", step_size=STEP)
    expected = iterative_sign_reference(exact[:6], images.double(), 3, step_size=STEP)
    assert_moved_like(got, expected, images)


def test_float64_networks_compute_in_float64(model, images):
    exact = copy.deepcopy(model).double()
    got = iterative_sign(exact, images, 3, step_size=STEP, momentum=0.5)
    assert got.dtype == torch.float64
    expected = reference(model, images, 3, step_size=STEP, momentum=0.5)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_keep_the_iterate_in_float32(model, images, dtype):
    half = copy.deepcopy(model).to(dtype)
    small = 0.01 * STEP  # far below half precision's spacing of pixels
    got = iterative_sign(half, images, 20, step_size=small)
    assert got.dtype == torch.float32
    rounded = copy.deepcopy(half).float()
    expected = reference(rounded, images, 20, step_size=small)
    moved = expected - images.double()
    assert (got.double() - expected).norm() / moved.norm() < 0.1
    assert iterative_sign(half, images.to(dtype), 1, step_size=small).dtype == torch.float32
    with pytest.raises(ValueError, match="leave precision out"):
        iterative_sign(half, images, precision="bfloat16")


def test_bfloat16_precision_is_bfloat16(model, images):
    expected = reference(model, images, 3, step_size=STEP)
    got = iterative_sign(model, images, 3, step_size=STEP, precision="bfloat16")
    assert got.dtype == torch.float32
    error = (got.double() - expected).norm() / (expected - images.double()).norm()
    assert 1e-4 < error < 0.1


def test_volumes(torch_rng):
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 27, 2))
    images = torch.rand(2, 1, 5, 5, 5, generator=torch_rng)
    got = iterative_sign(model, images, 3, step_size=0.1)
    exact = copy.deepcopy(model).double()[:-1]
    torch.testing.assert_close(
        got.double(),
        iterative_sign_reference(exact, images.double(), 3, step_size=0.1),
        rtol=1e-5,
        atol=1e-5,
    )


def test_empty_batches(model):
    empty = torch.empty(0, 3, 9, 11)
    assert iterative_sign(model, empty).shape == empty.shape
    got = iterative_sign(model, empty, 3, snapshots=(1, 3))
    assert {k: v.shape for k, v in got.items()} == {1: empty.shape, 3: empty.shape}


def test_clamp_holds_every_step(model, images):
    got = iterative_sign(model, images, 3, step_size=STEP * 20, clamp=(10, 200))
    assert got.min() >= 10
    assert got.max() <= 200
    only_low = iterative_sign(model, images, 3, step_size=STEP * 20, clamp=(0, None))
    assert only_low.min() >= 0
    assert only_low.max() > 255


def test_the_paper_network_runs_whole(torch_rng):
    images = torch.rand(2, 3, 32, 32, generator=torch_rng) * 255
    got = iterative_sign(basic_cnn(), images, 100, snapshots=(50, 100), step_size=100.0)
    assert (got[100] - images).norm() > (got[50] - images).norm() > 0
