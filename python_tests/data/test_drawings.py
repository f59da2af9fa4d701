"""The generated drawings: the same every time, all different, of any size, fair classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sign_ext.data import load_data, open_data
from sign_ext.data.datasets import drawings
from sign_ext.data.datasets.drawings import CLASS_NAMES, COUNTS, PAINTINGS, draw


def test_a_drawing_is_a_function_of_its_number() -> None:
    kept = draw(3, 17, 20)
    torch.manual_seed(5)
    assert torch.equal(draw(3, 17, 20), kept)
    assert not torch.equal(draw(3, 18, 20), kept)


@pytest.mark.parametrize("size", [1, 9, 32, 45])
def test_every_class_is_drawn_at_any_size(size: int) -> None:
    for label in range(len(CLASS_NAMES)):
        image = draw(label, 4, size)
        assert image.shape == (3, size, size)
        assert image.dtype == torch.uint8


def test_sizes_are_the_same_drawing(rng: np.random.Generator) -> None:
    """But for the noise: averaged over 4 × 4 pixels, a large drawing is the small one."""
    numbers = rng.integers(0, 4000, 6)
    small, large = (
        torch.stack([draw(int(n) % 10, int(n), size).double() for n in numbers])
        for size in (16, 64)
    )
    coarse = torch.nn.functional.avg_pool2d(large, 4)
    rms = float((coarse - small).square().mean().sqrt())
    assert rms < 1.3 * drawings.NOISE
    assert rms < 0.5 * float((coarse.roll(1, 0) - small).square().mean().sqrt())


def test_splits_do_not_share_images_and_have_equal_classes() -> None:
    sources = [open_data("drawings", split=split) for split in COUNTS]
    assert [len(source) for source in sources] == list(COUNTS.values())
    seen = [source.read(0, 40).flatten(1).numpy().tobytes() for source in sources]
    assert len(set(seen)) == 3
    for source in sources:
        counts = np.bincount(np.asarray(source.labels))
        assert (counts == len(source) // len(CLASS_NAMES)).all()


def test_a_thing_stands_out_from_its_background() -> None:
    """The paintings cover a middling share of the image, and stay inside it."""
    for name, painting in zip(CLASS_NAMES, PAINTINGS, strict=True):
        outlines = np.concatenate([outline for _, outline in painting()])
        assert np.abs(outlines).max() <= 1.05, name
        assert np.ptp(outlines, axis=0).max() > 1.6, name
        assert {colour for colour, _ in painting()} == {0, 1, 2}, name


def test_colours_do_not_tell_the_class() -> None:
    """A classifier by mean colour is near chance: 10% of ten classes."""
    data = load_data("drawings", train_size=400, test_size=200, image_size=8)
    features = [s.images.double().mean((2, 3)) for s in (data.train, data.test)]
    means = torch.stack([features[0][data.train.labels == c].mean(0) for c in range(10)])
    right = torch.cdist(features[1], means).argmin(1) == data.test.labels
    assert float(right.double().mean()) < 0.3
