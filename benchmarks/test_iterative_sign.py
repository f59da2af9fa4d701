"""K steps of SIGN: our backends against their peers, at equal precision, in one process.

Every contender is first compared with a naive loop in IEEE float32. "naive, default flags" (on a
GPU, float32) is what PyTorch does out of the box: TF32 convolutions.
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

MOVE = 0.5  # grey levels rms that a first step moves images by
LARGE = "inception_resnet_v2"
# Distance of a result from the naive one in IEEE float32, over what the steps moved. Networks here
# are untrained: many ReLUs' inputs are close to 0, and rounding decides on which side.
TOLERANCE = {LARGE: 0.05}


@dataclass(frozen=True)
class Case:
    """A race's work: a network, its images and steps, and the precision."""

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
        """What the race is called, and `-k` selects by."""
        return f"{self.network}-{self.precision}-{self.images}"


def cases(config: pytest.Config) -> list[Case]:
    """The races of this run, those that matter most first."""
    small, images, steps = (
        ("basic_cnn", "mobilenet_v2"),
        config.getoption("--images"),
        config.getoption("--steps"),
    )
    if config.getoption("--benchmark-disable"):  # try the contenders out, measure nothing
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
    """One race a case."""
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
    ways, absent = contenders.enter(task)

    exact = loops.with_precision("float32", loops.naive(task.phi(), case.steps, step_size))(images)
    errors = {
        way: float((run(images) - exact).norm() / (exact - images).norm())
        for way, run in ways.items()
    }
    # As close as the naive loop gets at this precision, and not just anything.
    allowed = min(TOLERANCE.get(case.network, 0.01) + 1.5 * errors[contenders.NAIVE], 0.9)
    for way, error in errors.items():
        loose = 0.1 if way == contenders.DEFAULTS else allowed
        assert error <= loose, f"{way} computes something else: {error:.3g} is above {loose:.3g}"

    inputs = mirrored(images)
    layers = roofline.layers_of(task.phi(), images, case.precision)
    before = roofline.measure(case.precision, device)
    medians = race(
        {way: on_each(run, inputs) for way, run in ways.items()},
        baseline=contenders.NAIVE,
        rounds=5,
        warmup=0,  # each has run twice by now
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
    for way, row in benchmark.extra_info["contenders"].items():
        row["error"] = errors[way]
        row["share_of_matmul"] = flop / medians[way] / machine.flop_per_s
        if machine.bytes_per_s:
            row["share_of_floor"] = bound / medians[way]
