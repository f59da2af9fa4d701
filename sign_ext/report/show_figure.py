"""What SIGN does to a few images as one matplotlib figure: pictures, answers and histograms."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sign_ext.report.delta_picture import check_method, delta_picture, signed_picture
from sign_ext.report.plots import (
    LIGHT,
    LINE_STYLES,
    Theme,
    new_figure,
    style_axes,
    svg_file,
    wrap,
)
from sign_ext.report.shown import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFAULT_METHODS = ("overlay",)
FORMATS = (".png", ".svg", ".pdf")
INCH = 1.45  # a picture's side
_NAMES = {
    "original": "original",
    "heat_map": "heat map",
    "blended_heat_map": "heat map on grey",
    "overlay": "heat map on image",
    "masked_image": "masked image",
    "alpha_scaling": "alpha scaling",
}
_VALUES = {"absolute": "|δ|", "all": "δ", "positive": "δ > 0", "negative": "δ < 0"}


@dataclass(frozen=True)
class Look:
    """How δ is drawn on an image; the arguments of `delta_picture`.

    Attributes:
        methods: which pictures, in order.
        values: "absolute", "all", "positive" or "negative".
        outlier_percentile: percent of |δ| that the largest values may take.
        opacity: of the heat map over an image.
        colormap: a name of matplotlib's; None takes that of `values`.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    values: str = "absolute"
    outlier_percentile: float = 2.0
    opacity: float = 0.5
    colormap: str | None = None

    def check(self) -> None:
        """Raise ValueError unless each picture can be drawn, before anything is computed."""
        import torch

        for method in self.methods:
            check_method(method, self.values)
        dot = torch.ones(1, 1, 1)
        for method in {"heat_map", *self.methods}:
            if method in self.methods or self.values != "all":
                self._draw(method, dot, dot)

    def title(self, method: str) -> str:
        """What stands above a picture."""
        if method == "original":
            return _NAMES[method]
        return f"{_VALUES[self.values]}, {_NAMES[method]}"

    def _draw(self, method: str, image: Any, delta: Any) -> np.ndarray:
        return delta_picture(
            method,
            image,
            delta,
            values=self.values,
            outlier_percentile=self.outlier_percentile,
            opacity=self.opacity,
            colormap=self.colormap,
        )

    def pictures(self, shown: Shown, place: int) -> dict[str, np.ndarray]:
        """Draw everything that is shown of one image.

        Args:
            shown: the images.
            place: which of them.

        Returns:
            Title → uint8 (H, W, 3 or 4): before, each K, δ, and the methods.
        """
        image, delta = shown.originals[place], shown.delta[place]
        found = {"before": delta_picture("original", image, delta)}
        for k, images in sorted(shown.snapshots.items()):
            found[f"K = {k}"] = delta_picture("original", images[place], delta)
        found[f"δ, K = {shown.last}"] = signed_picture(delta, shown.scale)
        for method in self.methods:
            found[self.title(method)] = self._draw(method, image, delta)
        return found


def show_figure(shown: Shown, look: Look, theme: Theme = LIGHT) -> Figure:
    """Draw a row of pictures for each image, and histograms below them.

    Args:
        shown: the images.
        look: how δ is drawn on them.
        theme: colours of text and lines.
    """
    rows = [look.pictures(shown, place) for place in range(len(shown))]
    titles = list(rows[0])
    width, height = INCH * len(titles) + 1.5, (INCH + 0.25) * len(rows) + 0.4
    figure = new_figure(max(width, 7.0), height + 3.2)
    blocks = figure.subfigures(2, 1, height_ratios=(height, 3.2), squeeze=False)
    upper, lower = blocks[0][0], blocks[1][0]
    grid = upper.subplots(len(rows), len(titles), squeeze=False)
    for place, (pictures, across) in enumerate(zip(rows, grid, strict=True)):
        for title, axes in zip(titles, across, strict=True):
            axes.imshow(pictures[title], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            lines = [title] if place == 0 else []
            if answer := _answer(shown, title, place):
                lines.append(answer)
            axes.set_title(
                "\n".join(wrap(line, INCH) for line in lines), fontsize=9, color=theme.text
            )
        name = shown.labels[place] if shown.labels else f"image {place + 1}"
        across[0].set_ylabel(
            wrap(name, 1.3), rotation=0, ha="right", va="center", fontsize=10, color=theme.text
        )
    left, right = lower.subplots(1, 2)
    draw_histogram(left, *shown.histogram(), "grey level", theme)
    draw_histogram(right, *shown.change_histogram(), "change in grey levels", theme, first=1)
    return figure


def _answer(shown: Shown, title: str, place: int) -> str:
    """What the network answers to the picture of this title, "" if it is not asked."""
    for k, answers in shown.answers.items():
        if title == ("before" if k == 0 else f"K = {k}"):
            return str(answers[place])
    return ""


def draw_histogram(
    axes: Axes,
    edges: np.ndarray,
    shares: dict[str, np.ndarray],
    label: str,
    theme: Theme,
    first: int = 0,
) -> None:
    """Draw shares of values as steps, on a logarithmic axis.

    Args:
        axes: to draw on.
        edges: of the bins.
        shares: name → a share for each bin.
        label: of the horizontal axis.
        theme: colours.
        first: which of the theme's lines the first one is drawn as.
    """
    from matplotlib.ticker import FuncFormatter

    style_axes(axes, theme)
    for order, (name, values) in enumerate(shares.items(), first):
        axes.stairs(
            100 * values,
            edges,
            label=name,
            color=theme.lines[order % len(theme.lines)],
            linestyle=LINE_STYLES[order % len(LINE_STYLES)],
            linewidth=1.6,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.set_xlabel(label)
    axes.set_ylabel("values, %")
    axes.legend(frameon=False, fontsize=9.5, labelcolor=theme.text)


def histogram_svg(
    edges: np.ndarray, shares: dict[str, np.ndarray], label: str, theme: Theme, first: int = 0
) -> bytes:
    """Draw a histogram alone, as SVG with a transparent background; arguments as above."""
    figure = new_figure(5.4, 3.6)
    figure.patch.set_alpha(0)
    draw_histogram(figure.subplots(), edges, shares, label, theme, first)
    return svg_file(figure)


def figure_file(figure: Figure, path: Path) -> bytes:
    """Return a figure as the content of a file, by the suffix of its name.

    Args:
        figure: to save.
        path: a name that ends in one of `FORMATS`.
    """
    if path.suffix == ".svg":
        figure.patch.set_facecolor("white")
        return svg_file(figure)
    buffer = io.BytesIO()
    kind = path.suffix.removeprefix(".")
    metadata: dict[str, Any] = {"Software": None} if kind == "png" else {"CreationDate": None}
    figure.savefig(buffer, format=kind, dpi=140, facecolor="white", metadata=metadata)
    return buffer.getvalue()
