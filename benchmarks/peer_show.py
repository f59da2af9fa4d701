"""Show the peer table: as a generated section of a document, and as a picture."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from peer_cells import ROOT

from sign_ext.files import write_whole

TOOLS = ROOT / "tools"
if str(TOOLS) not in sys.path:
    sys.path.append(str(TOOLS))

import bench_table  # noqa: E402

NAIVE = "naive .backward()"
RACE = ("network", "precision", "images", "steps", "device")
OURS, PEER, BASELINE = "#4477aa", "#bbbbbb", "#888888"


def newest(content: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]], int]:
    """The most recently measured origin, its cells, and the number of cells of other origins.

    Raises:
        ValueError: There is no cell.
    """
    if not content["cells"]:
        raise ValueError("the file has no cell yet: measure first, without --markdown and --plot")
    name = max(content["cells"], key=lambda cell: cell["date"])["origin"]
    cells = [cell for cell in content["cells"] if cell["origin"] == name]
    return content["origins"][name], cells, len(content["cells"]) - len(cells)


def races(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group cells into the races that tools/bench_table.py prints."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        found.setdefault(tuple(cell[fact] for fact in RACE), []).append(cell)
    return [_race(key, found[key]) for key in found]


def _race(key: tuple[Any, ...], cells: list[dict[str, Any]]) -> dict[str, Any]:
    facts = dict(zip(RACE, key, strict=True))
    rows, absent = [], []
    for cell in cells:
        if "absent" in cell:
            absent.append({"name": cell["contender"], "reason": cell["absent"]})
            continue
        smaller = cell["ran_with"] != cell["images"]
        note = f" (with {cell['ran_with']} images: more do not fit)" if smaller else ""
        rows.append({**cell, "name": cell["contender"] + note, "ratio": cell["speed"]})
    naive = [row["naive_median"] for row in rows if row["ran_with"] == facts["images"]]
    if naive:  # how much the baseline varied over the cells of the race
        facts["naive_spread"] = max(naive) / min(naive) - 1
    for fact in ("matmul_flop_per_s", "copy_bytes_per_s", "floor_seconds"):
        at_full = [row[fact] for row in rows if fact in row and row["ran_with"] == facts["images"]]
        if at_full:
            facts[fact] = max(at_full) if fact != "floor_seconds" else min(at_full)
    return {
        "name": f"peers [{facts['network']}-{facts['precision']}-{facts['images']}]",
        "measures": "time",
        "baseline": NAIVE,
        "facts": facts,
        "rows": rows,
        "absent": absent,
    }


def fill_document(document: Path, source: str, content: dict[str, Any]) -> None:
    """Fill a document's section `<!-- generated from SOURCE … -->`.

    Raises:
        ValueError: There is no cell, or the document has no such section.
    """
    origin, cells, others = newest(content)
    commits = sorted({cell["commit"] for cell in cells})
    date = max(cell["date"] for cell in cells)
    result = {"machine": origin, **origin, "date": date, "races": races(cells)}
    text = bench_table.markdown({**result, "commit": " and ".join(commits)})
    driver = origin.get("driver") or "none"
    text = text.replace("\n", f" Driver {driver}; sources {origin['sources']}.\n", 1)
    if others:
        text += f"\n\n{others} cells of other sources or machines are not shown."
    old = document.read_text(encoding="utf-8")
    write_whole(document, bench_table.fill(old, source, text))


def plot(path: Path, content: dict[str, Any]) -> None:
    """Draw the speed of each contender relative to the naive loop.

    One panel per network and precision, at the largest batch.

    Raises:
        ValueError: There is no cell.
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    from sign_ext.report.plots import svg_file

    origin, cells, _ = newest(content)
    shown = _largest([race for race in races(cells) if race["rows"]])
    if not shown:
        raise ValueError("no contender has been timed yet, so there is nothing to draw")
    columns = min(3, len(shown))
    rows_of_panels = -(-len(shown) // columns)
    most = max(len(race["rows"]) for race in shown)
    figure = Figure(
        figsize=(5.2 * columns, (0.28 * most + 1.1) * rows_of_panels), layout="constrained"
    )
    panels = figure.subplots(rows_of_panels, columns, squeeze=False).flatten()
    for panel, race in zip(panels, shown, strict=False):
        rows = sorted(race["rows"], key=lambda row: row["ratio"])
        colors = [_color(row["name"]) for row in rows]
        bars = panel.barh([row["name"] for row in rows], [r["ratio"] for r in rows], color=colors)
        panel.bar_label(bars, [f"{row['ratio']:.2f}×" for row in rows], padding=3, fontsize=8)
        facts = race["facts"]
        panel.set_title(f"{facts['network']}, {facts['precision']}, {facts['images']} images")
        panel.tick_params(labelsize=8)
        panel.set_xlim(0, 1.15 * max(row["ratio"] for row in rows))
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    place = origin.get("gpu") or origin.get("cpu")
    figure.supxlabel(f"times as fast as the naive loop ({place}; torch {origin['torch']})")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, svg_file(figure))


def _largest(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The race with the most images for each network and precision."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for race in found:
        kind = (race["facts"]["network"], race["facts"]["precision"])
        if kind not in best or race["facts"]["images"] > best[kind]["facts"]["images"]:
            best[kind] = race
    return list(best.values())


def _color(name: str) -> str:
    """The colour of one of ours, of the baseline or of a peer."""
    if name.startswith("sign_ext"):
        return OURS
    return BASELINE if name.startswith("naive") else PEER
