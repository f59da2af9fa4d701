"""Steps on chip by the kernel's source on the emulated device, against their definition."""

from __future__ import annotations

import pytest
import torch
from emulated_onchip import Emulated, library
from onchip_cases import NETWORKS, check_walk, distance, prepare, small_head

from sign_ext import BackendError, SignTransform
from sign_ext.engine import backends
from sign_ext.engine.onchip import reference
from sign_ext.engine.onchip.check import find_mismatch
from sign_ext.engine.onchip.cost import PRODUCT_FLOP, work_of
from sign_ext.engine.onchip.engine import why_settings_refused
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.engine.onchip.reference import delta_reference, exact


@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_is_its_definition(name, seed):
    trajectory, images, _ = prepare(name, seed, images=3)
    assert find_mismatch(trajectory, images) == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_the_definition_is_the_networks_own_but_for_rounding(name, seed, monkeypatch):
    trajectory, images, program = prepare(name, seed, images=3)
    monkeypatch.setattr(reference, "rounded", exact)  # of the weights
    trunk, rest = trajectory.network.trunk, trajectory.network.rest
    program = program.to(torch.float64)

    def seed_of(value):
        if rest is not None:
            return rest.to(torch.float64).pullback_of_ones(value)
        return program.seed.reshape(1, *value.shape[1:]).expand_as(value)

    delta = delta_reference(trunk.layers, images, seed_of, trunk.scale, trunk.shift, exact)
    assert distance(delta, program.pullback_of_ones(images.double())) < 1e-6


@pytest.mark.parametrize("name", ["all_convolutions", "split", "two_readers"])
@pytest.mark.parametrize("options", [{"momentum": 0.6}, {"clamp": (0, 255)}, {"clamp": (10, None)}])
def test_steps_are_those_of_algorithm_1(name, options, seed):
    trajectory, images, _ = prepare(name, seed, **options)
    check_walk(trajectory, images, steps=2)


@pytest.mark.parametrize("name", ["all_convolutions", "basic_cnn", "residual", "two_readers"])
@pytest.mark.parametrize("part", [0.6, 0.8])
def test_less_memory_gives_the_same_bits(name, part, seed):
    """Copying weights in every step, and arrays that share memory, change nothing."""
    roomy, images, _ = prepare(name, seed)
    roomy.start(images)
    roomy.advance(2)
    most = max(launch.plan.bytes for launch in roomy.network.launches)
    tight, images, _ = prepare(name, seed, memory=SharedMemory(int(most * part), int(most * part)))
    if len(tight.network.layers) == len(roomy.network.layers):
        plans = [launch.plan for launch in tight.network.launches]
        assert any(len(plan.keeps) < len(tight.network.layers) for plan in plans)
        tight.start(images)
        tight.advance(2)
        assert torch.equal(tight.iterate, roomy.iterate)
    else:  # fewer layers are on chip, and the rest rounds its sums elsewhere
        assert find_mismatch(tight, images) == ""


def test_every_order_of_threads_gives_the_same_bits(seed):
    results = []
    for order in range(3):
        trajectory, images, _ = prepare("residual", seed, momentum=0.5)
        trajectory._run = Emulated(100 + order)
        trajectory.start(images)
        trajectory.advance(2)
        results.append(trajectory.iterate.clone())
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_all_steps_are_one_launch_where_all_is_on_chip(seed):
    whole, images, _ = prepare("small_head", seed)
    whole.start(images)
    whole.advance(5)
    assert whole._run.launches == 1
    part, images, _ = prepare("keras", seed)
    part.start(images)
    part.advance(3)
    assert part._run.launches == 6


@pytest.mark.parametrize("name", NETWORKS)
def test_the_work_of_a_step_is_what_the_kernel_does(name, seed):
    trajectory, images, _ = prepare(name, seed, images=2)
    before = library().onchip_products(), library().onchip_loaded()
    trajectory.start(images)
    trajectory.advance(1)
    work = work_of(trajectory.network)
    assert library().onchip_products() - before[0] == 2 * work.products
    assert library().onchip_loaded() - before[1] == 2 * work.loaded
    assert work.useful <= work.products * PRODUCT_FLOP
    assert f"{work.products:,} products" in str(work)


def test_a_trajectory_restarts_and_counts_its_steps(seed):
    trajectory, images, _ = prepare("small_head", seed, images=1)
    trajectory.start(images)
    trajectory.advance(1)
    trajectory.advance(2)
    once = trajectory.iterate.clone()
    trajectory.start(images)
    trajectory.advance(3)
    assert torch.equal(trajectory.iterate, once)


@pytest.mark.parametrize("name", ["small_head", "keras"])
def test_the_first_step_that_is_not_finite_is_named(name, seed):
    trajectory, images, _ = prepare(name, seed, images=1, gain=1e4)
    size = float(trajectory.reference(images).abs().max())
    trajectory, images, _ = prepare(name, seed, images=1, gain=1e4, step_size=1.4e38 / size)
    trajectory.start(images)
    first = 0
    while bool(torch.isfinite(trajectory.iterate).all()):
        assert trajectory.first_bad_step() == 0
        trajectory.advance(1)
        first += 1
        assert first < 20, "the iterate stays finite: nothing is tested"
    assert first > 1
    trajectory.start(images)
    trajectory.advance(1)
    trajectory.advance(first + 2)
    assert trajectory.first_bad_step() == first


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"precision": "float32"}, "computes in bfloat16"),
        ({"precision": "tf32"}, "computes in bfloat16"),
        ({"linearize_at": "input"}, "takes δ once"),
    ],
)
def test_calls_that_stay_off_the_chip_say_why(options, reason):
    sign = SignTransform(small_head().eval(), 2, **{"precision": "bfloat16", **options})
    problem = sign._problem(torch.rand(1, 1, 8, 12), torch.float32)[0]
    assert reason in str(why_settings_refused(problem))


def test_a_cpu_has_no_chip_to_run_on():
    images = 255 * torch.rand(1, 1, 8, 12)
    model = small_head().eval()
    with pytest.raises(BackendError, match="NVIDIA GPU"):
        SignTransform(model, 2, backend="onchip", precision="bfloat16").transform(images)
    sign = SignTransform(model, 2, precision="bfloat16")
    with pytest.raises(BackendError, match="model and images are on cpu"):
        sign.on_chip(images)
    assert sign.explain(images).backend in ("fused", "autograd")


def test_auto_tries_the_chip_first_in_bfloat16(monkeypatch):
    monkeypatch.setattr(backends, "missing_native", lambda device: None)
    cuda = torch.device("cuda", 0)

    def names(precision):
        return [choice.backend for choice in backends.candidates("auto", cuda, precision)]

    assert names("bfloat16") == ["onchip", "fused", "graphed", "autograd"]
    assert names("float32") == ["fused", "graphed", "autograd"]
    assert [c.backend for c in backends.candidates("onchip", cuda)] == ["onchip"]
