"""Counts of right answers as images are and after an attack, against counting by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sign_ext.data import ImageSet
from sign_ext.evaluation import RobustnessCount, robustness

SHAPE = (3, 4, 5)


class Brightness(nn.Module):
    """Takes dark images for class 0, bright ones for class 1; class 2 has no images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = images.flatten(1).mean(1)
        return torch.stack([100 - bright, bright - 100, torch.full_like(bright, -1e3)], 1)


def image_set(levels: list[int], labels: list[int]) -> ImageSet:
    pixels = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    return ImageSet(
        pixels, torch.tensor(labels, dtype=torch.int64), ("dark", "bright", "neither"), "grey/test"
    )


def darker(images: torch.Tensor, labels: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    assert images.dtype == torch.float32
    return images - 20


@pytest.mark.parametrize("batch_size", [1, 3, 512])
def test_robust_is_right_before_and_after(batch_size):
    #        right, right   right, wrong   wrong, right   wrong, wrong   right, right
    levels, labels = [200, 110, 110, 200, 30], [1, 1, 0, 0, 0]
    done = []
    found = robustness(
        Brightness(),
        image_set(levels, labels),
        darker,
        batch_size=batch_size,
        progress=lambda images, total: done.append((images, total)),
    )
    assert (found.images, found.correct, found.robust) == (5, 3, 2)
    assert (found.accuracy, found.robust_accuracy) == (0.6, 0.4)
    assert found.to_dict()["robust_accuracy_error"] == pytest.approx((0.4 * 0.6 / 5) ** 0.5)
    assert "reached" not in found.to_dict()
    assert done[-1] == (5, 5)
    assert len(done) == -(-5 // batch_size)


def test_the_attack_is_given_positions_in_the_set():
    seen = []

    def note(images, labels, positions):
        seen.extend(zip(positions.tolist(), labels.tolist(), strict=True))
        return images

    robustness(Brightness(), image_set([1, 2, 200, 3], [0, 1, 1, 0]), note, batch_size=3)
    assert seen == [(0, 0), (1, 1), (2, 1), (3, 0)]


def test_towards_a_class_counts_images_of_the_others():
    count = RobustnessCount(Brightness(), target=0)
    images = image_set([200, 110, 30], [1, 1, 0])
    count.add(images.images, images.images.float() - 20, images.labels)
    found = count.result()
    assert (found.others, found.reached) == (2, 1)
    assert found.to_dict()["reached"] == 1


def test_the_networks_training_flags_stay():
    model = nn.Sequential(Brightness(), nn.Dropout(0.99)).train()
    found = robustness(model, image_set([200, 30], [1, 0]), darker)
    assert found.correct == 2
    assert model.training
    assert model[1].training


def test_what_cannot_be_counted():
    count = RobustnessCount(Brightness())
    with pytest.raises(ValueError, match="no images to attack"):
        count.result()
    images = torch.zeros(2, *SHAPE)
    with pytest.raises(ValueError, match=r"labels range from 0 to 3; accepted: 0 to 2.*3 outputs"):
        count.add(images, images, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="labels range from -1"):
        count.add(images, images, torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="NaN or infinite"):
        count.add(images, images * torch.nan, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="is empty"):
        robustness(Brightness(), image_set([], []), darker)
    with pytest.raises(ValueError, match="batch_size=0"):
        robustness(Brightness(), image_set([1], [0]), darker, batch_size=0)
