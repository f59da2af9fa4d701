"""What is said of an accuracy that guessing gives, against binomial sums in whole numbers."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext import PixelRangeWarning
from sign_ext.data import ImageSet
from sign_ext.evaluation import doubt_of_guessing, doubt_of_learning, evaluate


def chance_of_as_many(correct: int, images: int, classes: int) -> float:
    """How often guessing among classes gives as many right answers, or more."""
    ways = [math.comb(images, k) * (classes - 1) ** (images - k) for k in range(images + 1)]
    return sum(ways[correct:]) / classes**images


@pytest.mark.parametrize(("images", "classes"), [(90, 3), (35, 7), (40, 2)])
def test_an_accuracy_is_doubted_until_guessing_is_unlikely(images, classes):
    labels = torch.arange(images) % classes
    for correct in range(images + 1):
        doubted = bool(doubt_of_guessing(correct / images, labels, classes))
        assert doubted == (chance_of_as_many(correct, images, classes) > 0.05), correct


def test_one_answer_for_all_is_doubted(torch_rng):
    labels = torch.tensor([0] * 70 + [1] * 20 + [2] * 10)
    message = doubt_of_guessing(0.7, labels, 3)
    for part in ("70.0% on 100 images", "33.3% for 1 of 3", "70.0% for the most frequent"):
        assert part in message
    for cause in ("normalisation", "order of the classes", "weights were loaded"):
        assert cause in message
    assert not doubt_of_guessing(0.85, labels, 3)
    assert not doubt_of_guessing(0.55, labels, 3)  # below it, and above guessing


def test_what_cannot_be_told():
    assert not doubt_of_guessing(1.0, torch.tensor([0, 1, 1]), 2)  # 3 images of 2 classes
    assert not doubt_of_guessing(1.0, torch.zeros(50, dtype=torch.int64), 3)  # one class only
    assert not doubt_of_guessing(0.5, torch.zeros(50, dtype=torch.int64), 1)
    assert not doubt_of_guessing(math.nan, torch.arange(50) % 2, 2)


class Standardise(nn.Module):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def forward(self, x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std


def test_evaluate_warns_of_units_once(torch_rng):
    pixels = torch.randint(0, 256, (12, 3, 9, 11), generator=torch_rng, dtype=torch.uint8)
    test = ImageSet(pixels, torch.arange(12) % 2, ("a", "b"), "x/test")
    head = [nn.Flatten(), nn.Linear(297, 2)]
    model = nn.Sequential(Standardise(), *head).train()
    with pytest.warns(PixelRangeWarning, match="Standardise"):
        first = evaluate(model, test, draws=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert evaluate(model, test, draws=1) == first
        evaluate(nn.Sequential(*head), test, draws=1)
    assert model.training


def test_far_less_than_guessing_is_another_order_of_the_classes():
    labels = torch.arange(120) % 3
    message = doubt_of_guessing(3 / 120, labels, 3)
    for part in ("2.5% on 120 images is far below", "33.3% for 1 of 3", "another order"):
        assert part in message
    assert "is what guessing gives" in doubt_of_guessing(0.3, labels, 3)


def test_a_rare_class_for_all_images_is_no_other_order():
    labels = torch.tensor([0] * 90 + [1] * 5 + [2] * 5)
    assert "is what guessing gives" in doubt_of_guessing(0.05, labels, 3)
    assert "is what guessing gives" in doubt_of_guessing(0.0, labels, 4)  # the fourth for all
    assert "another order" in doubt_of_guessing(0.0, labels, 3)


@pytest.mark.parametrize(
    ("labels", "right", "doubted"),
    [
        ([0] * 30 + [1] * 15 + [2] * 15, 38, False),  # of 60, half are of class 0: sf = 0.026
        ([0] * 30 + [1] * 15 + [2] * 15, 36, True),  # sf = 0.078
        ([0, 1, 2] * 20, 27, False),  # a third: sf = 0.047
        ([0, 1, 2] * 20, 26, True),
    ],
)
def test_what_has_not_learnt_is_no_better_than_one_answer(labels, right, doubted) -> None:
    labels = torch.tensor(labels)
    answers = torch.where(torch.arange(60) < right, labels, (labels + 1) % 3)
    assert bool(doubt_of_learning(torch.eye(3)[answers], labels)) == doubted


def test_of_two_classes_the_order_of_the_images_counts(rng: np.random.Generator) -> None:
    # A network that always says 0 is right on 80%, and may still rank the images well.
    labels = torch.arange(200) % 5 == 0
    scores = torch.from_numpy(rng.normal(size=200)) + 1.5 * labels
    logits = torch.stack([torch.full((200,), 9.0, dtype=torch.float64), scores], dim=1)
    assert doubt_of_learning(logits, labels.long()) == ""
    noise = torch.from_numpy(rng.normal(size=(400, 200, 2)))
    found = [doubt_of_learning(each, labels.long()) for each in noise]
    wrong = sum(not each for each in found) / 400
    assert wrong < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5
    assert "area under its ROC curve" in max(found)
