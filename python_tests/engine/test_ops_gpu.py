"""Every kind of operation on a GPU: eager steps, steps in a captured graph, and float64.

`op_examples.py` lists the networks; what the compiler has no rule for is an island in the graph.
"""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from networks import step_for
from op_examples import EXAMPLES, example
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.engine.fused.trajectory import FusedTrajectory, RecordedTrajectory
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.reference import iterative_sign_reference

STEPS = 3
# What autograd adds up in another order in each run on CUDA, so that a graph cannot have its bits.
VARIES = ("bilinear", "bicubic", "borders", "circular_border", "adaptive_max_pool", "max_pool")
ISLANDS = ("islands", "layer_norm_of_images")


def naive(model: nn.Module, images: Tensor, step_size: float) -> Tensor:
    """Algorithm 1; Φ is the classifier's input."""
    phi = copy.deepcopy(model)
    phi.classifier = nn.Identity()
    return iterative_sign_reference(phi, images, STEPS, step_size=step_size)


def walks(name: str, device: str, precision: str) -> dict[str, float]:
    """Errors of p*_K − p against float64: of eager steps, of recorded ones, of autograd.

    Also how far the recorded walk is from the eager one, for the images and then for others that
    the same recording replays.
    """
    model, images = example(name)
    model, images = model.to(device), images.to(device)
    others = images.flip(0) * 0.8
    exact = copy.deepcopy(model).double()
    x = images.double().requires_grad_()
    phi = copy.deepcopy(exact)
    phi.classifier = nn.Identity()
    (delta,) = torch.autograd.grad(phi(x).sum(), x)
    step_size = step_for(delta, 0.02)
    options = {"step_size": step_size, "precision": precision}
    sign = SignTransform(model, STEPS, backend="fused", **options)
    with sign._prepared(images) as (problem, *_), torch.no_grad():
        step = sign.engines.fused.step(problem, images)
        eager = FusedTrajectory(problem, images, step)
        record = record_cuda_graph if device == "cuda" else lambda work, _: work
        recorded = RecordedTrajectory(problem, images, step, record)
        found: dict[str, float] = {}
        for which, given in (("", images), (" of others", others)):
            ends = []
            for trajectory in (eager, recorded):
                trajectory.start(given)
                trajectory.advance(STEPS)
                ends.append(trajectory.iterate.clone())
            wanted = naive(exact, given.double(), step_size) - given.double()
            found[f"eager{which}"] = _off(ends[0] - given, wanted)
            found[f"recorded{which}"] = _off(ends[1] - given, wanted)
            found[f"apart{which}"] = _off(ends[1] - given, ends[0] - given)
    plain = SignTransform(model, STEPS, backend="autograd", **options).transform(images)
    found["autograd"] = _off(plain - images, naive(exact, images.double(), step_size) - images)
    return found


def _off(got: Tensor, wanted: Tensor) -> float:
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def check(name: str, device: str, precision: str) -> None:
    found = walks(name, device, precision)
    most = max(1e-4, 5 * found["autograd"])
    for way in ("eager", "recorded"):
        assert found[way] <= most, f"{found}"
        assert found[f"{way} of others"] <= 3 * most, f"{found}"
    same = most if name in VARIES else 0.0
    assert found["apart"] <= same, f"{found}"
    assert found["apart of others"] <= same, f"{found}"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_operation_in_a_graph(name: str, precision: str) -> None:
    check(name, "cuda", precision)


@pytest.mark.parametrize("name", ["convolutions", "attention", "windows", "group_norm", "written"])
def test_the_same_without_a_graph_on_a_cpu(name: str) -> None:
    check(name, "cpu", "float32")


TAKING = ("taken", "repeated", "chosen", "cumulative_sum", "rare_functions", "grouped_heads",
          "bias_of_images", "batch_norm_of_tokens", "islands")  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", TAKING)
def test_taking_and_choosing_on_a_cpu(name: str, precision: str) -> None:
    check(name, "cpu", precision)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ISLANDS)
def test_a_recorded_island_gives_its_memory_back(name: str) -> None:
    """Autograd's graph and values belong to the graph's own pool: captures add nothing up."""
    model, images = example(name)
    model, images = model.cuda(), images.cuda()
    taken = []
    for _ in range(4):
        sign = SignTransform(model, 2, backend="fused", step_size=0.01)
        sign.transform(images)
        sign.reset()
        del sign
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_allocated())
    assert taken[-1] <= taken[1]


@pytest.mark.gpu
def test_two_recorded_steps_with_islands_replay_at_once() -> None:
    """Autograd's thread has one cuBLAS handle, and memory for it on each capture stream."""
    signs, given, wanted = [], [], []
    for name in ("linear_attention", "multihead"):
        model, images = example(name)
        signs.append(SignTransform(model.cuda(), 50, backend="fused", step_size=1e-3))
        given.append(images.cuda())
        wanted.append(signs[-1].transform(given[-1]))
    trajectories = []
    for sign, images in zip(signs, given, strict=True):
        (kept,) = sign.engines.fused._kept.values()
        kept.trajectory.start(images)
        trajectories.append(kept.trajectory)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(50):
        for stream, trajectory in zip(streams, trajectories, strict=True):
            with torch.cuda.stream(stream):
                trajectory.advance(1)
    torch.cuda.synchronize()
    for trajectory, want in zip(trajectories, wanted, strict=True):
        assert torch.equal(trajectory.iterate, want)
