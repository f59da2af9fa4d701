"""The corruptions of CIFAR-10-C against definitions in NumPy, colorsys and Pillow."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sign_ext.commands.corruption_options import NAMES
from sign_ext.data import ImageSet
from sign_ext.evaluation import FAMILIES, Condition, corrupted, evaluate, evaluate_corrupted

SEVERITIES = (1, 2, 3, 4, 5)


def photos(count: int = 4, height: int = 11, width: int = 14, seed: int = 0) -> torch.Tensor:
    """Smooth colours with some noise, some grey and some black pixels."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 3, 4, generator=generator) * 255
    images = nn.functional.interpolate(small, (height, width), mode="bilinear")
    images += 8 * torch.randn(images.shape, generator=generator)
    images[:, :, 0, :3] = torch.tensor([0.0, 128.0, 255.0])
    return images.clamp(0, 255).round().to(torch.uint8)


def through_hsv(images: torch.Tensor, change) -> np.ndarray:
    """Change (h, s, v) of every pixel with the standard library."""
    pixels = images.permute(0, 2, 3, 1).double().numpy() / 255
    flat = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in pixels.reshape(-1, 3)]
    return np.array(flat).reshape(pixels.shape).transpose(0, 3, 1, 2) * 255


def by_name(name: str, severity: int, images: torch.Tensor, seed: int = 0) -> np.ndarray:
    found = corrupted(name, severity, images, torch.Generator().manual_seed(seed))
    assert found.dtype == torch.float32
    assert found.shape == images.shape
    return found.double().numpy()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_adds_to_v(severity):
    images = photos(seed=1)
    added = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    expected = through_hsv(images, lambda h, s, v: (h, s, min(1, v + added)))
    np.testing.assert_allclose(by_name("brightness", severity, images), expected, atol=2e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_scales_s(severity):
    images = photos(seed=2)
    a, b = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
    expected = through_hsv(images, lambda h, s, v: (h, min(1, max(0, s * a + b)), v))
    np.testing.assert_allclose(by_name("saturate", severity, images), expected, atol=2e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_moves_each_channel_towards_its_mean(severity):
    images = photos(seed=3)
    x = images.double().numpy() / 255
    mean = x.mean((2, 3), keepdims=True)
    c = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    expected = np.clip((x - mean) * c + mean, 0, 1) * 255
    np.testing.assert_allclose(by_name("contrast", severity, images), expected, atol=2e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_pillows_box_filter(severity):
    images = photos(count=2, height=32, width=32, seed=4)
    side = int(32 * [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1])
    found = by_name("pixelate", severity, images)
    for image, each in zip(images, found, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        small = picture.resize((side, side), Image.Resampling.BOX)
        expected = np.array(small.resize((32, 32), Image.Resampling.BOX)).transpose(2, 0, 1)
        np.testing.assert_array_equal(each.round(), expected)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_is_pillows(severity):
    images = photos(count=2, height=32, width=30, seed=5)
    found = by_name("jpeg_compression", severity, images)
    for image, each in zip(images, found, strict=True):
        buffer = io.BytesIO()
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture.save(buffer, "JPEG", quality=(80, 65, 58, 50, 40)[severity - 1])
        expected = np.array(Image.open(buffer)).transpose(2, 0, 1)
        np.testing.assert_array_equal(each.round(), expected)


def test_blur_is_a_gaussian_within_each_channel():
    images = torch.zeros(1, 3, 21, 21, dtype=torch.uint8)
    images[0, 1, 10, 10] = 255
    for severity, sigma in zip(SEVERITIES, (0.4, 0.6, 0.7, 0.8, 1.0), strict=True):
        found = by_name("gaussian_blur", severity, images)[0]
        reach = int(4 * sigma + 0.5)
        one = np.zeros(21)
        one[10 - reach : 11 + reach] = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        expected = 255 * np.outer(one, one) / one.sum() ** 2
        np.testing.assert_allclose(found[1], expected, atol=1e-3)
        assert not found[[0, 2]].any()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_published_size(severity):
    grey = torch.full((3, 3, 64, 64), 128, dtype=torch.uint8)
    share, count = 128 / 255, 3 * 3 * 64 * 64
    sigma = [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1]
    found = by_name("gaussian_noise", severity, grey, seed=6) / 255 - share
    # The standard error of a sample deviation is σ / √(2n); six of them are never reached.
    assert abs(found.std() / sigma - 1) < 6 / (2 * count) ** 0.5
    photons = [500, 250, 100, 75, 50][severity - 1]
    found = by_name("shot_noise", severity, grey, seed=7) / 255
    assert abs(found.std() / (share / photons) ** 0.5 - 1) < 8 / (2 * count) ** 0.5
    np.testing.assert_allclose(found * photons, np.rint(found * photons), atol=1e-3)
    speckle = [0.06, 0.10, 0.12, 0.16, 0.20][severity - 1]
    found = by_name("speckle_noise", severity, grey, seed=8) / 255 - share
    assert abs(found.std() / (speckle * share) - 1) < 6 / (2 * count) ** 0.5
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    found = by_name("impulse_noise", severity, grey, seed=9)
    assert set(np.unique(found.round()).tolist()) == {0, 128, 255}
    for value in (0, 255):
        error = (amount / 2 * (1 - amount / 2) / count) ** 0.5
        assert abs((found.round() == value).mean() - amount / 2) < 6 * error


@pytest.mark.parametrize("name", FAMILIES)
def test_every_corruption_stays_in_range_and_changes_images_more_with_severity(name):
    images = photos(height=32, width=32, seed=10)
    x = images.double().numpy()
    changes = []
    for severity in SEVERITIES:
        found = by_name(name, severity, images)
        assert found.min() >= 0
        assert found.max() <= 255
        changes.append(np.abs(found - x).mean())
    assert min(changes) > 0
    if name != "saturate":  # which takes colour away, then adds some
        assert changes == sorted(changes)


def test_images_of_one_channel_and_one_pixel_are_corrupted():
    for name in FAMILIES:
        for shape in ((1, 1, 5, 7), (1, 3, 1, 1)):
            found = corrupted(name, 5, torch.full(shape, 90.0), torch.Generator())
            assert found.shape == shape
            assert torch.isfinite(found).all()


def test_the_help_names_every_corruption():
    assert tuple(FAMILIES) == NAMES


def make_test_set(count: int = 150) -> tuple[nn.Module, ImageSet]:
    torch.manual_seed(11)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 3))
    generator = torch.Generator().manual_seed(12)
    images = torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8, generator=generator)
    with torch.no_grad():
        labels = model(images.float()).argmax(1)
    return model, ImageSet(images, labels, ("a", "b", "c"), "random/test")


def test_accuracy_counts_the_answers_to_the_corrupted_images():
    model, test = make_test_set()
    conditions = [Condition("contrast", 5), Condition("noise", 60.0), Condition("pixels_off", 9)]
    found = evaluate_corrupted(model, test, conditions, draws=3, seed=4)
    x = test.images.double().numpy()
    mean = x.mean((2, 3), keepdims=True)
    faded = torch.from_numpy((x - mean) * 0.15 + mean).float()
    with torch.no_grad():
        right = float((model(faded).argmax(1) == test.labels).double().mean())
    assert found[0].mean == pytest.approx(right, abs=1.5 / len(test))  # float32 against float64
    assert (found[0].draws, np.isnan(found[0].std)) == (1, True)
    # As `evaluate` draws them: the same pixels and the same noise.
    row = evaluate(model, test, draws=3, seed=4, sigma=60.0, num_off=9)
    assert (found[1].mean, found[1].std) == (row.noise_mean, row.noise_std)
    assert (found[2].mean, found[2].std) == (row.pixels_off_mean, row.pixels_off_std)


def test_corrupted_images_do_not_depend_on_batches_or_on_other_conditions():
    model, test = make_test_set()
    shot = Condition("shot_noise", 5)
    done = []
    one = evaluate_corrupted(
        model, test, [shot], draws=2, progress=lambda n, total: done.append((n, total))
    )
    other = evaluate_corrupted(model, test, [Condition("noise", 3.0), shot], draws=2, batch_size=64)
    assert one[0].mean == other[1].mean
    assert one[0].std == other[1].std
    assert done[-1] == (300, 300)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (Condition("contrasts", 1), "did you mean 'contrast'"),
        (Condition("contrast", 6), "accepted: 1 to 5"),
        (Condition("pixels_off", 37), "accepted: 0 to 36"),
        (Condition("noise", -1.0), "accepted: 0 or more"),
    ],
)
def test_what_is_not_accepted(condition, words):
    model, test = make_test_set(3)
    with pytest.raises(ValueError, match=words):
        evaluate_corrupted(model, test, [Condition("noise", 1.0), condition])
