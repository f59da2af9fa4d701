"""Figures of several panels: embeddings of features (t-SNE) and reliability of confidences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sign_ext.formatting import percent
from sign_ext.report.canvas import (
    CLASS_COLORS,
    CLASS_MARKERS,
    LINE_COLORS,
    LINE_COLORS_DARK,
    legend,
    legend_shape,
    new_figure,
    plain_text,
    wrapped,
)
from sign_ext.report.demo_figures import DARK, Theme, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

MANY_POINTS = 1500  # beyond, points are a picture inside the SVG: each costs about 100 bytes in it


def draw_scatter(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a "scatter" figure: a panel an embedding, a colour and a marker a class."""
    panels = data["panels"]
    across = max(1, min(data["columns"], len(panels)))
    down = math.ceil(len(panels) / across)
    side = max(2.4, min(3.4, 10.4 / across))
    columns, rows = legend_shape(data["classes"], side * across)
    figure = new_figure(side * across, (side + 0.3) * down + 0.24 * rows)
    grid = figure.subplots(down, across, squeeze=False)
    points = sum(len(panel["x"]) for panel in panels)
    each = max((len(panel["x"]) for panel in panels), default=1)
    size = min(30.0, max(7.0, 12000 / max(each, 1)))
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
            continue
        _embedding(axes, panels[place], data["classes"], size, points > MANY_POINTS, theme)
        axes.set_title(wrapped(panels[place]["title"], side), color=theme.text, fontsize=11)
    key = legend(figure, theme, columns, grid[0][0])
    for handle in key.legend_handles:
        handle.set(sizes=[40], alpha=1)
    return figure


def _embedding(
    axes: Axes,
    panel: Mapping[str, Any],
    classes: Sequence[str],
    size: float,
    rasterized: bool,
    theme: Theme,
) -> None:
    """Draw one panel's points; its axes have no unit, and so no numbers."""
    for index, name in enumerate(classes):
        mine = [i for i, label in enumerate(panel["label"]) if label == index]
        axes.scatter(
            [panel["x"][i] for i in mine],
            [panel["y"][i] for i in mine],
            s=size,
            marker=CLASS_MARKERS[index % len(CLASS_MARKERS)],
            color=CLASS_COLORS[index % len(CLASS_COLORS)],
            alpha=0.75,
            linewidths=0,
            rasterized=rasterized,
            label=plain_text(name),
        )
    axes.patch.set_alpha(0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(theme.quiet)


def expected_calibration_error(panel: Mapping[str, Any]) -> float | None:
    """Return Σ n_b/n · |accuracy − confidence| over the bins; None without images.

    Args:
        panel: of a "reliability" figure.
    """
    total = sum(panel["count"])
    bins = zip(panel["count"], panel["accuracy"], panel["confidence"], strict=True)
    gaps = [n * abs(a - c) for n, a, c in bins if n and a is not None and c is not None]
    return sum(gaps) / total if total else None


def draw_reliability(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a "reliability" figure: bars are accuracies, diamonds each bin's mean confidence."""
    panels = data["panels"]
    across = max(1, min(3, len(panels)))
    down = math.ceil(len(panels) / across)
    figure = new_figure(3.3 * across, 3.9 * down)
    color, mark = (LINE_COLORS_DARK if theme is DARK else LINE_COLORS)[:2]
    blocks = figure.subfigures(down, across, squeeze=False)
    for block, panel in zip(blocks.flat, panels, strict=False):
        block.patch.set_alpha(0)
        _calibration(block, panel, color, mark, theme)
    return figure


def _calibration(
    block: SubFigure, panel: Mapping[str, Any], color: str, mark: str, theme: Theme
) -> None:
    """Draw accuracy against confidence, and below it how many images each bin holds."""
    upper, lower = block.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    bins = len(panel["count"])
    middles = [100 * (b + 0.5) / bins for b in range(bins)]
    total = sum(panel["count"])
    for axes in (upper, lower):
        dress(axes, theme)
    upper.plot([0, 100], [0, 100], "--", color=theme.text, linewidth=1)
    known = [b for b in range(bins) if panel["accuracy"][b] is not None and panel["count"][b]]
    upper.bar(
        [middles[b] for b in known],
        [100 * panel["accuracy"][b] for b in known],
        width=94 / bins,
        color=color,
        alpha=0.75,
        linewidth=0,
    )
    where = [b for b in known if panel["confidence"][b] is not None]
    upper.plot(
        [100 * panel["confidence"][b] for b in where],
        [100 * panel["accuracy"][b] for b in where],
        "D",
        color=mark,
        markersize=4.5,
    )
    lower.bar(middles, _shares(panel["count"], total), width=94 / bins, color=theme.text, alpha=0.5)
    for axes in (upper, lower):
        axes.xaxis.label.set_fontsize(10.5)
        axes.yaxis.label.set_fontsize(10.5)
        axes.tick_params(labelsize=10)
    upper.set(xlim=(0, 100), ylim=(0, 102), ylabel="accuracy, %")
    lower.set(xlabel="confidence, %", ylabel="images, %")
    error = percent(expected_calibration_error(panel))
    title = f"{wrapped(panel['title'], 3.0)}\ncalibration error {error}%"
    upper.set_title(title, color=theme.text, fontsize=11)


def _shares(counts: Sequence[int], total: int) -> list[float]:
    return [100 * count / total if total else 0.0 for count in counts]
