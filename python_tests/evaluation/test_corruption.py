"""Table 5's corruptions: exact counts of positions, moments of the noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sign_ext.evaluation import corruption_examples, gaussian_noise, pixels_off

SIZES = st.tuples(*(st.integers(1, top) for top in (5, 4, 13, 17)))


@given(SIZES, st.sampled_from([torch.uint8, torch.float32]), st.data())
def test_exactly_n_positions_are_off(shape, dtype, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, shape[2] * shape[3]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    images = torch.randint(1, 256, shape, generator=generator).to(dtype)
    kept = images.clone()
    found = pixels_off(images, n, generator=generator)
    assert torch.equal(images, kept)
    assert found.dtype == dtype
    zero = (found == 0).numpy()
    assert (zero == zero[:, :1]).all()
    assert (zero[:, 0].sum((1, 2)) == n).all()
    np.testing.assert_array_equal(found.numpy()[~zero], images.numpy()[~zero])


def test_fifty_by_default_and_seeded() -> None:
    images = torch.ones(9, 3, 32, 32)
    one, same, other = (
        pixels_off(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert ((one == 0).sum((1, 2, 3)) == 150).all()
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])


def test_every_position_is_equally_likely(torch_rng: torch.Generator) -> None:
    off = pixels_off(torch.ones(6000, 1, 5, 7), 7, generator=torch_rng) == 0
    hits = off.sum((0, 1)).numpy()
    # Probability 1/5: mean 1,200 and standard deviation 31 at each of the 35 positions.
    assert np.abs(hits - 1200).max() < 5 * 31


def test_noise_has_its_moments(torch_rng: torch.Generator) -> None:
    images = torch.randint(0, 256, (300, 3, 17, 19), generator=torch_rng, dtype=torch.uint8)
    kept = images.clone()
    noisy = gaussian_noise(images, generator=torch_rng)
    assert torch.equal(images, kept)
    assert noisy.dtype == torch.float32
    noise = noisy.numpy().astype(np.float64) - images.numpy()
    count = noise.size
    assert abs(noise.mean()) < 5 * 10 / np.sqrt(count)
    assert abs(noise.std() - 10) < 5 * 10 / np.sqrt(2 * count)
    assert abs((noise**4).mean() / 10**4 - 3) < 5 * np.sqrt(96 / count)
    between = (noise[:, 0] * noise[:, 1]).mean() / 100  # channels are independent
    assert abs(between) < 5 / np.sqrt(noise[:, 0].size)
    assert noisy.min() < 0  # not clipped
    assert noisy.max() > 255


def test_noise_is_seeded_and_scales() -> None:
    images = torch.zeros(3, 3, 5, 5)
    ten, same, other = (
        gaussian_noise(images, 10, generator=torch.Generator().manual_seed(seed))
        for seed in (4, 4, 5)
    )
    assert torch.equal(ten, same)
    assert not torch.equal(ten, other)
    two = gaussian_noise(images, 2.5, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(two * 4, ten)
    assert torch.equal(gaussian_noise(images + 7, 0, generator=torch.Generator()), images + 7)


def test_refusals() -> None:
    generator = torch.Generator()
    for n in (-1, 26):
        with pytest.raises(ValueError, match=f"n={n} positions; accepted: 0 to 25"):
            pixels_off(torch.zeros(1, 3, 5, 5), n, generator=generator)
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        pixels_off(torch.zeros(3, 5, 5), 1, generator=generator)
    for sigma in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="sigma="):
            gaussian_noise(torch.zeros(1, 3, 5, 5), sigma, generator=generator)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_examples_are_rows_of_the_same_images(
    dtype: torch.dtype, torch_rng: torch.Generator
) -> None:
    images = torch.randint(1, 256, (7, 3, 11, 13), generator=torch_rng).to(dtype)
    kept = images.clone()
    rows = corruption_examples(images, seed=5)
    assert list(rows) == ["normal", "pixels off", "noise"]
    assert all(row.dtype == torch.float32 and row.shape == images.shape for row in rows.values())
    assert torch.equal(rows["normal"], images.float())
    off = (rows["pixels off"] == 0).all(1)
    assert (off.sum((1, 2)) == 50).all()
    shown = rows["pixels off"].movedim(1, -1)[~off]
    assert torch.equal(shown, images.float().movedim(1, -1)[~off])
    noise = rows["noise"] - images.float()
    assert abs(float(noise.std()) - 10) < 5 * 10 / np.sqrt(2 * noise.numel())
    again, other = corruption_examples(images, seed=5), corruption_examples(images, seed=6)
    for name in ("pixels off", "noise"):
        assert torch.equal(again[name], rows[name])
        assert not torch.equal(other[name], rows[name])
    rows["normal"].zero_()  # nobody else's memory
    assert torch.equal(images, kept)
    weak = corruption_examples(images, seed=5, num_off=3, sigma=0)
    assert ((weak["pixels off"] == 0).all(1).sum((1, 2)) == 3).all()
    assert torch.equal(weak["noise"], images.float())
    with pytest.raises(ValueError, match="seed=-1"):
        corruption_examples(images, seed=-1)


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_on_a_gpu(device: str) -> None:
    images = torch.full((9, 3, 11, 13), 7.0)

    def both(where: str) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator(device).manual_seed(1)
        moved = images.to(where)
        off = pixels_off(moved, 20, generator=generator)
        return off, gaussian_noise(moved, generator=generator)

    off, noisy = both("cuda")
    assert off.is_cuda
    assert noisy.is_cuda
    assert ((off == 0).sum((1, 2, 3)) == 60).all()
    for here, there in zip(both("cpu"), (off, noisy), strict=True):
        torch.testing.assert_close(here, there.cpu())
