"""K steps of SIGN: our backends against their peers, at equal precision, in one process.

Every contender's result is first compared with that of a naive loop in IEEE float32. "naive,
default flags" (float32 on a GPU) is PyTorch with its default flags: TF32 convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import contenders
import pytest
import roofline
import torch
from conftest import device_of

from sign_ext.benchmarking import loops
from sign_ext.benchmarking.measure import mirrored, on_each
from sign_ext.benchmarking.task import step_size_for
from sign_ext.models import build_model

MOVE = 0.5  # RMS change of the pixels (0–255) in the first step; sets the step size
LARGE = "inception_resnet_v2"
# Distance of a result from the naive one in IEEE float32, relative to the total change. The
# networks are untrained: many ReLU inputs are close to 0, and rounding decides their sign.
TOLERANCE = {LARGE: 0.05}


@dataclass(frozen=True)
class Case:
    """The work of a race: a network, a number of images and steps, and the precision."""

    network: str
    precision: str
    images: int
    steps: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        side = 299 if self.network == LARGE else 32
        return 3, side, side

    @property
    def label(self) -> str:
        """The race's name, which `-k` selects by."""
        return f"{self.network}-{self.precision}-{self.images}"


def cases(config: pytest.Config) -> list[Case]:
    """The races of this run, most important first."""
    small, images, steps = (
        ("basic_cnn", "mobilenet_v2"),
        config.getoption("--images"),
        config.getoption("--steps"),
    )
    if config.getoption("--benchmark-disable"):  # run the contenders without measuring
        images, steps = images or 4, steps or 2
    if device_of(config).type == "cuda":
        found = [
            Case(network, precision, images or count, steps or 10)
            for precision in ("float32", "tf32", "bfloat16")
            for count in ((1024, 64) if images is None else (images,))
            for network in small
        ]
        found += [Case(LARGE, p, images or 32, steps or 5) for p in ("float32", "bfloat16")]
        return found
    found = [Case(network, "float32", images or 128, steps or 10) for network in small]
    if config.getoption("--all-peers"):
        found.append(Case(LARGE, "float32", images or 2, steps or 2))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One race per case."""
    found = cases(metafunc.config)
    metafunc.parametrize("case", found, ids=[case.label for case in found])


@pytest.mark.benchmark(group="iterative_sign")
def test_iterative_sign(
    race: Callable[..., dict[str, float]],
    benchmark: Any,
    request: pytest.FixtureRequest,
    device: torch.device,
    case: Case,
) -> None:
    torch.manual_seed(0)
    model = build_model(case.network, image_shape=case.shape).to(device).eval()
    images = torch.rand(case.images, *case.shape, device=device) * 255
    step_size = step_size_for(model, images, MOVE)
    task = contenders.Task(
        network=case.network,
        model=model,
        images=images,
        steps=case.steps,
        step_size=step_size,
        precision=case.precision,
        all_peers=request.config.getoption("--all-peers"),
    )
    runs, absent = contenders.build_contenders(task)

    exact = loops.with_precision("float32", loops.naive(task.phi(), case.steps, step_size))(images)
    errors = {
        name: float((run(images) - exact).norm() / (exact - images).norm())
        for name, run in runs.items()
    }
    # Allow the naive loop's own error at this precision plus a margin, but never nearly 100%.
    allowed = min(TOLERANCE.get(case.network, 0.01) + 1.5 * errors[contenders.NAIVE], 0.9)
    for name, error in errors.items():
        loose = 0.1 if name == contenders.DEFAULTS else allowed
        assert error <= loose, f"{name} computes something else: {error:.3g} is above {loose:.3g}"

    inputs = mirrored(images)
    layers = roofline.layers_of(task.phi(), images, case.precision)
    before = roofline.measure(case.precision, device)
    medians = race(
        {name: on_each(run, inputs) for name, run in runs.items()},
        baseline=contenders.NAIVE,
        rounds=5,
        warmup=0,  # each has already run
        network=case.network,
        images=case.images,
        steps=case.steps,
        precision=case.precision,
    )
    after = roofline.measure(case.precision, device)
    machine = roofline.Machine(
        max(before.flop_per_s, after.flop_per_s),
        max(before.bytes_per_s, after.bytes_per_s) if before.bytes_per_s else None,
    )

    flop = roofline.flop_of(layers) * case.steps
    benchmark.extra_info["flop_per_image_step"] = flop / case.steps / case.images
    benchmark.extra_info["matmul_flop_per_s"] = machine.flop_per_s
    bound = roofline.floor(layers, machine) * case.steps
    if machine.bytes_per_s:
        benchmark.extra_info["copy_bytes_per_s"] = machine.bytes_per_s
        benchmark.extra_info["floor_seconds"] = bound
    benchmark.extra_info["absent"] = absent
    for name, row in benchmark.extra_info["contenders"].items():
        row["error"] = errors[name]
        row["share_of_matmul"] = flop / medians[name] / machine.flop_per_s
        if machine.bytes_per_s:
            row["share_of_floor"] = bound / medians[name]
