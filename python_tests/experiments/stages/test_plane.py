"""The example of Figures 1 and 2: distances against closed forms, mixup's labels, what is moved."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch

from sign_ext.experiments.stages.measure import read_answers
from sign_ext.experiments.stages.plane import (
    PlaneExample,
    distances_to_curves,
    half_circles,
    mix,
)
from sign_ext.experiments.stages.stage import Outcome


def test_distances_are_those_to_half_circles():
    # Above its centre a point is nearest on the ray from it; below, at an end of the half circle.
    points = torch.tensor([[0.0, 1.7], [0.3, 0.4], [0.2, -0.5], [1.0, -0.9], [1.0, 2.0]])
    upper = [0.7, 0.5, math.hypot(0.8, 0.5), 0.9, math.hypot(1, 2) - 1]
    lower = [math.hypot(0, 1.2), None, None, 0.4, math.hypot(1, 1.5)]
    found = distances_to_curves(points)
    assert found[:, 0].tolist() == pytest.approx(upper, abs=0.01)
    for distance, wanted in zip(found[:, 1].tolist(), lower, strict=True):
        if wanted is not None:
            assert distance == pytest.approx(wanted, abs=0.01)


def test_points_are_near_their_own_curve(seed):
    points, classes = half_circles(300, torch.Generator().manual_seed(seed))
    distances = distances_to_curves(points)
    own = distances.gather(1, classes[:, None])
    assert (distances.argmin(dim=1) == classes).double().mean() > 0.99
    assert float(own.mean()) == pytest.approx(0.08 * math.sqrt(2 / math.pi), rel=0.2)


def test_mixup_has_the_label_of_the_larger_weight(seed):
    points = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    for draw in range(20):
        generator = torch.Generator().manual_seed(seed + draw)
        mixed, labels, rms = mix(points, torch.tensor([0, 1]), generator)
        nearer = (mixed[:, 0] > 5).long()
        assert torch.equal(labels, nearer)
        away = (mixed - points[labels]).square().mean().sqrt()
        assert rms == pytest.approx(float(away), abs=1e-5)


def test_the_example_moves_points_as_far_as_it_says(tmp_path):
    stage = PlaneExample(3, 40, 150, (1, 2), 0.15)
    numbers = stage.run(SimpleNamespace(), tmp_path)
    json.dumps(numbers)
    assert numbers["accuracy"] > 0.95
    assert numbers["rms"] == pytest.approx(0.15, rel=0.25)  # chosen on other points
    answers = read_answers(Outcome(stage, tmp_path, {}, 0.0))
    for name, means in numbers["versions"].items():
        assert answers.values[f"wrong_{name}"].mean() == pytest.approx(means["wrong"])
    title = numbers["figure1"][0]["title"]
    wrong = round(80 * numbers["versions"]["mixup"]["wrong"])
    assert title == f"mixup: {wrong} of 80 labels wrong"
    assert len(numbers["figure1"][0]["rings"]["x"]) == wrong
    way = numbers["figure2"][0]["paths"][0]
    assert len(way["x"]) == 3  # p, and two K
