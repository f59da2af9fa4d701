"""`sign_ext.show`: look at what SIGN does to images, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from sign_ext.sign import SignTransform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_IMAGES = 64  # rows of a figure; more would be taller than viewers show


def show(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int] | None = None,
    *,
    steps: Sequence[int] = (50, 100),
    step_size: float | Literal["auto"] = "auto",
    class_names: Sequence[str] = (),
    pixel_range: float = 255.0,
    methods: Sequence[str] = ("overlay",),
    values: str = "absolute",
    outlier_percentile: float = 2.0,
    opacity: float = 0.5,
    colormap: str | None = None,
    **options: Any,
) -> Figure:
    """Draw images before and after SIGN, their change δ, and the network's answers.

    A row is an image: before, p*_K for each K, δ in colour (grey is no change), and δ by each of
    `methods`. Above the pictures is the network's most probable class with its probability. Below
    are histograms of the grey levels, before and after, and of the change, over all the images.

    Args:
        model: a trained classifier; left exactly as it is.
        images: (N, 3, H, W) or (N, 1, H, W), uint8 or floating, in the units the network takes; at
            most 64.
        labels: (N,) classes, which name the rows.
        steps: the K to show, in steps of one trajectory.
        step_size: what δ is multiplied by in each step; "auto" takes what `calibrate` proposes for
            these images, a change of 2% of `pixel_range` (rms) after the largest K.
        class_names: in the order of the network's outputs.
        pixel_range: what the images' units span: 255, or 1 for images in 0–1.
        methods: pictures of δ on the image: "heat_map", "blended_heat_map", "overlay",
            "masked_image", "alpha_scaling" or "original".
        values: which part of δ these show: "absolute", "all", "positive" or "negative".
        outlier_percentile: percent of the sum of |δ| that the largest values may take; they are
            shown like the largest of the others.
        opacity: of the heat map over the image, 0 … 1.
        colormap: a name of matplotlib's.
        **options: further options of `SignTransform`: layer, momentum, clamp, backend …

    Returns:
        A `matplotlib.figure.Figure`, drawn without pyplot: a notebook shows it, and
        `figure.savefig("sign.png")` writes it.

    Raises:
        ValueError: images without a picture (signals, volumes, other channels), or an argument
            that is not accepted.
        ImportError: matplotlib is not installed.
        TypeError, SourceLayerError, BackendError, DivergenceError: as `SignTransform`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import sign_ext
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> images = torch.rand(2, 3, 8, 8) * 255
        >>> figure = sign_ext.show(model, images, [0, 1], steps=(2, 4), class_names=("cat", "dog"))
        >>> len(figure.axes)  # two rows of five pictures, two histograms
        12
    """
    try:
        from sign_ext.report.show_figure import Look, show_figure
    except ImportError as error:
        raise _without_matplotlib(error) from error
    from sign_ext.report.shown import Shown, answers_of, to_grey_levels

    look = Look(tuple(methods), values, outlier_percentile, opacity, colormap)
    try:
        look.check()
    except ImportError as error:
        raise _without_matplotlib(error) from error
    if images.ndim == 4 and len(images) > MOST_IMAGES:
        raise ValueError(
            f"images has {len(images)} images; accepted: at most {MOST_IMAGES}, a row each. Pass "
            f"images[:{MOST_IMAGES}]"
        )
    wanted = tuple(sorted(set(steps)))
    if not wanted:
        raise ValueError("steps is empty; accepted: at least one number of steps, such as (50,).")
    given = None if labels is None else torch.as_tensor(labels)
    if given is not None and given.shape != (len(images),):
        raise ValueError(f"labels has shape {tuple(given.shape)}; accepted: ({len(images)},).")
    floating = images if images.is_floating_point() else images.float()
    originals = to_grey_levels(floating, pixel_range)
    # Refuses what has no picture before any step is taken.
    Shown(originals, {wanted[-1]: originals})
    first = 1.0 if step_size == "auto" else step_size
    sign = SignTransform(model, wanted[-1], snapshots=wanted, step_size=first, **options)
    if step_size == "auto":
        table = sign.calibrate(floating, steps=wanted[-1], step_sizes=(), pixel_range=pixel_range)
        sign = sign.with_options(step_size=table.proposed)
    result = sign.transform(floating)
    moved = result if isinstance(result, dict) else {wanted[-1]: result}
    names = _label_names(given, class_names)
    shown = Shown(
        originals,
        {k: to_grey_levels(moved[k], pixel_range) for k in wanted},
        names,
        (),
        answers_of(model, {0: floating, **moved}, class_names),
        float(sign.settings.step_size),
    )
    return show_figure(shown, look)


def _label_names(labels: Tensor | None, class_names: Sequence[str]) -> tuple[str, ...]:
    if labels is None:
        return ()
    known = dict(enumerate(class_names))
    return tuple(known.get(label, f"class {label}") for label in labels.tolist())


def _without_matplotlib(error: ImportError) -> ImportError:
    if (error.name or "").partition(".")[0] != "matplotlib":
        return error
    return ImportError(
        "sign_ext.show draws with matplotlib, which is not installed: pip install matplotlib",
        name="matplotlib",
    )
