"""A race times who computes Algorithm 1, and lists everybody else with the reason."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sign_ext import iterative_sign
from sign_ext.benchmarking import Task, explain_auto, list_contenders, race
from sign_ext.benchmarking.contenders import CAPTURED, COMPILED, FROZEN, NAIVE
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.race import Reference
from sign_ext.benchmarking.table import COMPILED_BACKENDS
from sign_ext.benchmarking.task import images_for, random_images, step_size_for

CPU = torch.device("cpu")


def correct(task: Task) -> Run:
    """Algorithm 1 in float64."""
    model = task.model.double()
    return lambda images: iterative_sign(
        model, images.double(), task.steps, step_size=task.step_size
    ).float()


def one_step_short(task: Task) -> Run:
    """A contender that leaves the last step out."""
    return lambda images: iterative_sign(
        task.model, images, max(task.steps - 1, 1), step_size=task.step_size, backend="autograd"
    )


def wrong_at_the_end(task: Task) -> Run:
    """A contender that forgets the last image."""

    def run(images: Tensor) -> Tensor:
        result = iterative_sign(task.model, images, task.steps, step_size=task.step_size)
        result[-1] = images[-1]
        return result

    return run


def failing(task: Task) -> Run:
    raise RuntimeError(f"no {task.steps}-step program\nand a long story")


def test_everybody_who_can_run_is_timed(task: Task) -> None:
    found, absent = list_contenders(task)
    assert next(iter(found)) == NAIVE
    everybody = {NAIVE, "sign_ext autograd", "sign_ext fused", FROZEN}
    assert everybody <= set(found)
    assert absent[CAPTURED] == absent["sign_ext graphed"] == "needs a CUDA device"
    assert "--compile" in absent[COMPILED]
    assert COMPILED in list_contenders(task, compile=True)[0]
    outcome = race(task, found, rounds=2, absent=absent)
    names = {row.name for row in outcome.rows}
    assert everybody <= names
    assert names | set(outcome.absent) == set(found) | set(absent)
    assert (outcome.rounds, outcome.reference) == (2, "float64")
    naive = outcome.row(NAIVE)
    assert naive is not None
    medians = [row.median for row in outcome.rows]
    assert medians == sorted(medians)
    for row in outcome.rows:
        assert row.speed == pytest.approx(naive.median / row.median)
        assert row.image_steps_per_second == pytest.approx(5 * 2 / row.median)
        assert 0 < row.fastest <= row.median
        assert row.error <= outcome.allowed
        # Somebody who works through an image holds its first activations: 4 × 8 × 9 float32.
        assert row.bytes_per_image > 4 * 8 * 9 * 4


@pytest.mark.parametrize("wrong", [one_step_short, wrong_at_the_end])
def test_who_disagrees_is_listed_with_the_error_and_not_timed(task: Task, wrong: object) -> None:
    found, _ = list_contenders(task, ("autograd",))
    outcome = race(task, {**found, "wrong": wrong}, rounds=1)  # type: ignore[dict-item]
    assert outcome.row("wrong") is None
    assert outcome.absent["wrong"].startswith("computes something else: its error is 0.")
    assert len(outcome.rows) == len(found)


def test_who_fails_is_listed_and_the_others_go_on(task: Task) -> None:
    found, _ = list_contenders(task, ())
    outcome = race(task, {"failing": failing, **found}, rounds=1)
    assert outcome.absent == {"failing": "RuntimeError: no 1-step program"}
    assert [row.name for row in outcome.rows if row.speed == 1.0] == [NAIVE]


def test_without_the_naive_loop_there_is_no_speed(task: Task) -> None:
    found, _ = list_contenders(task, ("autograd",))
    del found[NAIVE]
    assert all(row.speed is None for row in race(task, found, rounds=1).rows)


def test_a_limit_of_time_ends_building_but_who_was_built_is_timed(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sign_ext.benchmarking import race as function

    module = __import__(function.__module__, fromlist=["time"])
    now = iter(range(100))  # a second passes between two looks at the clock
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    found, _ = list_contenders(task, ("autograd",))
    outcome = race(task, found, rounds=5, seconds=2.0)
    assert outcome.rounds == 1
    assert {row.name for row in outcome.rows} == {NAIVE, "sign_ext autograd"}
    assert outcome.absent == {FROZEN: "not reached within 2 s"}


def test_the_reference_is_float64_and_rounding_is_the_plain_loops(task: Task) -> None:
    reference = Reference(task)
    exact = correct(dataclasses.replace(task))(task.images)
    assert reference.error(exact) < 1e-4
    assert reference.error(task.images) == pytest.approx(1.0)
    assert 0 < reference.rounding < 0.01
    assert reference.allowed == pytest.approx(0.03 + 1.5 * reference.rounding)
    assert reference.objection(reference.allowed) is None
    assert reference.objection(float("nan")) is not None


def test_bfloat16_is_allowed_its_own_rounding(task: Task) -> None:
    lower = dataclasses.replace(task, precision="bfloat16")
    assert Reference(lower).rounding > 10 * Reference(task).rounding
    found, _ = list_contenders(lower, ("autograd",))
    assert {row.name for row in race(lower, found, rounds=1).rows} == set(found)


def test_a_network_that_cannot_compute_in_float64_has_a_float32_reference(task: Task) -> None:
    class Narrow(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float()

    model = torch.nn.Sequential(
        Narrow(), torch.nn.Flatten(), torch.nn.Linear(216, 5), torch.nn.Linear(5, 2)
    )
    narrow = dataclasses.replace(task, model=model, step_size=1.0)
    assert Reference(narrow).dtype == "float32"


def test_what_auto_runs_is_found_out_by_running(task: Task) -> None:
    from sign_ext.ops.native import NATIVE

    assert explain_auto(task).backend in (COMPILED_BACKENDS if NATIVE.loaded else ("autograd",))

    class Branch(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if bool(x.isfinite().all()) else torch.zeros_like(x)

    model = torch.nn.Sequential(
        task.model[0], Branch(), torch.nn.Flatten(), torch.nn.Linear(288, 2)
    )
    fallen = explain_auto(dataclasses.replace(task, model=model, step_size=1.0))
    assert fallen.backend == "autograd"
    assert not NATIVE.loaded or "reads a value" in fallen.reason


def test_a_step_size_moves_images_as_told(task: Task) -> None:
    step_size = step_size_for(task.model, task.images, 0.25)
    moved = iterative_sign(task.model, task.images, 1, step_size=step_size) - task.images
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.25, rel=1e-3)
    for parameter in task.model.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(ValueError, match="another layer"):
        step_size_for(task.model, task.images, 0.25)


def test_images_of_a_call_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chip = SimpleNamespace(multi_processor_count=132, total_memory=141 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    # Plain PyTorch keeps 4 kB a position, so a quarter of the memory holds 132 images of 224×224.
    assert images_for((3, 224, 224), torch.device("cuda")) == 132
    assert images_for((3, 32, 32), torch.device("cuda")) == 132 * 32


def test_images_of_a_call() -> None:
    assert images_for((3, 32, 32), CPU) == 128
    assert images_for((3, 299, 299), CPU) == 5
    assert images_for((3, 4000, 4000), CPU) == 1
    images = random_images(7, (2, 5, 6), 1.0, CPU, seed=3)
    assert images.shape == (7, 2, 5, 6)
    assert 0 <= float(images.min()) < 0.1
    assert 0.9 < float(images.max()) <= 1
    assert torch.equal(images, random_images(7, (2, 5, 6), 1.0, CPU, seed=3))
