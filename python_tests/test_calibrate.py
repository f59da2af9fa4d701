"""The calibration table against its own definitions, and its proposal against its promise."""

from __future__ import annotations

import itertools
import math
import re
import warnings

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from torch import nn

from sign_ext import Calibration, PixelRangeWarning, SignTransform, iterative_sign
from sign_ext.calibrate import calibrate
from sign_ext.errors import DivergenceError, NegligibleDeltaWarning
from sign_ext.formatting import duration
from sign_ext.pixel_range import range_of_other_units
from sign_ext.pushforward import pullback_of_ones
from sign_ext.settings import Settings


@pytest.fixture
def images(torch_rng):
    return torch.rand(6, 3, 9, 11, generator=torch_rng) * 255


def test_rows_say_what_the_steps_do(images):
    model = tiny_cnn().train()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    table = SignTransform(model, momentum=0.5).calibrate(
        images, labels, steps=4, step_sizes=[500.0, 3000.0]
    )
    assert isinstance(table, Calibration)
    assert model.training
    by_step = {row.step_size: row for row in table.rows}
    assert {0.0, 500.0, 3000.0} <= set(by_step)
    for step, row in by_step.items():
        moved = (
            images if step == 0 else iterative_sign(model, images, 4, step_size=step, momentum=0.5)
        )
        change = (moved - images).double()
        with torch.no_grad():
            probabilities = model.eval()(moved).softmax(1)
        model.train()
        assert row.rms == pytest.approx(float((change**2).mean() ** 0.5), rel=1e-6)
        assert row.largest == pytest.approx(float(change.abs().max()))
        assert row.share_negative == pytest.approx(float((moved < 0).double().mean()))
        assert row.accuracy == pytest.approx(
            float((probabilities.argmax(1) == labels).double().mean())
        )
        assert row.confidence == pytest.approx(float(probabilities.max(1)[0].mean()), rel=1e-5)


@pytest.mark.parametrize("share", [0.004, 0.02, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_proposed_step_moves_images_as_far_as_promised(torch_rng, share, momentum):
    model = basic_cnn(16, 16, 8)
    images = torch.rand(4, 3, 16, 16, generator=torch_rng) * 255
    table = SignTransform(model, momentum=momentum).calibrate(images, steps=8, target_share=share)
    moved = iterative_sign(model, images, 8, step_size=table.proposed, momentum=momentum)
    assert float((moved - images).square().mean().sqrt()) == pytest.approx(share * 255, rel=0.1)
    assert "← proposed" in str(table)
    assert table.to_dict()["proposed"] == table.proposed


class Quartic(nn.Module):
    def forward(self, x):
        return (x / 255) ** 4


def test_diverging_steps_are_rows_too(images):
    model = nn.Sequential(Quartic(), nn.Flatten(), nn.Linear(297, 3))
    table = SignTransform(model).calibrate(images, steps=20, step_sizes=[10.0, 1e6])
    rows = {row.step_size: row for row in table.rows}
    assert rows[1e6].diverged
    assert math.isnan(rows[1e6].rms)
    assert not rows[10.0].diverged
    assert "diverges" in str(table)


class Map(nn.Module):
    """A network whose output is no (N, classes)."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(self.first(x).tanh())


def test_networks_without_class_scores(images):
    table = SignTransform(Map()).calibrate(images, steps=2)
    assert all(row.accuracy is None and row.confidence is None for row in table.rows)
    assert "%" in str(table)


def test_errors(images):
    sign = SignTransform(tiny_cnn())
    for options, message in (
        ({"step_sizes": [0.0]}, "step_sizes must be positive"),
        ({"step_sizes": "five"}, "step_sizes='five'; accepted: numbers, None or 'grid'"),
        ({"target_share": -1}, "target_share"),
        ({"pixel_range": 0}, "pixel_range"),
        ({"labels": torch.zeros(3)}, "labels must be"),
    ):
        with pytest.raises(ValueError, match=message):
            sign.calibrate(images, **options)
    with pytest.raises(ValueError, match="empty"):
        sign.calibrate(images[:0])
    dead = nn.Sequential(nn.Flatten(), nn.Linear(297, 9), nn.ReLU(), nn.Linear(9, 2))
    nn.init.constant_(dead[1].bias, -1e5)
    with pytest.raises(ValueError, match="zero for every image"):
        SignTransform(dead).calibrate(images)


def test_progress(images):
    calls = []
    SignTransform(tiny_cnn()).calibrate(
        images, steps=2, progress=lambda done, total: calls.append((done, total))
    )
    work = 6 * 2 * 4  # images, steps, and the step sizes that will probably be tried
    assert {total for _, total in calls} == {work}
    done = [each for each, _ in calls]
    assert done == sorted(done)
    assert done[-1] == work
    assert 0 < done[0] < 6 * 2 * 2  # inside of the first step size


def test_the_table_has_no_near_duplicates_and_costs_five_runs_at_most(torch_rng, monkeypatch):
    model = basic_cnn(16, 16, 8)
    images = torch.rand(4, 3, 16, 16, generator=torch_rng) * 255
    calls = []
    own = SignTransform.transform

    def counted(self, *args, **options):
        calls.append(self.settings.step_size)
        return own(self, *args, **options)

    monkeypatch.setattr(SignTransform, "transform", counted)
    table = SignTransform(model).calibrate(images, steps=20)
    steps = [row.step_size for row in table.rows]
    assert 3 <= len(calls) <= 5
    assert steps[0] == 0
    assert all(b / a >= 1.5 for a, b in itertools.pairwise(steps[1:]))
    place = steps.index(table.proposed)
    assert steps[place - 1] == pytest.approx(table.proposed / 3, rel=0.5)
    assert steps[place + 1] == pytest.approx(table.proposed * 3, rel=0.5)
    rms = {row.step_size: row.rms for row in table.rows}
    assert rms[table.proposed] == pytest.approx(0.02 * 255, rel=0.1)
    # The grid of five finds the same one, for more.
    few, calls[:] = len(calls), []
    grid = SignTransform(model).calibrate(images, steps=20, step_sizes="grid")
    assert len(calls) > few
    assert grid.proposed == pytest.approx(table.proposed, rel=0.25)
    # Nothing but the proposal.
    calls.clear()
    alone = SignTransform(model).calibrate(images, steps=20, step_sizes=())
    assert alone.proposed == table.proposed
    assert len(calls) <= 3
    assert {row.step_size for row in alone.rows} <= {0.0, *calls}


def test_a_first_step_size_that_diverges_is_lowered():
    """With steps that overflow above 1: the step that a constant δ asks for is 510 / K = 5.1."""
    images = torch.full((2, 3, 4, 4), 100.0)

    def moved(step_size: float, steps: int, progress: object) -> torch.Tensor:
        if step_size > 1:
            raise DivergenceError("too far", 1)
        return images + step_size * 6.0

    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2, bias=False), nn.Linear(2, 2))
    nn.init.constant_(model[1].weight, 0.5)  # δ = 1 everywhere
    table = calibrate(moved, images, model=model, settings=Settings(steps=1), steps=1)
    rows = {row.step_size: row for row in table.rows}
    assert rows[5.1].diverged
    assert table.proposed == pytest.approx(5.1 / 6, rel=0.06)


# ---------------------------------------------------------------- units and time


@pytest.mark.parametrize(
    ("scaled", "pixel_range", "right"),
    [
        (lambda images: images / 64 - 2, 255.0, 4.0),
        (lambda images: images / 255, 255.0, 1.0),
        (lambda images: images, 1.0, 255.0),
    ],
)
def test_images_that_do_not_span_the_pixel_range(torch_rng, scaled, pixel_range, right):
    model = tiny_cnn().eval()
    images = scaled(torch.rand(2, 3, 9, 11, generator=torch_rng) * 255)
    with pytest.warns(PixelRangeWarning) as caught:
        table = SignTransform(model).calibrate(images, steps=4, pixel_range=pixel_range)
    (message,) = [str(each.message) for each in caught]
    assert f"pixel_range is {pixel_range:g}" in message
    assert f"span {images.min():.3g}…{images.max():.3g}" in message
    named, step = re.search(
        r"pixel_range=([\d.]+) would propose .* ([\d.e+-]+)\. ", message
    ).groups()
    assert float(named) == pytest.approx(right, rel=0.02)
    moved = iterative_sign(model, images, 4, step_size=float(step))
    rms = float((moved - images).square().mean().sqrt())
    assert rms == pytest.approx(0.02 * float(named), rel=0.1)
    # The warning changes nothing, and is given once.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = SignTransform(model).calibrate(images, steps=4, pixel_range=pixel_range)
    assert again == table


def test_images_that_may_span_the_pixel_range(torch_rng):
    grey = torch.rand(4, 3, 9, 11, generator=torch_rng) * 255
    for images, pixel_range in (
        (grey, 255.0),
        (grey * 1.35 - 40, 255.0),
        ((grey / 100).round(), 255.0),
        (grey / 30, 255.0),
        (torch.zeros_like(grey), 255.0),
        (grey / 255, 1.0),
        (grey / 64 - 2, 1.0),
        (grey * 257, 65535.0),
    ):
        assert range_of_other_units(images, pixel_range) is None


def test_the_forecast_counts_calls_and_steps(images, monkeypatch):
    """With a clock that a call moves by 5 seconds and a step by 2."""
    now, lines, spent = [0.0], [], []

    def moved(step_size: float, steps: int, progress: object) -> torch.Tensor:
        now[0] += 5 + 2 * steps
        spent.append(steps)
        return images + step_size * steps * 1e-3

    monkeypatch.setattr("sign_ext.calibrate.time.perf_counter", lambda: now[0])
    options = {"model": tiny_cnn(), "settings": Settings()}
    calibrate(moved, images, steps=100, step_sizes=[1.0, 10.0], say=lines.append, **options)
    assert lines == [f"6 images, K = 100, 3 step sizes: about {duration(3 * (5 + 200))} on cpu"]
    assert sum(k for k in spent if k < 100) <= 5
    lines.clear()
    calibrate(moved, images, steps=3, step_sizes=[1.0], say=lines.append, **options)
    assert lines == ["6 images, K = 3, 2 step sizes on cpu"]


def test_the_steps_of_a_proposal_are_the_transforms_own(images):
    table = SignTransform(tiny_cnn(), 3).calibrate(images, step_sizes=[500.0])
    assert table.steps == 3
    told = f"step size {table.proposed:.3g} is proposed for K = 3: use it with --steps 3"
    assert told in str(table)
    assert SignTransform(tiny_cnn(), 3).calibrate(images, steps=2, step_sizes=[5.0]).steps == 2


def test_the_table_has_percentages_and_the_wanted_change_in_the_images_units(images, torch_rng):
    labels = torch.randint(0, 4, (len(images),), generator=torch_rng)
    table = SignTransform(tiny_cnn()).calibrate(images, labels, steps=2, step_sizes=[5.0])
    accuracy = table.rows[0].accuracy
    assert f" {100 * accuracy:.1f}%" in str(table).splitlines()[1]
    assert "an rms change of 5.1, which is 2% of 255" in str(table)


class Normed(nn.Module):
    """Φ is a LayerNorm's value without weights: what its sum depends on is rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 4, 3, 2), nn.LayerNorm(4 * 9)
        self.classifier = nn.Linear(4 * 9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(torch.tanh(self.first(x / 255)).flatten(1)))


@pytest.mark.parametrize("step_sizes", [None, [1.0, 2.0]])
def test_a_constant_sum_has_no_step_size(step_sizes, torch_rng):
    """δ is not zero, so its size would ask for some step."""
    model = Normed().eval()
    images = torch.rand(4, 3, 8, 8, generator=torch_rng) * 255
    assert float(pullback_of_ones(model, images).abs().max()) > 0
    with pytest.raises(ValueError, match=r"LayerNorm, so there is no step size.*layer=NAME"):
        SignTransform(model).calibrate(images, steps=2, step_sizes=step_sizes)
    assert SignTransform(model, layer="first").calibrate(images, steps=2).proposed > 0


def test_a_nearly_constant_sum_is_told_once(torch_rng):
    """After some training the LayerNorm's weights differ a little, and δ is what differs."""
    model = Normed().eval()
    noise = torch.randn(4 * 9, generator=torch_rng)
    model.norm.weight.data += 0.01 * noise
    images = torch.rand(4, 3, 8, 8, generator=torch_rng) * 255
    with pytest.warns(NegligibleDeltaWarning, match=r"nearly constant.*layer=NAME") as told:
        table = SignTransform(model).calibrate(images, steps=2)
    assert len(told) == 1
    assert table.proposed > 0
    with pytest.warns(NegligibleDeltaWarning, match="nearly constant") as told:
        iterative_sign(model, images, 2, step_size=table.proposed)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SignTransform(model, layer="first").calibrate(images, steps=2)
