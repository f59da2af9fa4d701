"""δ on an image against captum's and grad-cam's definitions, written out in NumPy."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch

from sign_ext.report.delta_picture import (
    METHODS,
    VALUES,
    color_scale,
    delta_picture,
    normalized,
    scale_of,
    signed_picture,
)


def captum_normalized(attribution: np.ndarray, sign: str, outliers: float) -> np.ndarray:
    """`captum.attr._utils.visualization._normalize_attr` over (H, W, C)."""

    def threshold(values: np.ndarray) -> float:
        ordered = np.sort(values.flatten())
        sums = np.cumsum(ordered)
        return ordered[np.where(sums >= sums[-1] * 0.01 * (100 - outliers))[0][0]]

    combined = attribution.sum(2)
    if sign == "all":
        scale = threshold(np.abs(combined))
    elif sign == "positive":
        combined = (combined > 0) * combined
        scale = threshold(combined)
    else:
        combined = (combined < 0) * combined
        scale = -threshold(np.abs(combined))
    return np.clip(combined / scale, -1, 1)


def example(seed: int, channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(channels, 7, 5, generator=generator) * 300 - 20
    return image, torch.randn(channels, 7, 5, generator=generator) * 9


@pytest.mark.parametrize("outliers", [0.0, 2.0, 35.0])
@pytest.mark.parametrize("values", ["all", "positive", "negative"])
def test_values_are_scaled_as_captum_does(values, outliers):
    _, delta = example(1)
    expected = captum_normalized(delta.double().permute(1, 2, 0).numpy(), values, outliers)
    found = normalized(delta, values, outliers).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_the_scale_is_where_a_picture_becomes_one():
    _, delta = example(8)
    for values in VALUES:
        found = normalized(delta, values).numpy()
        shown = delta.double().abs().sum(0) if values == "absolute" else delta.double().sum(0)
        if values in ("positive", "negative"):
            shown = (shown if values == "positive" else -shown).clamp(min=0)
        end = scale_of(delta, values)
        np.testing.assert_allclose(found, np.clip(shown.numpy() / end, -1, 1), rtol=1e-12)
        assert np.abs(found).max() == 1


def test_the_colours_of_the_scale_are_those_of_the_picture():
    strip = color_scale("positive", "viridis")
    assert strip.shape == (1, 256, 3)
    ends = matplotlib.colormaps["viridis"]([0.0, 1.0])[:, :3]
    np.testing.assert_array_equal(strip[0, [0, -1]], np.rint(255 * ends))


def test_absolute_adds_sizes_so_that_a_change_of_colour_is_seen():
    delta = torch.zeros(3, 1, 2)
    delta[0, 0, 0], delta[2, 0, 0] = 10, -10
    delta[1, 0, 1] = 5
    assert normalized(delta, "absolute", 0).tolist() == [[1.0, 0.25]]
    assert normalized(delta, "all", 0).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("outliers", [0.0, 2.0, 100.0])
def test_no_change_is_drawn_as_none(values, outliers):
    assert not normalized(torch.zeros(3, 4, 4), values, outliers).any()


def test_heat_maps_are_the_colours_of_matplotlib():
    image, delta = example(2)
    for values, colormap in VALUES.items():
        strength = normalized(delta, values).numpy()
        shown = (strength + 1) / 2 if values == "all" else strength
        expected = matplotlib.colormaps[colormap](shown, bytes=False)[..., :3]
        found = delta_picture("heat_map", image, delta, values=values)
        np.testing.assert_array_equal(found, np.rint(255 * expected))


def test_blended_heat_map_is_captums_composition():
    image, delta = example(3)
    strength = captum_normalized(delta.double().permute(1, 2, 0).numpy(), "positive", 2)
    heat = matplotlib.colormaps["viridis"](strength)[..., :3]
    grey = image.double().clamp(0, 255).mean(0).numpy()[..., None] / 255
    expected = np.rint(255 * (0.3 * heat + 0.7 * grey))
    found = delta_picture(
        "blended_heat_map", image, delta, values="positive", opacity=0.3, colormap="viridis"
    )
    np.testing.assert_array_equal(found, expected)


def test_overlay_is_grad_cams():
    """`show_cam_on_image`: weighted sum, divided by its largest value."""
    image, delta = example(4)
    strength = normalized(delta).numpy()
    heat = matplotlib.colormaps["jet"](strength)[..., :3]
    pixels = image.double().clamp(0, 255).permute(1, 2, 0).numpy() / 255
    weight = 0.6
    cam = (1 - weight) * heat + weight * pixels
    found = delta_picture("overlay", image, delta, opacity=0.4, colormap="jet")
    np.testing.assert_array_equal(found, np.rint(255 * cam / cam.max()))


def test_masked_image_and_alpha_scaling():
    image, delta = example(5)
    strength = normalized(delta, "negative").numpy()[..., None]
    pixels = image.double().clamp(0, 255).permute(1, 2, 0).numpy()
    masked = delta_picture("masked_image", image, delta, values="negative")
    np.testing.assert_array_equal(masked, np.rint(pixels * strength))
    alpha = delta_picture("alpha_scaling", image, delta, values="negative")
    np.testing.assert_array_equal(alpha[..., :3], np.rint(pixels))
    np.testing.assert_array_equal(alpha[..., 3:], np.rint(255 * strength))


def test_signed_picture_is_grey_where_nothing_changes():
    delta = torch.tensor([[[0.0, 4.0, -4.0, 2.0, 400.0]]])
    # 128 + 127 · δ / scale, in every colour of a grey image
    assert signed_picture(delta, 4.0)[0].tolist() == [[g] * 3 for g in (128, 255, 1, 192, 255)]


def test_grey_images_have_every_picture():
    image, delta = example(6, channels=1)
    for method in METHODS:
        found = delta_picture(method, image, delta)
        assert found.shape == (7, 5, 4 if method == "alpha_scaling" else 3)
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "heatmap"}, "accepted: original, heat_map"),
        ({"values": "signed"}, "accepted: absolute, all"),
        ({"method": "masked_image", "values": "all"}, "accepted: absolute, positive, negative"),
        ({"opacity": 1.5}, "accepted: 0 to 1"),
        ({"outlier_percentile": 101}, "accepted: 0 to 100"),
        ({"colormap": "infernal"}, "a name of matplotlib's"),
        ({"image": torch.zeros(4, 7, 5)}, "(3, H, W) or (1, H, W)"),
    ],
)
def test_what_is_not_accepted(arguments, words):
    image, delta = example(7)
    given = {"method": "overlay", "image": image, "delta": delta, **arguments}
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its words are compared)
        delta_picture(**given)
    assert words in str(caught.value)
