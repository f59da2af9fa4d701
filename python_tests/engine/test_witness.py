"""Each call is compared with autograd at a random image; a few take turns and are replaced."""

from __future__ import annotations

import pytest
import torch
from tensors import pixels
from torch import Tensor

from sign_ext.engine.witness import CALLS, TURNS, Witnesses
from sign_ext.probe import statistics_of


class Scaled:
    """δ that counts how often it was asked for."""

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.asked = 0

    def pullback_of_ones(self, images: Tensor) -> Tensor:
        self.asked += 1
        return self.factor * images


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    return pixels(torch_rng, (4, 3, 5, 7))


def taken(witnesses: Witnesses, images: Tensor, calls: int) -> list[Tensor]:
    return [
        witnesses.take(statistics_of(images), images, torch.float32).clone() for _ in range(calls)
    ]


def test_a_few_images_take_turns_until_they_are_replaced(images):
    found = taken(Witnesses(), images, 2 * TURNS * CALLS)
    first, second = found[: TURNS * CALLS], found[TURNS * CALLS :]
    for part in (first, second):
        assert all(torch.equal(part[i], part[i % TURNS]) for i in range(len(part)))
    apart = [*first[:TURNS], *second[:TURNS]]
    assert not any(torch.equal(a, b) for i, a in enumerate(apart) for b in apart[:i])
    assert all(image.shape == (1, 3, 5, 7) for image in apart)


@pytest.mark.parametrize(
    ("change", "is_kept"),
    [
        pytest.param(lambda x: x.flip(3), True, id="mirrored"),
        pytest.param(lambda x: x + 0.1 * x.std(), True, id="a little brighter"),
        pytest.param(lambda x: x + 2 * x.std(), False, id="brighter"),
        pytest.param(lambda x: x.mean() + (x - x.mean()) / 3, False, id="of less contrast"),
        pytest.param(lambda x: x / 255, False, id="in other units"),
    ],
)
def test_images_of_other_statistics_get_images_like_them(images, change, is_kept):
    witnesses = Witnesses()
    before = taken(witnesses, images, TURNS)
    after = taken(witnesses, change(images), TURNS)
    kept = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
    assert kept == [is_kept] * TURNS
    if not is_kept:
        changed = change(images)
        assert all(changed.min() <= each.min() <= each.max() <= changed.max() for each in after)


def test_what_a_step_found_is_kept_for_that_step_and_image_alone(images):
    witnesses, one, other = Witnesses(), Scaled(2.0), Scaled(3.0)
    like = statistics_of(images)
    for call in range(2 * TURNS):
        image = witnesses.take(like, images, torch.float32)
        torch.testing.assert_close(witnesses.delta_of(one, image), 2 * image)
        assert one.asked == min(call + 1, TURNS)
    torch.testing.assert_close(witnesses.delta_of(other, image), 3 * image)
    assert other.asked == 1
    strange = image + 1
    torch.testing.assert_close(witnesses.delta_of(one, strange), 2 * strange)
    assert one.asked == TURNS + 1


def test_shapes_and_dtypes_have_images_of_their_own(images):
    witnesses = Witnesses()
    like = statistics_of(images)
    wide = images.repeat(1, 1, 1, 2)
    assert witnesses.take(like, images, torch.float64).dtype == torch.float64
    assert witnesses.take(like, images, torch.float32).dtype == torch.float32
    assert witnesses.take(statistics_of(wide), wide, torch.float32).shape == (1, 3, 5, 14)
    witnesses.clear()
    assert witnesses.take(like, images, torch.float32).shape == (1, 3, 5, 7)
