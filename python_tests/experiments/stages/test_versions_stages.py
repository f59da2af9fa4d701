"""Answers to p*_k, inputs used and attacks: each stage against plain loops on a tiny network."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sign_ext.data import ImageSet
from sign_ext.evaluation import effective_inputs, zero_preactivations
from sign_ext.experiments.stages import versions
from sign_ext.experiments.stages.measure import read_answers
from sign_ext.experiments.stages.networks import Calibrate, Network, Train, Transform
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.experiments.stages.versions import (
    Attack,
    CancelAttack,
    ClassifyVersions,
    FollowPath,
    MeasureInputs,
    answers_to,
)
from sign_ext.reference import iterative_sign_reference
from sign_ext.training import TrainSettings

STEP = 3000.0
PHI = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=1))
CALIBRATED = Calibrate(PHI, 8, 0.02, 4)


@pytest.fixture
def model(monkeypatch, seed) -> nn.Module:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 5 * 4, 12), nn.ReLU(), nn.Linear(12, 3)
    ).eval()
    with torch.no_grad():
        network[1].weight.mul_(1 / 255)
    monkeypatch.setattr(versions, "load_trained", lambda outcome, device: network)
    return network


@pytest.fixture
def images(torch_rng) -> ImageSet:
    pixels = torch.randint(0, 256, (23, 3, 5, 4), generator=torch_rng, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(23) % 3, ("a", "b", "c"), "x/test")


def context(images: ImageSet) -> SimpleNamespace:
    numbers = {"proposed": STEP}
    return SimpleNamespace(
        device=torch.device("cpu"),
        outcome=lambda stage: Outcome(stage, Path(), numbers, 0.0),
        data=lambda source: SimpleNamespace(test=images, part={"test": images}.__getitem__),
        report=lambda done, total: None,
    )


def moved_exactly(model: nn.Module, images: torch.Tensor, steps: int) -> torch.Tensor:
    """p*_K by the float64 loop, with Φ all but the classifier."""
    exact = copy.deepcopy(model).double()
    return iterative_sign_reference(exact[:3], images.double(), steps, step_size=STEP)


def expected(model: nn.Module, where: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy, confidence and true-class probability, by numpy in float64."""
    logits = model(where.float()).detach().double().numpy()
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    return {
        "accuracy": float((logits.argmax(axis=1) == labels.numpy()).mean()),
        "confidence": float(shares.max(axis=1).mean()),
        "probability": float(shares[rows, labels.numpy()].mean()),
    }


def test_phis_answers_along_the_way_are_those_of_the_float64_loop(
    model, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(versions, "TOGETHER", 10)  # chunks, the last of them smaller
    stage = FollowPath(PHI, CALIBRATED, (1, 2, 4), len(images))
    numbers = stage.run(context(images), tmp_path)
    exact = [moved_exactly(model, images.float(), k) for k in range(5)]
    assert list(numbers["versions"]) == ["0", "1", "2", "4", "noise"]
    for k in (0, 1, 2, 4):
        wanted = expected(model, exact[k], images.labels)
        assert numbers["versions"][str(k)] == pytest.approx(wanted, rel=1e-4)
    rms = float((exact[4] - exact[0]).square().mean().sqrt())
    assert numbers["rms"]["4"] == pytest.approx(rms, rel=1e-4)
    answers = read_answers(Outcome(stage, tmp_path, {}, 0.0))
    right = model(exact[2].float()).argmax(dim=1) == images.labels
    assert np.array_equal(answers.values["accuracy_2"], right.numpy())


def test_versions_are_classified_and_together_by_mean_probability(
    model, images, tmp_path, monkeypatch
):
    moved = {5: images.float() + 30, 9: images.float() * 0.5}
    monkeypatch.setattr(
        versions, "load_transformed", lambda folder: SimpleNamespace(snapshots=moved)
    )
    stage = ClassifyVersions(PHI, Transform(PHI, None, 1.0, (5, 9), part="test"))
    numbers = stage.run(context(images), tmp_path)["versions"]
    every = [images.float(), *moved.values()]
    for name, where in zip(("0", "5", "9"), every, strict=True):
        assert numbers[name] == pytest.approx(expected(model, where, images.labels), rel=1e-5)
    mean = sum(model(where).softmax(dim=1) for where in every) / 3
    true = mean[torch.arange(len(images)), images.labels]
    assert numbers["mean"]["probability"] == pytest.approx(float(true.mean().detach()), rel=1e-5)
    assert numbers["mean"]["accuracy"] == float(
        (mean.argmax(dim=1) == images.labels).double().mean()
    )


def test_versions_that_are_stored_answer_as_those_that_are_made(
    model, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(versions, "TOGETHER", 4)
    some = images.subset([0, 2, 5, 8, 11, 14, 17, 20])  # eight of 23
    kept = Transform(PHI, None, 1.0, (1, 2, 4), part="test", most=8)
    assert torch.equal(kept.originals(context(images)).images, some.images)
    moved = {k: moved_exactly(model, some.float(), k).float() for k in (1, 2, 4)}
    monkeypatch.setattr(
        versions, "load_transformed", lambda folder: SimpleNamespace(snapshots=moved)
    )
    for folder in "abcdef":
        (tmp_path / folder).mkdir()
    made = FollowPath(PHI, CALIBRATED, (2, 4), 8).run(context(some), tmp_path / "a")
    stored = FollowPath(PHI, CALIBRATED, (2, 4), 8, kept).run(context(images), tmp_path / "b")
    assert stored["images"] == 8
    assert stored["rms"] == pytest.approx(made["rms"], rel=1e-4)
    for name in ("0", "2", "4"):
        assert stored["versions"][name] == pytest.approx(made["versions"][name], rel=1e-4)
    attack = Attack(8.0, 2.0, 3)
    made = CancelAttack(PHI, CALIBRATED, (2,), attack, 5).run(context(some), tmp_path / "c")
    stored = CancelAttack(PHI, CALIBRATED, (2,), attack, 5, kept)
    stored = stored.run(context(images), tmp_path / "d")
    assert stored["images"] == 5
    for name, each in made["versions"].items():
        assert stored["versions"][name] == pytest.approx(each, rel=1e-3), name
    only = ClassifyVersions(PHI, kept, (4,)).run(context(images), tmp_path / "e")["versions"]
    assert list(only) == ["0", "4", "mean"]
    assert only["4"] == pytest.approx(expected(model, moved[4], some.labels), rel=1e-5)
    only = MeasureInputs(PHI, kept, 8, (2,)).run(context(images), tmp_path / "f")["versions"]
    assert list(only) == ["0", "2"]


def test_inputs_used_are_measured_on_the_same_images_of_each_version(
    model, images, tmp_path, monkeypatch
):
    moved = {7: images.float() - 60}
    monkeypatch.setattr(
        versions, "load_transformed", lambda folder: SimpleNamespace(snapshots=moved)
    )
    stage = MeasureInputs(PHI, Transform(PHI, None, 1.0, (7,), part="test"), images=6)
    numbers = stage.run(context(images), tmp_path)
    assert numbers["images"] == 6
    assert numbers["variables"] == 60
    chosen = [0, 3, 7, 11, 15, 19]  # evenly spaced among 23
    for name, where in (("0", images.float()), ("7", moved[7])):
        found = numbers["versions"][name]
        assert found["negative"] == pytest.approx(float((where[chosen] < 0).double().mean()))
        assert found["every"] == pytest.approx(
            float(zero_preactivations(model, where[chosen])[1].mean()), rel=1e-6
        )
        assert found["effective"] == pytest.approx(
            float(effective_inputs(model, where[chosen]).mean()), rel=1e-5
        )


def test_an_attack_lowers_accuracy_within_its_ball_and_sign_moves_what_was_attacked(
    model, images, tmp_path, monkeypatch
):
    import sign_ext

    seen = {}

    def pgd(network, originals, labels, **options):
        seen["attacked"] = sign_ext.attacks.pgd(network, originals, labels, **options)
        seen["originals"] = originals
        return seen["attacked"]

    monkeypatch.setattr(sign_ext, "pgd", pgd, raising=False)
    stage = CancelAttack(PHI, CALIBRATED, (2,), Attack(8.0, 2.0, 6), 23)
    numbers = stage.run(context(images), tmp_path)["versions"]
    change = (seen["attacked"] - seen["originals"]).abs().max()
    assert 4 < float(change) <= 8 + 1e-3
    assert numbers["attacked"]["probability"] < numbers["p"]["probability"]
    after = moved_exactly(model, seen["attacked"], 2)
    assert numbers["attacked_2"] == pytest.approx(expected(model, after, images.labels), rel=1e-4)
    assert set(numbers) == {
        f"{start}{end}" for start in ("p", "attacked") for end in ("", "_2", "_noise")
    }


def test_a_tie_counts_as_the_first_class_and_probabilities_are_exact():
    found = answers_to(torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]]), torch.tensor([0, 0]))
    assert found["accuracy"].tolist() == [True, False]
    assert found["confidence"].tolist() == pytest.approx([0.5, 0.75])
    assert found["probability"].tolist() == pytest.approx([0.5, 0.25])
