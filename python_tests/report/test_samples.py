"""Samples: which images are shown, and as which pixels."""

from __future__ import annotations

import pytest
import torch

from sign_ext.data import ImageSet
from sign_ext.report.plots import Samples, pick_samples


def test_one_sample_a_class_is_picked(torch_rng: torch.Generator) -> None:
    labels = torch.tensor([2, 0, 2, 0, 2])
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch_rng)
    train = ImageSet(images, labels, ("a", "b", "c"), "letters/train")
    samples = pick_samples(train, {3: images.float() + 1})
    assert samples.labels == ("a", "c")  # no image of b
    assert torch.equal(samples.originals, images[[1, 0]].float())
    assert torch.equal(samples.delta, torch.ones(2, 3, 4, 4))


def test_delta_is_drawn_symmetrically_around_grey() -> None:
    originals = torch.zeros(1, 3, 1, 3)
    delta = torch.tensor([-20.0, 0.0, 20.0]).expand(1, 3, 1, 3)
    samples = Samples(("a",), originals, {1: originals + delta})
    assert samples.scale == pytest.approx(20)
    assert samples.rows()["δ"][0, 0, :, 0].tolist() == [1, 128, 255]
