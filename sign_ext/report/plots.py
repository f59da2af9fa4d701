"""The figures of `schema.Figure` as pictures: samples as PNG, the other kinds as SVG.

What the demo's figures share with these is here too: themes, axes, legends, SVG files. All are
drawn on matplotlib's `Figure` without pyplot, which would need a window system and global state.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sign_ext.formatting import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from torch import Tensor

    from sign_ext.data import ImageSet
    from sign_ext.report import schema


MAX_TICKS = 8  # labelled numbers on a logarithmic axis
LINE_STYLES = ("-", "--", "-.", ":")
# Petroff's ten colours (arXiv 2107.02270) for colour-blind readers; markers repeat the distinction.
CLASS_COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
CHARACTERS_PER_INCH = 9.5  # of a legend
RASTER_DPI = 170
# With more points a scatter plot is rasterised: each costs about 100 bytes as SVG.
MAX_VECTOR_POINTS = 1500


@dataclass(frozen=True)
class Theme:
    """Colours of a figure, distinguishable for colour-blind readers.

    Attributes:
        text: labels and titles.
        quiet: axes and grid.
        lines: one for each line, in turn.
    """

    text: str
    quiet: str
    lines: tuple[str, ...]


# Okabe and Ito's colours that are visible on white, and lighter ones of the same hues for black.
LIGHT = Theme(
    "#1f2328",
    "#d5d9de",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9", "#5a6270"),
)
DARK = Theme(
    "#e6e8eb",
    "#3a4048",
    ("#56b4e9", "#f08c42", "#2fc79a", "#e3a3c5", "#e6b33d", "#9fd3f2", "#a9b3bf"),
)


@dataclass(frozen=True)
class Drawing:
    """A picture file.

    Attributes:
        content: its bytes.
        kind: "svg+xml" or "png".
        width, height: its size in pixels where the page is wide enough.
    """

    content: bytes
    kind: str
    width: int
    height: int

    @property
    def suffix(self) -> str:
        """The suffix of its file's name."""
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
    with figure_errors(figure):
        if figure.kind == "samples":
            return _samples(figure.data)
        drawer: Callable[[Mapping[str, Any], Theme], Figure] = {
            "lines": _lines,
            "scatter": _scatter,
            "reliability": _reliability,
            "plane": _plane,
        }[figure.kind]
        drawn = drawer(figure.data, theme)
    drawn.patch.set(alpha=0) if background is None else drawn.patch.set(facecolor=background)
    width, height = drawn.get_size_inches()
    return Drawing(svg_file(drawn, RASTER_DPI), "svg+xml", round(96 * width), round(96 * height))


@contextmanager
def figure_errors(figure: schema.Figure) -> Iterator[None]:
    """Turn errors that the figure's data causes into one that names the figure.

    Raises:
        ValueError: in place of the error raised inside the block.
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
    style_axes(axes, theme)
    factor = 100.0 if data["percent"] else 1.0
    for order, line in enumerate(data["lines"]):
        color = theme.lines[order % len(theme.lines)]
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
            label=escape_math(line["label"]),
        )
        if line.get("low") is not None and line.get("high") is not None:
            low, high = _scaled(line["low"], factor), _scaled(line["high"], factor)
            axes.fill_between(line["x"], low, high, color=color, alpha=0.18, linewidth=0)
    if data["log_x"]:
        _log_x(axes, [x for line in data["lines"] for x in line["x"]])
    axes.set_xlabel(escape_math(data["x"]))
    in_percent = data["percent"] and "%" not in data["y"]
    axes.set_ylabel(escape_math(data["y"] + (", %" if in_percent else "")))
    add_legend(figure, theme, columns)
    return figure


def _log_x(axes: Axes, values: Sequence[float]) -> None:
    """Make x logarithmic; with 0 among the values, linear up to the smallest positive one."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    positive = [x for x in values if x > 0]
    if not positive:
        return
    if min(values) <= 0:
        axes.set_xscale("symlog", linthresh=min(positive))
    else:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = log_ticks(min(positive), max(positive))
    axes.set_xticks([0.0, *ticks] if min(values) <= 0 else ticks)


def log_ticks(low: float, high: float) -> list[float]:
    """Choose round numbers to label a logarithmic axis with, not more than fit.

    Args:
        low: smallest value shown, above 0.
        high: largest.

    Example:
        >>> log_ticks(0.16, 14.0), log_ticks(0.02, 900.0), log_ticks(3.1, 3.9)
        ([0.2, 0.5, 1.0, 2.0, 5.0, 10.0], [0.1, 1.0, 10.0, 100.0], [3.1, 3.9])
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        candidates = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
        ticks = [each for each in candidates if low <= each <= high]
        if len(ticks) <= MAX_TICKS:
            break
    if len(ticks) > MAX_TICKS:
        ticks = ticks[:: -(-len(ticks) // MAX_TICKS)]
    return ticks if len(ticks) > 1 else sorted({low, high})


def _scaled(values: Sequence[float | None], factor: float) -> list[float]:
    return [math.nan if value is None else factor * value for value in values]


def _scatter(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a "scatter" figure: one panel per embedding, one colour and marker per class."""
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
        _embedding(axes, panels[place], data["classes"], size, points > MAX_VECTOR_POINTS, theme)
        axes.set_title(wrap(panels[place]["title"], side), color=theme.text, fontsize=11)
    key = add_legend(figure, theme, columns, grid[0][0])
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
    """Draw one panel's points; the axes of an embedding have no unit, so no ticks."""
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
            label=escape_math(name),
        )
    axes.patch.set_alpha(0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(theme.quiet)


def _plane(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a "plane" figure: points by class, and what each panel has beside them."""
    panels = data["panels"]
    across = max(1, min(data["columns"], len(panels)))
    down = math.ceil(len(panels) / across)
    side = max(3.4, min(4.6, 10.4 / across))
    columns, rows = legend_shape(data["classes"], side * across)
    figure = new_figure(side * across, (0.82 * side + 0.3) * down + 0.24 * rows)
    grid = figure.subplots(down, across, squeeze=False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _plane_panel(axes, panel, data["classes"], theme)
        axes.set_title(wrap(panel["title"], side), color=theme.text, fontsize=11)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    add_legend(figure, theme, columns, grid[0][0])
    return figure


def _plane_panel(
    axes: Axes, panel: Mapping[str, Any], classes: Sequence[str], theme: Theme
) -> None:
    contour, arrows, rings = (panel.get(part) for part in ("contour", "arrows", "rings"))
    if contour:
        z = np.asarray(contour["z"])
        axes.contour(contour["x"], contour["y"], z, [0.0], colors=theme.text, linestyles="dashed")
    if arrows:
        axes.quiver(
            *(np.asarray(arrows[part]) for part in "xyuv"),
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.005,
            color=theme.lines[6],
            zorder=3,
        )
    for index, name in enumerate(classes):
        color = theme.lines[index % len(theme.lines)]
        for curve in panel["curves"]:
            if curve["label"] == index:
                axes.plot(curve["x"], curve["y"], color=color, linewidth=1.4, alpha=0.6)
        mine = [i for i, label in enumerate(panel["label"]) if label == index]
        axes.scatter(
            [panel["x"][i] for i in mine],
            [panel["y"][i] for i in mine],
            s=13,
            marker=CLASS_MARKERS[index % len(CLASS_MARKERS)],
            color=color,
            alpha=0.55,
            linewidths=0,
            label=escape_math(name),
        )
    for path in panel.get("paths") or []:
        axes.plot(path["x"], path["y"], color=theme.text, linewidth=1.6, zorder=4)
        axes.plot(path["x"][-1:], path["y"][-1:], "o", color=theme.text, markersize=4.5, zorder=4)
    if rings:
        axes.scatter(
            rings["x"], rings["y"], s=70, facecolors="none", edgecolors=theme.text, linewidths=1.1
        )
    axes.patch.set_alpha(0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(theme.quiet)


def _reliability(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Draw a "reliability" figure: bars are accuracies, diamonds each bin's mean confidence."""
    panels = data["panels"]
    across = max(1, min(3, len(panels)))
    down = math.ceil(len(panels) / across)
    figure = new_figure(3.3 * across, 3.9 * down)
    color, mark = theme.lines[:2]
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
        style_axes(axes, theme)
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
    with_confidence = [b for b in known if panel["confidence"][b] is not None]
    upper.plot(
        [100 * panel["confidence"][b] for b in with_confidence],
        [100 * panel["accuracy"][b] for b in with_confidence],
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
    title = f"{wrap(panel['title'], 3.0)}\ncalibration error {error}%"
    upper.set_title(title, color=theme.text, fontsize=11)


def _shares(counts: Sequence[int], total: int) -> list[float]:
    return [100 * count / total if total else 0.0 for count in counts]


def expected_calibration_error(panel: Mapping[str, Any]) -> float | None:
    """Return Σ n_b/n · |accuracy − confidence| over the bins; None without images.

    Args:
        panel: of a "reliability" figure.
    """
    total = sum(panel["count"])
    bins = zip(panel["count"], panel["accuracy"], panel["confidence"], strict=True)
    gaps = [n * abs(a - c) for n, a, c in bins if n and a is not None and c is not None]
    return sum(gaps) / total if total else None


def _samples(data: Mapping[str, Any]) -> Drawing:
    """Draw the images on white, one row per version, without smoothing."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows, labels = data["rows"], data["columns"]
    inch = min(1.2, 10.4 / len(labels))
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = new_figure(inch * len(labels) + 1.6, inch * len(rows) + 0.5, tight)
    figure.patch.set_facecolor("white")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for row, places in zip(rows, grid, strict=True):
        for place, axes in enumerate(places):
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            if place < len(row["images"]):
                axes.imshow(_pixels(row["images"][place]), interpolation="nearest")
        text = wrap(row["label"], 1.5)
        places[0].set_ylabel(text, rotation=0, ha="right", va="center", fontsize=11)
    for axes, label in zip(grid[0], labels, strict=True):
        axes.set_title(wrap(label, inch), fontsize=10.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    width, height = figure.get_size_inches()
    return Drawing(buffer.getvalue(), "png", round(100 * width), round(100 * height))


def _pixels(image: str) -> Any:
    from PIL import Image

    with Image.open(io.BytesIO(base64.b64decode(image, validate=True))) as picture:
        return picture.convert("RGB")


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def legend_shape(labels: Sequence[str], width: float) -> tuple[int, int]:
    """Return how many columns of labels fit the width in inches, and how many rows that makes."""
    longest = max((len(label) for label in labels), default=1) + 4
    columns = max(1, min(len(labels), int(width * CHARACTERS_PER_INCH // longest)))
    return columns, math.ceil(len(labels) / columns)


def add_legend(figure: Figure, theme: Theme, columns: int, axes: Axes | None = None) -> Any:
    """Put the legend above the axes, where it hides no data."""
    handles, labels = (axes or figure.axes[0]).get_legend_handles_labels()
    return figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=theme.text,
        fontsize=10.5,
        handlelength=1.8,
        columnspacing=1.2,
    )


def wrap(label: str, width: float) -> str:
    """Break a label into lines that are about `width` inches long."""
    lines = textwrap.wrap(label, max(6, int(width * CHARACTERS_PER_INCH)), break_long_words=False)
    return escape_math("\n".join(lines))


def escape_math(label: str) -> str:
    """Keep matplotlib from reading a label as mathematics."""
    return label.replace("$", r"\$")


def style_axes(axes: Axes, theme: Theme) -> None:
    """Give axes the page's look: no box, quiet lines, a grid behind the data."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.quiet)
    axes.tick_params(colors=theme.text, labelsize=11)
    axes.tick_params(which="both", color=theme.quiet)
    axes.xaxis.label.set(color=theme.text, fontsize=12)
    axes.yaxis.label.set(color=theme.text, fontsize=12)
    axes.grid(color=theme.quiet, linewidth=0.6)
    axes.set_axisbelow(True)


def svg_file(figure: Figure, dpi: int = 100) -> bytes:
    """Write a figure as SVG; the same numbers give the same bytes.

    Args:
        figure: drawn without pyplot.
        dpi: of what is rasterised in it.
    """
    import matplotlib

    buffer = io.BytesIO()
    # A fixed salt for the ids and no date make the bytes repeatable.
    with matplotlib.rc_context({"svg.hashsalt": "sign-ext"}):
        figure.savefig(buffer, format="svg", dpi=dpi, metadata={"Date": None})
    return buffer.getvalue()


# A few images before and after SIGN: their choice, and their pixels for the screen.


MAX_SAMPLES = 10  # one column each: more do not fit on a page


@dataclass(frozen=True)
class Samples:
    """Images p, their p*_K, and δ = p*_K − p of the largest K, in the paper's Figure 3's form.

    Attributes:
        labels: The class name of each image.
        originals: float32 (n, 3, H, W), grey levels 0–255.
        snapshots: K → float32 (n, 3, H, W), grey levels, in the same order, by rising K.
    """

    labels: tuple[str, ...]
    originals: Tensor
    snapshots: dict[int, Tensor]

    @property
    def last(self) -> int:
        """The largest K."""
        return max(self.snapshots)

    @property
    def delta(self) -> Tensor:
        """δ of the largest K, float32 (n, 3, H, W), grey levels."""
        return self.snapshots[self.last] - self.originals

    @property
    def scale(self) -> float:
        """The grey levels of δ that are shown as white (negated, black): 99.5% of |δ| is below."""
        return max(float(np.quantile(self.delta.abs().numpy(), 0.995)), 1e-6)

    def rows(self) -> dict[str, np.ndarray]:
        """Return each row's name and pixels, uint8 (n, H, W, 3).

        p*_K is clipped to 0–255; δ is drawn around grey, 128, which means no change.
        """
        shown = {"p": _sample_pixels(self.originals)}
        shown |= {
            f"K = {k}": _sample_pixels(images) for k, images in sorted(self.snapshots.items())
        }
        shown["δ"] = _sample_pixels(128 + self.delta / self.scale * 127)
        return shown


def pick_samples(train: ImageSet, snapshots: dict[int, Tensor], *, each: int = 1) -> Samples:
    """Take the first images of each class, at most ten in total.

    Args:
        train: The originals.
        snapshots: K → float32 (N, 3, H, W), in the originals' order.
        each: images per class; fewer if a class has fewer.
    """
    labels = train.labels.tolist()
    firsts = [
        [place for place, label in enumerate(labels) if label == wanted][:each]
        for wanted in sorted(set(labels))
    ]
    chosen = [place for places in firsts for place in places][:MAX_SAMPLES]
    return Samples(
        tuple(train.class_names[labels[place]] for place in chosen),
        train.float()[chosen],
        {k: images[chosen] for k, images in snapshots.items()},
    )


def png(pixels: np.ndarray) -> bytes:
    """Encode a uint8 array (H, W, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _sample_pixels(images: Tensor) -> np.ndarray:
    shown: np.ndarray = images.clamp(0, 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return shown
