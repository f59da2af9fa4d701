"""A network that has not learnt is told from one that has, whatever selects its best epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sign_ext.data import ImageSet, load_data
from sign_ext.training import TrainSettings, doubt_of_training, train

SETTINGS = TrainSettings(epochs=3, batch_size=50, learning_rate=1e-3)


class Straight(nn.Module):
    """Logistic regression on pixels 0–255."""

    def __init__(self, variables: int, classes: int) -> None:
        super().__init__()
        self.last = nn.Linear(variables, classes)

    def forward(self, images):
        return self.last(images.flatten(1) / 255)


def straight(images: ImageSet) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Straight(images.images[0].numel(), len(images.class_names))


def shuffled(images: ImageSet, generator: torch.Generator) -> ImageSet:
    order = torch.randperm(len(images), generator=generator)
    return replace(images, labels=images.labels[order])


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", image_size=8)


def test_one_that_learnt_is_not_told(digits):
    result = train(straight(digits.train), digits.train, digits.validation, SETTINGS)
    assert result.best_validation_accuracy > 0.5
    assert result.doubt_of_learning == result.to_dict()["doubt_of_learning"] == ""


def test_shuffled_labels_are_told(digits, torch_rng):
    wrong = shuffled(digits.train, torch_rng)
    validation = shuffled(digits.validation, torch_rng)
    result = train(straight(wrong), wrong, validation, SETTINGS)
    images = len(validation)
    most = int(torch.bincount(validation.labels).max())
    best = 100 * result.best_validation_accuracy
    assert result.doubt_of_learning == (
        f"its best validation accuracy, {best:.1f}% on {images} images, is what guessing gives "
        f"({100 * most / images:.1f}% of the most common class)"
    )


def test_a_rate_that_moves_nothing_is_told_and_again_when_the_run_is_resumed(digits, tmp_path):
    still = replace(SETTINGS, learning_rate=1e-12)

    def run() -> str:
        model, out = straight(digits.train), tmp_path / "run"
        trained = train(model, digits.train, digits.validation, still, out=out, resume=True)
        return trained.doubt_of_learning

    said = run()
    assert "is what guessing gives" in said
    assert run() == said  # complete: nothing is trained, and it is told all the same


def two_classes(digits: ImageSet) -> ImageSet:
    """One digit against all others: accuracy is high without learning anything."""
    return ImageSet(digits.images, (digits.labels == 8).long(), ("other", "eight"), "eights")


def test_an_area_is_judged_as_an_area(digits, torch_rng):
    train_set, validation = two_classes(digits.train), two_classes(digits.validation)
    by_area = replace(SETTINGS, select="auc", learning_rate=1e-2)
    learnt = train(straight(train_set), train_set, validation, by_area)
    assert max(row["validation_auc"] for row in learnt.history) > 0.7
    assert learnt.doubt_of_learning == ""
    wrong = shuffled(validation, torch_rng)
    guessed = train(straight(train_set), shuffled(train_set, torch_rng), wrong, by_area)
    assert guessed.best_validation_accuracy > 0.8  # of the others, and says nothing
    assert guessed.doubt_of_learning.startswith("its best validation AUC, 0.")


def test_more_epochs_to_choose_from_need_more():
    labels = torch.arange(200) % 10
    row = {"validation_accuracy": 0.155}
    assert doubt_of_training([row], "accuracy", labels) == ""
    assert doubt_of_training([row] * 20, "accuracy", labels)
    assert doubt_of_training([], "accuracy", labels) == ""
