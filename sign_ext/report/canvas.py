"""What the figures of a report share: colours, a fresh canvas, legends and labels."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sign_ext.report.demo_figures import Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours that can be seen on white, and lighter ones of the same hues for black.
LINE_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07d00", "#56b4e9", "#5a6270")
LINE_COLORS_DARK = ("#56b4e9", "#f08c42", "#2fc79a", "#e3a3c5", "#e6b33d", "#9fd3f2", "#a9b3bf")
LINE_STYLES = ("-", "--", "-.", ":")
# Petroff's ten (arXiv 2107.02270), told apart by colour-blind readers; the markers tell it again.
CLASS_COLORS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
CHARACTERS = 9.5  # of a legend, that fit an inch


def new_figure(width: float, height: float, layout: Any = "constrained") -> Figure:
    """Return an empty figure of this size in inches."""
    # Figure without pyplot: no global state, no window system.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout=layout)


def legend_shape(labels: Sequence[str], width: float) -> tuple[int, int]:
    """Return how many columns of labels fit the width in inches, and how many rows that makes."""
    longest = max((len(label) for label in labels), default=1) + 4
    columns = max(1, min(len(labels), int(width * CHARACTERS // longest)))
    return columns, math.ceil(len(labels) / columns)


def legend(figure: Figure, theme: Theme, columns: int, axes: Axes | None = None) -> Any:
    """Name what is drawn above the axes, where no data can be hidden."""
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


def wrapped(label: str, width: float) -> str:
    """Break a label into lines that are about `width` inches long."""
    lines = textwrap.wrap(label, max(6, int(width * CHARACTERS)), break_long_words=False)
    return plain_text("\n".join(lines))


def plain_text(label: str) -> str:
    """Keep matplotlib from reading a label as mathematics."""
    return label.replace("$", r"\$")
