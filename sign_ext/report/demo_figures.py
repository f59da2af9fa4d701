"""The demo's figures: training curves, accuracies with error bars, the picture of samples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sign_ext.formatting import binomial_error, mean_and_deviation
from sign_ext.report.plots import DARK, LIGHT, Samples, Theme, new_figure, style_axes, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "classical": "Classical",
    "classical_same_steps": "Classical, same steps",
    "sign": "SIGN",
}
CONDITIONS = {
    "accuracy": "Clean",
    "pixels_off": "50 pixels off",
    "noise": "Noise σ = 10",
}


COLORS = {
    LIGHT: {"classical": "#7a8594", "classical_same_steps": "#0072b2", "sign": "#d55e00"},
    DARK: {"classical": "#98a3b3", "classical_same_steps": "#56b4e9", "sign": "#f08c42"},
}
LINES = {"classical": "--", "classical_same_steps": "-.", "sign": "-"}
MARKERS = {"classical": "s", "classical_same_steps": "D", "sign": "o"}


def training_curves(run: dict[str, Any], key: str, label: str, theme: Theme) -> bytes:
    """Draw one quantity of the training histories over gradient steps.

    Args:
        run: One seed's numbers, with `training` of each method.
        key: A key of the history's rows, e.g. "validation_accuracy"; accuracies become percent.
        label: The vertical axis' name.
        theme: Colours.

    Returns:
        An SVG file with a transparent background.
    """
    figure, axes = _axes(theme)
    factor = 100.0 if key.endswith("accuracy") else 1.0
    for order, (method, name) in enumerate(METHODS.items()):
        training = run["training"][method]
        history = _whole_epochs(training["history"]) if key == "train_loss" else training["history"]
        steps = [row["steps"] for row in history]
        values = [factor * row[key] for row in history]
        color = COLORS[theme][method]
        # The first on top: where the classical runs coincide, its dashes stay visible.
        style: dict[str, Any] = {"linewidth": 1.8, "zorder": 5 - order}
        axes.plot(steps, values, LINES[method], color=color, label=name, **style)
        best = min(training["best_epoch"], len(history)) - 1
        axes.plot(steps[best], values[best], MARKERS[method], color=color, markersize=6)
    axes.set_xlabel("gradient steps")
    axes.set_ylabel(label)
    if factor == 1.0:
        axes.set_yscale("log")
    _legend(figure, theme)
    return svg_file(figure)


def accuracies(runs: Sequence[dict[str, Any]], theme: Theme) -> bytes:
    """Draw test accuracies of the methods, clean and corrupted, with ± 2 standard errors.

    Args:
        runs: One dict a seed with `evaluation` of each method.
        theme: Colours.

    Returns:
        An SVG file with a transparent background.
    """
    figure, axes = _axes(theme)
    for offset, (method, name) in enumerate(METHODS.items()):
        middles, errors = [], []
        for condition in CONDITIONS:
            mean, error = accuracy_with_error(runs, method, condition)
            middles.append(100 * mean)
            errors.append(200 * error)
        axes.errorbar(
            [i + 0.2 * (offset - 1) for i in range(len(CONDITIONS))],
            middles,
            yerr=errors,
            fmt=MARKERS[method],
            color=COLORS[theme][method],
            capsize=3,
            markersize=7,
            linewidth=1.4,
            label=name,
        )
    axes.set_xticks(range(len(CONDITIONS)), list(CONDITIONS.values()))
    axes.set_xlim(-0.5, len(CONDITIONS) - 0.5)
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="x", visible=False)
    _legend(figure, theme)
    return svg_file(figure)


def accuracy_with_error(
    runs: Sequence[dict[str, Any]], method: str, condition: str
) -> tuple[float, float]:
    """Return a method's mean accuracy over seeds and its standard error.

    The error combines the finite test set (binomial) and, with several seeds, their spread.

    Args:
        runs: One dict a seed with `evaluation` of each method.
        method: A key of METHODS.
        condition: A key of CONDITIONS.
    """
    key = condition if condition == "accuracy" else f"{condition}_mean"
    evaluations = [run["evaluation"][method] for run in runs]
    mean, spread = mean_and_deviation([evaluation[key] for evaluation in evaluations])
    binomial = binomial_error(mean, evaluations[0]["images"])
    return mean, (binomial**2 + spread**2 / len(runs)) ** 0.5


def samples_picture(samples: Samples) -> bytes:
    """Draw the images before and after, one row per version, as a PNG about 1200 pixels wide."""
    from matplotlib.figure import Figure

    rows = samples.rows()
    names = {"p": "before", "δ": f"δ, ±{samples.scale:.0f}"}
    count = len(samples.labels)
    margin = 1.35  # for the rows' names, in images
    figure = Figure(figsize=(12, 12 * (len(rows) + 0.45) / (count + margin)), dpi=100)
    grid = figure.subplots(len(rows), count, squeeze=False)
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axes = grid[row][column]
            axes.imshow(image, interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(samples.labels[column], fontsize=13, color="#1f2328")
        text = names.get(name, f"after {name}")
        grid[row][0].text(
            -0.1, 0.5, text, transform=grid[row][0].transAxes, ha="right", va="center", fontsize=13
        )
    left = margin / (count + margin)
    figure.subplots_adjust(left=left, right=0.995, top=0.93, bottom=0.01, wspace=0.04, hspace=0.04)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _whole_epochs(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop a last epoch cut short by max_steps: the loss of its few batches is misleading."""
    if len(history) < 2:
        return history
    last = history[-1]["steps"] - history[-2]["steps"]
    return history if last == history[0]["steps"] else history[:-1]


def _axes(theme: Theme) -> tuple[Figure, Axes]:
    figure = new_figure(5.4, 3.6)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    style_axes(axes, theme)
    return figure, axes


def _legend(figure: Figure, theme: Theme) -> None:
    """Name the methods above the axes, where no data can be hidden."""
    figure.legend(
        loc="outside upper left",
        ncols=len(METHODS),
        frameon=False,
        labelcolor=theme.text,
        fontsize=11,
        handlelength=1.6,
        columnspacing=1.2,
    )
