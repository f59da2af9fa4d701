"""Accuracy over the strength of corruptions, as one figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sign_ext.report.plots import (
    CLASS_COLORS,
    CLASS_MARKERS,
    LIGHT,
    LINE_STYLES,
    Theme,
    new_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sign_ext.evaluation import CorruptedAccuracy

PAPER = {"noise": "σ of Gaussian noise, grey levels", "pixels_off": "pixels off"}


def corruption_plot(
    clean: float, found: Sequence[CorruptedAccuracy], theme: Theme = LIGHT
) -> Figure:
    """Draw a panel for each of the paper's corruptions, and one for those with severities.

    Strength 0 is the clean images; bars are ± one standard deviation of the draws.

    Args:
        clean: accuracy on clean images, 0–1.
        found: at least one accuracy on corrupted images.
        theme: colours.
    """
    panels: dict[str, dict[str, list[CorruptedAccuracy]]] = {}
    for each in found:
        name = each.condition.name
        panel = panels.setdefault(PAPER.get(name, "severity"), {})
        panel.setdefault(name, []).append(each)
    widths = [3.4 if label != "severity" else 5.4 for label in panels]
    figure = new_figure(sum(widths), 4.0)
    figure.patch.set_facecolor("white")
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True, width_ratios=widths)[0]
    for axes, (label, families) in zip(grid, panels.items(), strict=True):
        style_axes(axes, theme)
        for order, (name, results) in enumerate(families.items()):
            _line(axes, order, name, clean, results, theme)
        axes.axhline(100 * clean, color=theme.quiet, linewidth=1.2, zorder=1)
        axes.set_xlabel(label)
        if label == "severity":
            axes.set_xticks(range(6), ["clean", "1", "2", "3", "4", "5"])
            axes.legend(
                frameon=False,
                fontsize=9,
                labelcolor=theme.text,
                loc="upper left",
                bbox_to_anchor=(1.0, 1.0),
            )
    grid[0].set_ylabel("accuracy, %")
    grid[0].set_ylim(bottom=0)
    return figure


def _line(
    axes: Axes,
    order: int,
    name: str,
    clean: float,
    results: Sequence[CorruptedAccuracy],
    theme: Theme,
) -> None:
    """Draw one corruption, from the clean images on."""
    ordered = sorted(results, key=lambda each: each.condition.strength)
    positive = [each for each in ordered if each.condition.strength > 0]
    deviations = [0.0 if math.isnan(each.std) else 100 * each.std for each in positive]
    # Clean images belong to the curve only where the next strength is the next severity.
    near = bool(positive) and (name in PAPER or positive[0].condition.strength == 1)
    start = [(0.0, 100 * clean, 0.0)] if near else []
    points = start + [
        (each.condition.strength, 100 * each.mean, deviation)
        for each, deviation in zip(positive, deviations, strict=True)
    ]
    x, y, error = zip(*points, strict=True) if points else ((0.0,), (100 * clean,), (0.0,))
    axes.errorbar(
        x,
        y,
        yerr=error,
        color=CLASS_COLORS[order % len(CLASS_COLORS)],
        linestyle=LINE_STYLES[order % len(LINE_STYLES)],
        marker=CLASS_MARKERS[order % len(CLASS_MARKERS)],
        markersize=5,
        linewidth=1.6,
        capsize=2.5,
        label=name.replace("_", " "),
    )
