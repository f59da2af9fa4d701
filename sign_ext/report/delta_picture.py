"""Ways to look at δ on an image: heat map, overlay, masked image, alpha scaling.

They are those of captum's `visualize_image_attr` and of grad-cam's `show_cam_on_image`, computed as
there, so that a picture of SIGN's δ can be put beside one of another method.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

# Each method, and what it shows.
METHODS: dict[str, str] = {
    "original": "the image",
    "heat_map": "the size of δ as a colour",
    "blended_heat_map": "the heat map over the image in grey (captum)",
    "overlay": "the heat map mixed with the image in colour (grad-cam)",
    "masked_image": "the image, darker where δ is small",
    "alpha_scaling": "the image, transparent where δ is small",
}
# Which part of δ is shown, and the colours it is shown in.
VALUES: dict[str, str] = {
    "absolute": "inferno",
    "all": "RdBu_r",
    "positive": "Reds",
    "negative": "Blues",
}
# These show how large δ is, which a sign has no place in.
UNSIGNED = ("masked_image", "alpha_scaling")


def normalized(delta: Tensor, values: str = "absolute", outlier_percentile: float = 2.0) -> Tensor:
    """Reduce δ to one number a pixel, in −1 … 1 for "all" and 0 … 1 otherwise.

    Channels are added with their signs, as in captum's `visualize_image_attr`; "absolute" adds
    |δ|, because a change of the colour alone would cancel. The scale is the smallest value for
    which all values up to it add up to 100 − outlier_percentile percent of the sum; larger values
    become 1.

    Args:
        delta: (C, H, W), the change of an image.
        values: "absolute", "all", "positive" or "negative".
        outlier_percentile: percent of the sum that the largest values may take; 0 … 100.

    Returns:
        float64 (H, W); zeros where there is nothing to show.

    Raises:
        ValueError: a shape, a name or a percentile that is not accepted.

    Example:
        >>> import torch
        >>> normalized(torch.tensor([[[1.0, -4.0]], [[0.0, 2.0]]]), "all", 0).tolist()
        [[0.5, -1.0]]
    """
    shown, scale = _reduced(delta, values, outlier_percentile)
    return shown.clamp(-scale, scale) / scale if scale > 0 else shown


def scale_of(delta: Tensor, values: str = "absolute", outlier_percentile: float = 2.0) -> float:
    """Return the value, Σ over the channels in grey levels, that `normalized` makes 1.

    Example:
        >>> import torch
        >>> scale_of(torch.tensor([[[1.0, -4.0]], [[0.0, 2.0]]]), "all", 0)
        2.0
    """
    return float(_reduced(delta, values, outlier_percentile)[1])


def color_scale(values: str, colormap: str | None = None) -> np.ndarray:
    """Draw the colours of a heat map from its lowest value to its highest, uint8 (1, 256, 3)."""
    return _bytes(_colors(np.linspace(0, 1, 256)[None], colormap or VALUES[values]))


def _reduced(delta: Tensor, values: str, outlier_percentile: float) -> tuple[Tensor, Tensor]:
    """Add δ over the channels, and find the value at which a picture's scale ends."""
    if delta.ndim != 3:
        raise ValueError(f"delta has shape {tuple(delta.shape)}; accepted: (C, H, W).")
    if values not in VALUES:
        raise ValueError(f"values={values!r}; accepted: {', '.join(VALUES)}.")
    if not 0 <= outlier_percentile <= 100:
        raise ValueError(f"outlier_percentile={outlier_percentile}; accepted: 0 to 100.")
    change = delta.detach().to("cpu").double()
    if values == "absolute":
        shown = change.abs().sum(0)
    else:
        shown = change.sum(0)
        if values == "positive":
            shown = shown.clamp(min=0)
        elif values == "negative":
            shown = (-shown).clamp(min=0)
    sizes = shown.abs().flatten().sort().values
    sums = sizes.cumsum(0)
    reached = sums >= sums[-1] * (0.01 * (100 - outlier_percentile))
    scale = sizes[int(reached.nonzero()[0])]
    if scale == 0:  # the largest values are all there is, or δ is zero
        scale = sizes[-1]
    return shown, scale


def delta_picture(
    method: str,
    image: Tensor,
    delta: Tensor,
    *,
    values: str = "absolute",
    outlier_percentile: float = 2.0,
    opacity: float = 0.5,
    colormap: str | None = None,
) -> np.ndarray:
    """Draw δ on an image.

    Args:
        method: a key of `METHODS`.
        image: (3, H, W) or (1, H, W), grey levels; clipped to 0–255.
        delta: shaped as image.
        values: which part of δ; "masked_image" and "alpha_scaling" take no "all".
        outlier_percentile: as for `normalized`.
        opacity: of the heat map in "blended_heat_map" and "overlay", 0 … 1 (captum's
            alpha_overlay, 1 − grad-cam's image_weight).
        colormap: a name of matplotlib's; None takes that of `VALUES`.

    Returns:
        uint8 (H, W, 3), or (H, W, 4) for "alpha_scaling".

    Raises:
        ValueError: an argument that is not accepted; the message names the accepted ones.

    Example:
        >>> import torch
        >>> image = torch.full((3, 1, 2), 200.0)
        >>> delta = torch.tensor([[[0.0, 3.0]]]).expand(3, 1, 2)
        >>> delta_picture("masked_image", image, delta)[0].tolist()
        [[0, 0, 0], [200, 200, 200]]
    """
    check_method(method, values)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity={opacity}; accepted: 0 to 1.")
    pixels = _pixels(image)
    if method == "original":
        return _bytes(pixels)
    strength = normalized(delta, values, outlier_percentile).numpy()
    if method == "masked_image":
        return _bytes(pixels * strength[..., None])
    if method == "alpha_scaling":
        return _bytes(np.concatenate([pixels, strength[..., None]], axis=2))
    heat = _colors((strength + 1) / 2 if values == "all" else strength, colormap or VALUES[values])
    if method == "heat_map":
        return _bytes(heat)
    if method == "blended_heat_map":
        grey = pixels.mean(2, keepdims=True)
        return _bytes((1 - opacity) * grey + opacity * heat)
    mixed = (1 - opacity) * pixels + opacity * heat
    return _bytes(mixed / max(mixed.max(), 1e-12))  # as bright as it can be, as grad-cam does


def check_method(method: str, values: str) -> None:
    """Raise ValueError unless `delta_picture` has the method, and it can show these values."""
    if method not in METHODS:
        raise ValueError(f"method={method!r}; accepted: {', '.join(METHODS)}.")
    if values not in VALUES:
        raise ValueError(f"values={values!r}; accepted: {', '.join(VALUES)}.")
    if values == "all" and method in UNSIGNED:
        raise ValueError(
            f"{method} shows how large δ is, and values='all' has signs; accepted: absolute, "
            "positive, negative."
        )


def signed_picture(delta: Tensor, scale: float) -> np.ndarray:
    """Draw δ in colour: grey is no change, white +scale or more, black −scale or less.

    Args:
        delta: (3, H, W) or (1, H, W), grey levels.
        scale: grey levels, above 0.

    Returns:
        uint8 (H, W, 3).
    """
    return _bytes(_pixels(128 + delta / scale * 127))


def _pixels(image: Tensor) -> np.ndarray:
    """(C, H, W) in grey levels → float64 (H, W, 3) in 0–1."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"image has shape {tuple(image.shape)}; accepted: (3, H, W) or (1, H, W).")
    colors = image.detach().to("cpu").double().clamp(0, 255).expand(3, -1, -1)
    pixels: np.ndarray = colors.permute(1, 2, 0).numpy() / 255
    return pixels


def _colors(values: np.ndarray, colormap: str) -> np.ndarray:
    import matplotlib

    try:
        chosen = matplotlib.colormaps[colormap]
    except KeyError:
        raise ValueError(
            f"colormap={colormap!r}; accepted: a name of matplotlib's, such as "
            f"{', '.join(VALUES.values())}, jet, viridis."
        ) from None
    colors: np.ndarray = chosen(values)[..., :3]
    return colors


def _bytes(pixels: np.ndarray) -> np.ndarray:
    whole: np.ndarray = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    return whole
