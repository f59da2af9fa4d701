"""Noise in place of SIGN's δ: as large, independent, the same each time, and a stage of its own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sign_ext.data import ImageSet
from sign_ext.experiments.stages.networks import Network, Noise, Train, Transform
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.training import TrainSettings


@pytest.fixture
def transform() -> Transform:
    phi = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=1))
    return Transform(phi, None, 2.0, (5, 10))


def context(stage: Noise, images: ImageSet, numbers: dict | None = None) -> SimpleNamespace:
    change = {"change": {"5": {"rms": 2.5}, "10": {"rms": 7.0}}}
    outcomes = {
        stage.sign.key: Outcome(stage.sign, Path(), change, 0.0),
        stage.key: Outcome(stage, Path(), numbers or {}, 0.0),
    }
    return SimpleNamespace(
        outcome=lambda each: outcomes[each.key],
        data=lambda source: SimpleNamespace(part=lambda name: images),
    )


def test_noise_is_as_large_as_signs_change(transform, torch_rng, tmp_path) -> None:
    pixels = torch.randint(0, 256, (50, 3, 9, 7), generator=torch_rng, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(50) % 2, ("a", "b"), "x/train")
    stage = Noise(transform, seed=3)
    numbers = stage.run(context(stage, images), tmp_path)
    versions = stage.images(context(stage, images, numbers))
    assert list(versions) == list(stage.snapshots) == [5, 10]
    deltas = {k: each.double() - pixels.double() for k, each in versions.items()}
    for k, rms in ((5, 2.5), (10, 7.0)):
        assert float(deltas[k].square().mean().sqrt()) == pytest.approx(rms, rel=0.03)
        assert numbers["change"][str(k)]["rms"] == pytest.approx(
            float(deltas[k].square().mean().sqrt()), rel=1e-5
        )
    product = (deltas[5] * deltas[10]).mean() / (2.5 * 7.0)
    assert abs(float(product)) < 0.05  # 0.01 is its standard error
    again = stage.images(context(stage, images, numbers))
    assert all(torch.equal(again[k], versions[k]) for k in versions)


def test_training_on_noise_is_another_stage_than_on_sign(transform) -> None:
    plain = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=2))
    sign = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=2), sign=transform)
    noise = Train(
        Source("digits"),
        40,
        Network("basic_cnn"),
        TrainSettings(seed=2),
        sign=Noise(transform, seed=2),
    )
    assert len({plain.key, sign.key, noise.key}) == 3
    assert sign.train_images == noise.train_images == 120
    assert "+noise" in f"+{noise.title()}".replace(", ", "+")
