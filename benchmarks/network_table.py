"""The races of `network_sweep.py` as a table for people and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence

import json_lines
import network_list
import sweep
from json_lines import Row
from network_race import CHANNELS_LAST, COMPILED, FOLDED, FROZEN, NAIVE, OURS

SHARE_OF_MATMUL = 0.75  # is enough, whatever the peers do
MOST_ISLAND = 0.2  # of a step that one island should hold
RACE = ("network", "threads", "images", "pixels", "steps")
COLUMNS = (FROZEN, CHANNELS_LAST, FOLDED, COMPILED, OURS)
HEADINGS = ("frozen", "channels_last", "BN folded", "compile", "ours")


def wanted(row: Row) -> float:
    """How many times the best peer's speed ours should have on this network."""
    contest = network_list.CONTESTS.get(row["network"])
    return contest.wanted if contest else 1.15


def reached(row: Row) -> bool:
    """Whether ours is as fast as is wanted."""
    return bool(
        row["over_best"]["ratio"] >= wanted(row) or row["share_of_matmul"] >= SHARE_OF_MATMUL
    )


def describe(row: Row) -> str:
    """A race in one line."""
    name = f"{row['network']} ({row['images']}, {row['pixels']}), {row['threads']} thread(s)"
    if "failed" in row:
        return f"{name:<50} failed: {row['failed']}"
    over = row["over_best"]
    text = f"{name:<50} ours {row['contenders'][OURS]['speed']:.2f}, over {row['best_peer']} "
    text += f"{over['ratio']:.2f} ({over['low']:.2f}–{over['high']:.2f}), in processor "
    text += f"time {row['over_best_in_processor_time']['ratio']:.2f}; {row['backend']}"
    if row["islands"]:
        text += f", islands {row['islands_share']:.0%}, the largest {largest(row)}"
    return text + f"; {row['share_of_matmul']:.0%} of matmul"


def largest(row: Row) -> str:
    """The share of the largest island, or a dash."""
    return f"{row['islands'][0]['share']:.0%}" if row["islands"] else "–"


def short(peer: str) -> str:
    """A peer's heading."""
    if peer == NAIVE:
        return "naive"
    return HEADINGS[COLUMNS.index(peer)] if peer in COLUMNS else peer


def markdown(rows: Sequence[Row]) -> str:
    """The newest race of each network as one table for each number of threads, and what it says.

    Args:
        rows: One a cell, in the order in which they were measured.
    """
    order = list(network_list.CONTESTS)
    good = [row for row in rows if "failed" not in row]
    # Whether torch.compile took part makes no other race.
    newest = json_lines.latest(sorted(good, key=lambda row: row["date"]), RACE)
    if not newest:
        return "Not measured yet."
    lines = [sweep.provenance(list(newest.values()))]
    for threads in sorted({row["threads"] for row in newest.values()}):
        races = [row for row in newest.values() if row["threads"] == threads]
        races.sort(key=lambda r: order.index(r["network"]) if r["network"] in order else len(order))
        lines += ["", *_table(races, threads)]
    failed = [row for row in rows if "failed" in row and tuple(map(row.get, RACE)) not in newest]
    if failed:
        names = "; ".join(f"{row['network']} ({row['failed']})" for row in failed)
        lines += ["", f"Not measured: {names}."]
    return "\n".join(lines)


def _table(races: Sequence[Row], threads: int) -> list[str]:
    steps = sorted({row["steps"] for row in races})
    count = f"{threads} thread" + "s" * (threads > 1)
    lines = [f"**{count}**, K = {', '.join(map(str, steps))}", ""]
    lines.append("| network (images, pixels) | " + " | ".join(HEADINGS) + " | ours / best | ")
    lines[-1] += "best peer | islands | of matmul |"
    lines.append("|---|" + "---:|" * (len(HEADINGS) + 1) + "---|---|---:|")
    for row in races:
        cells = []
        for name in COLUMNS:
            found = row["contenders"].get(name)
            cells.append(f"{found['speed']:.2f}" if found else "–")
        over = row["over_best"]
        ratio = f"{over['ratio']:.2f} ({over['low']:.2f}–{over['high']:.2f})"
        ratio = ratio if reached(row) else f"**{ratio}**"
        name = row["network"].partition(",")[0]
        name += f" ({row['images']}, {row['pixels']})" + f", K = {row['steps']}" * (len(steps) > 1)
        words = [name, *cells, ratio]
        words += [short(row["best_peer"]), _islands(row), f"{row['share_of_matmul']:.0%}"]
        lines.append("| " + " | ".join(words) + " |")
    short_of = [row for row in races if not reached(row)]
    behind = [row for row in races if row["over_best"]["ratio"] < 1]
    lines += ["", f"{len(races) - len(short_of)} of {len(races)} reach the goal"]
    lines[-1] += f"; {len(short_of)} do not (bold)" * bool(short_of)
    lines[-1] += f", and ours is behind the best peer on {len(behind)}." if behind else "."
    large = [row for row in races if row["islands"] and row["islands"][0]["share"] > MOST_ISLAND]
    large += [row for row in races if row["backend"] != "fused"]
    if large:
        names = ", ".join(row["network"] for row in large)
        lines[-1] += f" More than {MOST_ISLAND:.0%} of a step is one island, or not compiled: "
        lines[-1] += f"{names}."
    return lines


def _islands(row: Row) -> str:
    if row["backend"] != "fused":
        return f"whole network by {row['backend']}"
    if not row["islands"]:
        return "none"
    return f"{len(row['islands'])}: {row['islands_share']:.0%}, the largest {largest(row)}"
