"""t-SNE keeps separate what is separate, gives equal bits for equal seeds, and touches nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

from sign_ext.evaluation import embed


@pytest.fixture
def blobs(torch_rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three well-separated Gaussian blobs: train (131, 60) and its labels, other and its labels."""
    centres = torch.randn(3, 60, generator=torch_rng) * 8

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        return centres[labels] + torch.randn(count, 60, generator=torch_rng), labels

    return *draw(131), *draw(37)


def test_blobs_stay_apart_and_others_join_theirs(
    blobs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    train, labels, other, other_labels = blobs
    kept, random, numpy_random = (
        (train.clone(), other.clone()),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002  (the global one must not move)
    )
    drawn, placed = embed(train, other, seed=3, iterations=250)
    assert drawn.shape == (131, 2)
    assert placed.shape == (37, 2)
    assert drawn.dtype == placed.dtype == torch.float32
    own = torch.stack([drawn[labels == c].mean(0) for c in range(3)])
    for points, classes in ((drawn, labels), (placed, other_labels)):
        distances = torch.cdist(points, own)
        assert torch.equal(distances.argmin(1), classes)
        # Not merely nearest: the blobs' radii are well below the gaps between them.
        second = distances.topk(2, largest=False).values
        assert bool((second[:, 0] < second[:, 1] / 2).all())

    again = embed(train, other, seed=3, iterations=250)
    assert torch.equal(again[0], drawn)
    assert torch.equal(again[1], placed)
    # Others do not move the map, nor each other.
    alone, one = embed(train, other[:1], seed=3, iterations=250)
    assert torch.equal(alone, drawn)
    torch.testing.assert_close(one, placed[:1], rtol=0, atol=1e-3)

    assert torch.equal(train, kept[0])
    assert torch.equal(other, kept[1])
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()  # noqa: NPY002


def test_units_do_not_matter(blobs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    train, labels, other, _ = blobs
    units = torch.logspace(-2, 3, 60)
    train[:, 5] = 2.0  # constant in training: carries nothing, whatever it is later
    other[:, 5] = 2.0
    plain, _ = embed(train.double(), other.double(), seed=0, iterations=60)
    scaled, _ = embed(train.double() * units + 7, other.double() * units + 7, seed=0, iterations=60)
    own = torch.stack([scaled[labels == c].mean(0) for c in range(3)])
    assert torch.equal(torch.cdist(scaled, own).argmin(1), labels)
    assert plain.isfinite().all()


@pytest.mark.parametrize("count", [4, 5, 8, 40])
def test_few_samples_lower_the_perplexity(count: int, torch_rng: torch.Generator) -> None:
    train = torch.rand(count, 3, generator=torch_rng)
    other = torch.rand(2, 3, generator=torch_rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library warns where the perplexity is too high
        drawn, placed = embed(train, other, seed=0, iterations=30)
    assert drawn.isfinite().all()
    assert placed.isfinite().all()
    rule = (count - 1) / 3
    lowered, _ = embed(train, other, seed=0, iterations=30, perplexity=max(1.0, min(30.0, rule)))
    assert torch.equal(lowered, drawn)


def test_refusals() -> None:
    train, other = torch.rand(9, 3), torch.rand(2, 3)
    for wrong in (torch.rand(2, 4), torch.rand(3)):
        with pytest.raises(ValueError, match=r"accepted: \(N, D\) and \(M, D\)"):
            embed(train, wrong, seed=0)
    with pytest.raises(ValueError, match="3 training and 2 other samples"):
        embed(train[:3], other, seed=0)
    with pytest.raises(ValueError, match="9 training and 0 other samples"):
        embed(train, other[:0], seed=0)
    with pytest.raises(ValueError, match="not finite"):
        embed(train, other / 0, seed=0)
    for name, value in (("seed", -1), ("perplexity", 0.5), ("iterations", 1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            embed(train, other, **{"seed": 0, name: value})
