"""onchip_ on a GPU against its definition in float64; off a GPU, that it says so."""

from __future__ import annotations

import os

import pytest
import torch
from onchip_cases import DEEP, NETWORKS, check_walk, prepare

from sign_ext.engine.onchip.check import find_mismatch
from sign_ext.engine.onchip.engine import shared_memory_of
from sign_ext.ops.onchip import onchip_


def test_there_is_no_kernel_for_cpus():
    tensor = torch.zeros(1, 1, 2, 2)
    with pytest.raises(NotImplementedError, match="CUDA only, and p is on cpu"):
        onchip_(tensor, tensor, tensor, tensor, steps=1, watch=tensor, counts=tensor)


def affordable(images):
    """As many images, or few under compute-sanitizer, which takes a thousand times as long."""
    return min(images, 6) if os.environ.get("HYPOTHESIS_PROFILE") == "sanitizer" else images


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*NETWORKS, *DEEP])
@pytest.mark.parametrize("images", [3, 5, 300])
def test_a_step_is_its_definition_on_cuda(name, images, seed):
    trajectory, batch, _ = prepare(name, seed, images=affordable(images), device="cuda")
    assert find_mismatch(trajectory, batch) == ""


@pytest.mark.gpu
@pytest.mark.parametrize("name", [*NETWORKS, *DEEP])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.6, "clamp": (0, 255)}], ids=str)
def test_steps_are_those_of_algorithm_1_on_cuda(name, options, seed):
    trajectory, batch, _ = prepare(name, seed, images=3, device="cuda", **options)
    check_walk(trajectory, batch)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_call_gives_the_same_bits(name, seed):
    trajectory, batch, _ = prepare(name, seed, images=affordable(200), device="cuda")
    results = []
    for _ in range(3):
        trajectory.start(batch)
        trajectory.advance(4)
        results.append(trajectory.iterate.clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.gpu
def test_the_plan_is_for_the_device(seed):
    has = shared_memory_of(torch.device("cuda"))
    trajectory, batch, _ = prepare("basic_cnn", seed, images=3, device="cuda", memory=has)
    assert all(launch.plan.bytes <= has.block for launch in trajectory.network.launches)
    trajectory.start(batch)
    trajectory.advance(2)
    assert trajectory.first_bad_step() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("what", ["plan", "weights", "constants", "p", "steps", "velocity"])
def test_arguments_that_do_not_fit_are_refused(what, seed):
    trajectory, batch, _ = prepare("small_head", seed, device="cuda", momentum=0.5)
    constants = trajectory.network.constants
    given = {
        "p": trajectory.iterate,
        "plan": trajectory.network.launches[0].args,
        "weights": constants.weights,
        "constants": constants.floats,
        "velocity": trajectory.velocity,
        "steps": 1,
    }
    wrong = {
        "plan": given["plan"][:-1],
        "weights": constants.weights[:-8],
        "constants": constants.floats[:-1],
        "p": batch[:, :, 1:],
        "steps": -1,
        "velocity": None,
    }
    options = {**given, what: wrong[what]}
    positional = [options.pop(name) for name in ("p", "plan", "weights", "constants")]
    with pytest.raises(RuntimeError, match="onchip_"):
        onchip_(*positional, watch=trajectory._watch, counts=trajectory._counts, **options)
