"""Draw docs/images/layers.png: the layers of sign_ext that `make lint` enforces.

Run `python tools/layers_picture.py`; needs matplotlib. The rows come from import-linter's contract
in pyproject.toml, the text from each package's docstring.
"""

from __future__ import annotations

import argparse
import ast
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The first layer of each part, its name and its colour.
PARTS = {
    "__main__": ("command line", "#ee99aa"),
    "experiments": ("the paper", "#eecc66"),
    "store": ("harness", "#bbcc77"),
    "sign": ("SIGN", "#77aadd"),
    "engine": ("how it runs", "#99ddff"),
    "pixel_range": ("ground", "#dddddd"),
}
WIDTH, GAP, HEIGHT = 100.0, 0.7, 4.4


def layers() -> list[list[str]]:
    """The rows of the contract, top first."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = config["tool"]["importlinter"]["contracts"]
    (contract,) = (one for one in contracts if one["id"] == "layers")
    return [[name.strip() for name in row.split("|")] for row in contract["layers"]]


def first_sentence(name: str) -> str:
    """The first sentence of a module's docstring."""
    folder = ROOT / "sign_ext" / name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split()).rstrip(".")


def draw(path: Path) -> None:
    """Draw the picture to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import FancyBboxPatch

    rows = layers()
    figure, axes = pyplot.subplots(figsize=(11, 0.54 * len(rows)), layout="constrained")
    axes.set_xlim(-1, WIDTH + 17)
    axes.set_ylim(-len(rows) * (HEIGHT + GAP), GAP)
    axes.axis("off")
    part, colour = "", "#ffffff"
    for number, row in enumerate(rows):
        top = -number * (HEIGHT + GAP)
        if row[0] in PARTS:
            part, colour = PARTS[row[0]]
            axes.text(WIDTH + 1.5, top - 0.3, part, va="top", fontsize=10, weight="bold")
        width = (WIDTH - GAP * (len(row) - 1)) / len(row)
        for column, name in enumerate(row):
            left = column * (width + GAP)
            box = FancyBboxPatch(
                (left, top - HEIGHT),
                width,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.7",
                facecolor=colour,
                edgecolor="#555555",
                linewidth=0.6,
            )
            axes.add_patch(box)
            is_package = (ROOT / "sign_ext" / name).is_dir()
            title = f"{name}/" if is_package else name
            lines = textwrap.wrap(first_sentence(name), int(width * 1.25))
            lines = lines[:2] if len(lines) <= 2 else [lines[0], lines[1] + " …"]
            text = "\n".join(lines)
            middle = left + width / 2
            axes.text(middle, top - 0.35, title, ha="center", va="top", fontsize=8, weight="bold")
            axes.text(middle, top - 1.9, text, ha="center", va="top", fontsize=6.2)
    axes.annotate(
        "",
        xy=(WIDTH + 14, -len(rows) * (HEIGHT + GAP) + GAP),
        xytext=(WIDTH + 14, -HEIGHT),
        arrowprops={"arrowstyle": "-|>", "color": "#555555"},
    )
    axes.text(WIDTH + 15, -len(rows) * (HEIGHT + GAP) / 2, "may import", rotation=270, va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "layers.png")
    draw(parser.parse_args().out)
