"""DeepAugment's operations against float64 definitions and against other libraries."""

import math

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as v2

from sign_ext.augment import OPERATION_NAMES, Operation, operation_names
from sign_ext.augment.operations import OPERATIONS, UNIFORMS

HEIGHT, WIDTH = 11, 8
ROUGH = ("brightness", "noise", "posterize")  # not linear in the pixels


@pytest.fixture
def images(torch_rng):
    """As SIGN's: neither whole numbers nor within 0–255."""
    return torch.rand(6, 3, HEIGHT, WIDTH, generator=torch_rng) * 500 - 120


@pytest.fixture
def uniform(torch_rng):
    return torch.rand(6, UNIFORMS, generator=torch_rng)


def apply(name, magnitude, images, uniform, seed=0):
    return Operation(name, magnitude)(images, uniform, torch.Generator().manual_seed(seed))


def signs(uniform):
    return np.where(uniform[:, 0].numpy() < 0.5, -1.0, 1.0)


def read_at(image, matrix, offset):
    """Read one (C, H, W) image at matrix·(x, y) + offset, in pixels from its centre."""
    out = np.empty(image.shape)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            place = np.array([column - (WIDTH - 1) / 2, row - (HEIGHT - 1) / 2])
            u, v = matrix @ place + offset
            u = min(max(u + (WIDTH - 1) / 2, 0), WIDTH - 1)
            v = min(max(v + (HEIGHT - 1) / 2, 0), HEIGHT - 1)
            left, top = min(int(u), WIDTH - 2), min(int(v), HEIGHT - 2)
            across = np.array([1 - (u - left), u - left])
            down = np.array([1 - (v - top), v - top])
            out[:, row, column] = down @ image[:, top : top + 2, left : left + 2] @ across
    return out


def shear_x(sign, numbers):
    return np.array([[1, sign * 0.3 * 0.8], [0, 1]]), np.zeros(2)


def shear_y(sign, numbers):
    return np.array([[1, 0], [sign * 0.3 * 0.8, 1]]), np.zeros(2)


def translate_x(sign, numbers):
    return np.eye(2), np.array([-sign * 0.45 * 0.8 * WIDTH, 0])


def translate_y(sign, numbers):
    return np.eye(2), np.array([0, -sign * 0.45 * 0.8 * HEIGHT])


def rotate(sign, numbers):
    angle = sign * math.radians(30 * 0.8)
    turn = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
    return np.array(turn), np.zeros(2)


def zoom(sign, numbers):
    # The window is 0.6 of each side; its left edge runs from 0 to 0.4 of the width.
    left, top = 0.4 * numbers[1] * WIDTH, 0.4 * numbers[2] * HEIGHT
    centre = [left + 0.3 * WIDTH - WIDTH / 2, top + 0.3 * HEIGHT - HEIGHT / 2]
    return 0.6 * np.eye(2), np.array(centre)


@pytest.mark.parametrize(
    "definition",
    [shear_x, shear_y, translate_x, translate_y, rotate, zoom],
    ids=lambda f: f.__name__,
)
def test_geometry_equals_the_definition(definition, images, uniform):
    got = apply(definition.__name__, 0.8, images, uniform)
    for i, sign in enumerate(signs(uniform)):
        matrix, offset = definition(sign, uniform[i].tolist())
        wanted = read_at(images[i].double().numpy(), matrix, offset)
        np.testing.assert_allclose(got[i].numpy(), wanted, atol=5e-3)


@pytest.mark.parametrize(("name", "axis"), [("horizontal_flip", 2), ("vertical_flip", 1)])
def test_flips_are_exact_and_their_magnitude_is_a_probability(name, axis, images, uniform):
    got = apply(name, 0.6, images, uniform)
    for image, was, number in zip(got, images, uniform[:, 0], strict=True):
        assert torch.equal(image, was.flip(axis) if number < 0.6 else was)
    assert torch.equal(apply(name, 1.0, images, uniform), images.flip(axis + 1))


def test_brightness_adds_grey_levels(images, uniform):
    got = apply("brightness", 0.5, images, uniform)
    moved = (got.double() - images).mean(dim=(1, 2, 3)).numpy()
    np.testing.assert_allclose(moved, 20 * signs(uniform), rtol=1e-5)


@pytest.mark.parametrize("name", ["contrast", "saturation"])
def test_colours_equal_torchvision_where_it_does_not_clamp(name, torch_rng, uniform):
    mild = 0.4 + 0.2 * torch.rand(6, 3, HEIGHT, WIDTH, generator=torch_rng)
    got = apply(name, 1.0, mild * 255, uniform) / 255
    for i, sign in enumerate(signs(uniform)):
        adjust = getattr(v2, f"adjust_{name}")
        torch.testing.assert_close(got[i], adjust(mild[i], 1 + sign * 0.9), atol=2e-4, rtol=0)


def test_sharpness_goes_away_from_the_blurred_image_and_towards_it(images, uniform):
    from scipy import ndimage

    got = apply("sharpness", 0.5, images, uniform)
    for i, sign in enumerate(signs(uniform)):
        for c in range(3):
            plane = images[i, c].double().numpy()
            blurred = ndimage.gaussian_filter(plane, 1.0, radius=1, mode="mirror")
            wanted = plane + sign * 0.45 * (plane - blurred)
            np.testing.assert_allclose(got[i, c].numpy(), wanted, atol=1e-3)


def test_posterize_leaves_multiples_of_the_step(images, uniform):
    got = apply("posterize", 0.5, images, uniform).double().numpy()
    np.testing.assert_allclose(got / 32, np.round(got / 32), atol=1e-6)
    assert np.abs(got - images.double().numpy()).max() <= 16 + 1e-3
    assert got.min() < 0  # nothing is clipped


def test_solarize_folds_the_top_of_each_images_range(images, uniform):
    got = apply("solarize", 0.7, images, uniform)
    for image, was in zip(got.double().numpy(), images.double().numpy(), strict=True):
        threshold = was.max() - 0.35 * (was.max() - was.min())
        wanted = np.minimum(was, 2 * threshold - was)
        np.testing.assert_allclose(image, wanted, atol=1e-3)
        assert image.min() >= was.min() - 1e-3


def test_cutout_fills_one_square_with_the_channels_mean(images, uniform):
    got = apply("cutout", 0.9, images, uniform).double().numpy()
    half = 0.5 * 0.9 * WIDTH / 2
    for i in range(6):
        was = images[i].double().numpy()
        y, x = uniform[i, 1].item() * HEIGHT, uniform[i, 2].item() * WIDTH
        cut = 0
        for row in range(HEIGHT):
            for column in range(WIDTH):
                inside = abs(row + 0.5 - y) < half and abs(column + 0.5 - x) < half
                cut += inside
                wanted = was.mean(axis=(1, 2)) if inside else was[:, row, column]
                np.testing.assert_allclose(got[i, :, row, column], wanted, atol=1e-3)
        assert cut > 0


def test_noise_is_gaussian_with_its_deviation_and_the_generators(uniform):
    flat = torch.full((6, 3, 40, 40), 100.0)
    got = apply("noise", 0.5, flat, uniform, seed=8) - 100
    assert float(got.mean()) == pytest.approx(0, abs=0.5)
    assert float(got.std()) == pytest.approx(15, rel=0.02)
    assert torch.equal(apply("noise", 0.5, flat, uniform, seed=8) - 100, got)
    assert not torch.equal(apply("noise", 0.5, flat, uniform, seed=9) - 100, got)


@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_magnitude_0_returns_the_images_and_a_small_one_hardly_changes_them(name, images, uniform):
    assert apply(name, 0.0, images, uniform) is images
    before = images.clone()
    barely = apply(name, 1e-4, images, uniform.clamp(min=1e-3))
    assert float((barely - images).abs().max()) < 0.5
    changed = apply(name, 1.0, images, uniform)
    assert float((changed - images).abs().max()) > 1
    assert changed.dtype == torch.float32
    assert changed.shape == images.shape
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [name for name in OPERATION_NAMES if name not in ROUGH])
def test_nothing_is_rounded_or_clipped(name, images, uniform):
    """Each is homogeneous and shifts with its input, so pixel values have no special places."""
    plain = apply(name, 0.7, images, uniform)
    scaled = apply(name, 0.7, 3.0 * images - 200.0, uniform)
    torch.testing.assert_close(scaled, 3.0 * plain - 200.0, atol=2e-2, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in OPERATION_NAMES if name != "noise"])
def test_an_image_does_not_depend_on_its_batch(name, images, uniform):
    together = apply(name, 0.6, images, uniform)
    for i in range(6):
        alone = apply(name, 0.6, images[i : i + 1], uniform[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=0)


def test_names_without_flips():
    assert operation_names() == OPERATION_NAMES == tuple(OPERATIONS)
    left_out = set(OPERATION_NAMES) - set(operation_names(flips=False))
    assert left_out == {"horizontal_flip", "vertical_flip"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("rotat", 0.5), "'rotat'; accepted: shear_x.*Did you mean 'rotate'"),
        ((3, 0.5), "name is 3"),
        (("rotate", 1.5), r"magnitude is 1.5; accepted: a number in \[0, 1\]"),
        (("rotate", -0.1), "-0.1"),
        (("rotate", float("nan")), "nan"),
        (("rotate", True), "True"),
        (("rotate", "0.5"), "'0.5'"),
    ],
)
def test_anything_but_an_operation_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Operation(*values)


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATION_NAMES)
def test_the_gpu_gives_the_same(name, images, uniform):
    on_gpu = apply(name, 0.8, images.cuda(), uniform.cuda())
    wanted = apply(name, 0.8, images, uniform)
    torch.testing.assert_close(on_gpu.cpu(), wanted, atol=1e-2, rtol=0)
