"""The calibration table against its own definitions, and its proposal against its promise."""

from __future__ import annotations

import math

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from torch import nn

from sign_ext import Calibration, SignTransform, iterative_sign


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
    assert calls[-1] == (6, 6)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
