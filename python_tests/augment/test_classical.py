"""Classical augmentation against a float64 resampler written from the definition."""

import math

import numpy as np
import pytest
import torch

from sign_ext.augment import Classical, classical_for
from sign_ext.augment.classical import affine_matrices, resample


def reference(image, flip, angle, shift):
    """Read one (C, H, W) image at F·Rᵀ·(out − t), pixel by pixel, bilinear, border repeated."""
    channels, height, width = image.shape
    out = np.empty(image.shape)
    for row in range(height):
        for column in range(width):
            x = column - (width - 1) / 2 - shift[0] * width
            y = row - (height - 1) / 2 - shift[1] * height
            u = flip[0] * (math.cos(angle) * x + math.sin(angle) * y) + (width - 1) / 2
            v = flip[1] * (-math.sin(angle) * x + math.cos(angle) * y) + (height - 1) / 2
            u, v = min(max(u, 0), width - 1), min(max(v, 0), height - 1)
            left, top = min(int(u), width - 2), min(int(v), height - 2)
            a, b = u - left, v - top
            for c in range(channels):
                corner = image[c, top : top + 2, left : left + 2]
                out[c, row, column] = (
                    corner[0, 0] * (1 - a) * (1 - b)
                    + corner[0, 1] * a * (1 - b)
                    + corner[1, 0] * (1 - a) * b
                    + corner[1, 1] * a * b
                )
    return out


def images_of(n, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, height, width, generator=generator) * 255


@pytest.mark.parametrize(("height", "width"), [(11, 11), (9, 14), (17, 6)])
def test_batch_equals_the_definition(height, width):
    images = images_of(5, height, width)
    augment = Classical(max_shift=0.2, max_rotation=40.0)
    flips, angles, shifts = augment.draw(5, torch.Generator().manual_seed(3))
    got, _ = augment(images, torch.arange(5), torch.Generator().manual_seed(3))
    for i in range(5):
        wanted = reference(
            images[i].double().numpy(), flips[i].tolist(), float(angles[i]), shifts[i].tolist()
        )
        np.testing.assert_allclose(got[i].numpy(), wanted, atol=5e-3)


@pytest.mark.parametrize(("flip", "axis"), [((-1.0, 1.0), 3), ((1.0, -1.0), 2)])
def test_flip_mirrors(flip, axis):
    images = images_of(2, 7, 10)
    theta = affine_matrices(
        torch.tensor([flip, flip]), torch.zeros(2), torch.zeros(2, 2), height=7, width=10
    )
    torch.testing.assert_close(resample(images, theta), images.flip(axis), atol=2e-3, rtol=0)


def test_positive_shift_moves_right_and_down_and_repeats_the_border():
    images = images_of(1, 8, 8)
    theta = affine_matrices(
        torch.ones(1, 2), torch.zeros(1), torch.tensor([[2 / 8, 1 / 8]]), height=8, width=8
    )
    moved = resample(images, theta)
    torch.testing.assert_close(moved[..., 1:, 2:], images[..., :-1, :-2], atol=2e-3, rtol=0)
    torch.testing.assert_close(moved[..., 1:, 0], images[..., :-1, 0], atol=2e-3, rtol=0)


def test_positive_quarter_turn_is_clockwise():
    images = images_of(1, 9, 9)
    theta = affine_matrices(
        torch.ones(1, 2), torch.tensor([math.pi / 2]), torch.zeros(1, 2), height=9, width=9
    )
    turned = resample(images, theta)
    torch.testing.assert_close(turned, images.rot90(-1, dims=(2, 3)), atol=5e-3, rtol=0)


def test_draws_cover_their_ranges_and_differ_by_sample():
    flips, angles, shifts = Classical().draw(4000, torch.Generator().manual_seed(1))
    assert set(flips.unique().tolist()) == {-1.0, 1.0}
    assert (flips == -1).double().mean(dim=0) == pytest.approx([0.5, 0.5], abs=0.05)
    degrees = angles.rad2deg()
    assert 14.5 < float(degrees.max()) <= 15
    assert -15 <= float(degrees.min()) < -14.5
    for axis in range(2):
        assert 0.098 < float(shifts[:, axis].max()) <= 0.1
        assert -0.1 <= float(shifts[:, axis].min()) < -0.098
    assert len(angles.unique()) > 3900
    assert abs(float(torch.corrcoef(torch.stack([shifts[:, 0], shifts[:, 1]]))[0, 1])) < 0.1


def test_an_option_switched_off_leaves_the_other_draws():
    def draw(**options):
        return Classical(**options).draw(50, torch.Generator().manual_seed(2))

    flips, angles, shifts = draw()
    no_flips, same_angles, same_shifts = draw(horizontal_flip=False, vertical_flip=False)
    assert torch.equal(angles, same_angles)
    assert torch.equal(shifts, same_shifts)
    assert bool((no_flips == 1).all())
    only_vertical = draw(horizontal_flip=False)[0]
    assert bool((only_vertical[:, 0] == 1).all())
    assert torch.equal(only_vertical[:, 1], flips[:, 1])
    assert float(draw(max_rotation=0.0)[1].abs().max()) == 0.0
    assert float(draw(max_shift=0.0)[2].abs().max()) == 0.0


def test_same_generator_state_same_batch_and_input_untouched():
    images, labels = images_of(6, 12, 12), torch.arange(6)
    before = images.clone()
    first, same_labels = Classical()(images, labels, torch.Generator().manual_seed(5))
    again, _ = Classical()(images, labels, torch.Generator().manual_seed(5))
    other, _ = Classical()(images, labels, torch.Generator().manual_seed(6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(images, before)
    assert same_labels is labels
    assert first.dtype == torch.float32


def test_values_stay_within_each_image_and_channel():
    images = images_of(8, 13, 10) * 3 - 200  # SIGN's images leave 0–255
    got, _ = Classical()(images, torch.arange(8), torch.Generator().manual_seed(0))
    low, high = images.amin(dim=(2, 3)), images.amax(dim=(2, 3))
    assert bool((got.amin(dim=(2, 3)) >= low - 1e-3).all())
    assert bool((got.amax(dim=(2, 3)) <= high + 1e-3).all())


def test_empty_batch():
    got, _ = Classical()(torch.empty(0, 3, 8, 8), torch.empty(0), torch.Generator())
    assert got.shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"max_shift": -0.1}, "max_shift"),
        ({"max_shift": 4}, "max_shift"),
        ({"max_rotation": 181}, "max_rotation"),
        ({"max_rotation": float("nan")}, "max_rotation"),
    ],
)
def test_magnitudes_out_of_range_are_named(options, name):
    with pytest.raises(ValueError, match=name):
        Classical(**options)


@pytest.mark.gpu
def test_generator_on_the_cpu_gives_the_same_images_on_the_gpu():
    images, labels = images_of(16, 32, 32), torch.arange(16)
    on_cpu, _ = Classical()(images, labels, torch.Generator().manual_seed(1))
    on_gpu, _ = Classical()(images.cuda(), labels.cuda(), torch.Generator().manual_seed(1))
    assert on_gpu.is_cuda
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-2, rtol=0)
    generator = torch.Generator("cuda").manual_seed(1)
    assert Classical()(images.cuda(), labels.cuda(), generator)[0].shape == images.shape


@pytest.mark.parametrize(
    ("data", "flips"),
    [("digits", False), ("digits_imbalanced", False), ("cifar10", True), ("./digits", True)],
)
def test_digits_alone_are_never_mirrored(data, flips):
    suited = classical_for(data)
    drawn, _, _ = suited.draw(50, torch.Generator().manual_seed(5))
    assert bool((drawn == -1).any()) == flips
    assert (suited.max_shift, suited.max_rotation) == (0.10, 15.0)
