"""The figures of `schema.Figure` as pictures: samples as PNG, the other kinds as SVG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sign_ext.formatting import percent
from sign_ext.report import schema
from sign_ext.report.canvas import (
    CLASS_COLORS,
    CLASS_MARKERS,
    LINE_COLORS,
    LINE_COLORS_DARK,
    LINE_STYLES,
    legend,
    legend_shape,
    new_figure,
    plain_text,
    wrapped,
)
from sign_ext.report.demo_figures import DARK, Theme, dress, svg_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


# Figures of several panels: embeddings of features (t-SNE) and reliability of confidences.


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


RASTER_DPI = 170


@dataclass(frozen=True)
class Drawing:
    """A picture file.

    Attributes:
        content: its bytes.
        kind: "svg+xml" or "png".
        width, height: pixels at which it is shown where there is room.
    """

    content: bytes
    kind: str
    width: int
    height: int

    @property
    def suffix(self) -> str:
        """Of its file's name."""
        return ".png" if self.kind == "png" else ".svg"


def draw(figure: schema.Figure, theme: Theme, *, background: str | None = None) -> Drawing:
    """Draw a figure.

    Args:
        figure: of any kind; "samples" becomes a PNG, the others SVG.
        theme: colours of text and lines.
        background: a colour; None is transparent (samples are always on white).

    Raises:
        ValueError: data that is not as `schema.Figure` describes its kind.
    """
    with fitting(figure):
        if figure.kind == "samples":
            return _samples(figure.data)
        drawer: Callable[[Mapping[str, Any], Theme], Figure] = {
            "lines": _lines,
            "scatter": draw_scatter,
            "reliability": draw_reliability,
        }[figure.kind]
        drawn = drawer(figure.data, theme)
    drawn.patch.set(alpha=0) if background is None else drawn.patch.set(facecolor=background)
    width, height = drawn.get_size_inches()
    return Drawing(svg_file(drawn, RASTER_DPI), "svg+xml", round(96 * width), round(96 * height))


@contextmanager
def fitting(figure: schema.Figure) -> Iterator[None]:
    """Name the figure in errors that its data leads to.

    Raises:
        ValueError: instead of what arose within.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, OSError) as error:
        raise ValueError(
            f"the data of figure {figure.title!r} is not that of kind {figure.kind!r} "
            f"({type(error).__name__}: {error}); see sign_ext.report.schema.Figure."
        ) from error


def _lines(data: Mapping[str, Any], theme: Theme) -> Figure:
    labels = [line["label"] for line in data["lines"]]
    width = 6.4
    columns, rows = legend_shape(labels, width)
    figure = new_figure(width, 3.7 + 0.22 * rows)
    axes = figure.subplots()
    dress(axes, theme)
    factor = 100.0 if data["percent"] else 1.0
    colors = LINE_COLORS_DARK if theme is DARK else LINE_COLORS
    for order, line in enumerate(data["lines"]):
        color = colors[order % len(colors)]
        style = LINE_STYLES[order % len(LINE_STYLES)]
        marker = CLASS_MARKERS[order % len(CLASS_MARKERS)]
        axes.plot(
            line["x"],
            _scaled(line["y"], factor),
            style,
            color=color,
            marker=marker,
            markersize=5 if len(line["x"]) <= 30 else 0,
            linewidth=1.8,
            label=plain_text(line["label"]),
        )
        if line.get("low") is not None and line.get("high") is not None:
            low, high = _scaled(line["low"], factor), _scaled(line["high"], factor)
            axes.fill_between(line["x"], low, high, color=color, alpha=0.18, linewidth=0)
    if data["log_x"]:
        _log_x(axes, [x for line in data["lines"] for x in line["x"]])
    axes.set_xlabel(plain_text(data["x"]))
    in_percent = data["percent"] and "%" not in data["y"]
    axes.set_ylabel(plain_text(data["y"] + (", %" if in_percent else "")))
    legend(figure, theme, columns)
    return figure


def _log_x(axes: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic; where 0 is among the values, linear from it to the smallest other."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    positive = [x for x in values if x > 0]
    if not positive:
        return
    if min(values) <= 0:
        axes.set_xscale("symlog", linthresh=min(positive))
    else:
        axes.set_xscale("log")
    # Over less than two decades, powers of ten are too few to read the axis by.
    short = max(positive) / min(positive) < 100
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if short and len(set(values)) <= 8:
        axes.set_xticks(sorted(set(values)))


def _samples(data: Mapping[str, Any]) -> Drawing:
    """Draw the images, a row a version, on white; pixels stay squares."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, labels = data["rows"], data["columns"]
    inch = min(1.2, 10.4 / len(labels))
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = new_figure(inch * len(labels) + 1.6, inch * len(rows) + 0.5, close)
    figure.patch.set_facecolor("white")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for row, places in zip(rows, grid, strict=True):
        for place, axes in enumerate(places):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if place < len(row["images"]):
                axes.imshow(_pixels(row["images"][place]), interpolation="nearest")
        text = wrapped(row["label"], 1.5)
        places[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=11)
    for axes, label in zip(grid[0], labels, strict=True):
        axes.set_title(wrapped(label, inch), fontsize=10.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    width, height = figure.get_size_inches()
    return Drawing(buffer.getvalue(), "png", round(100 * width), round(100 * height))


def _pixels(image: str) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as picture:
        return picture.convert("RGB")


def _scaled(values: Sequence[float | None], factor: float) -> list[float]:
    return [math.nan if value is None else factor * value for value in values]
