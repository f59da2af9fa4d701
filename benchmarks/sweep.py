"""Measure many cells, each in a process of its own, into a file of lines that can be resumed.

`network_sweep.py`, `call_cost.py` and `family_sweep.py` share this. A cell is a dict of the facts
that name it. Its line counts while the sources that it was measured with, the versions and the
machine are unchanged; older lines stay in the file.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import json_lines
import peer_cells
import torch
from child import ChildFailed, in_child
from json_lines import Row

from sign_ext.environment import machine_details

RESULTS = Path(__file__).parent / "results"
WHERE = ("sources", "torch", "cpu")  # a line of another place or version does not count


@dataclass(frozen=True)
class Limits:
    """What a call may take.

    Attributes:
        within: seconds after which no further cell begins.
        seconds: for a cell's process.
        gigabytes: that it may allocate.
    """

    within: float
    seconds: float
    gigabytes: float


class Sweep:
    """A file of lines, one a cell.

    Args:
        out: The file; it need not exist.
        facts: The names of the facts that name a cell.
        scripts: Files of benchmarks/ that decide what a cell is.
    """

    def __init__(self, out: Path, facts: Sequence[str], scripts: Sequence[str]) -> None:
        """Take down what is here; nothing is measured yet."""
        self.out = out
        self.facts = tuple(facts)
        head, changed = peer_cells.commit()
        machine = machine_details(torch.device("cpu"))
        self.origin: Row = {
            "torch": machine["torch"],
            "cpu": machine["cpu"],
            "commit": head,
            "uncommitted_changes": changed,
            "sources": peer_cells.sources(more=[f"benchmarks/{name}" for name in scripts]),
        }

    def done(self) -> dict[tuple[Any, ...], Row]:
        """The lines of the current sources and machine: facts of the cell → line."""
        rows = [
            row
            for row in json_lines.read_and_report(self.out)
            if all(row.get(fact) == self.origin[fact] for fact in WHERE)
        ]
        return json_lines.latest(rows, self.facts)

    def newest(self) -> list[Row]:
        """The last line of each cell, whatever it was measured with."""
        return list(json_lines.latest(json_lines.read_and_report(self.out), self.facts).values())

    def missing(self, cells: Sequence[Row]) -> list[Row]:
        """The cells that have no line yet."""
        done = self.done()
        return [cell for cell in cells if tuple(map(cell.get, self.facts)) not in done]

    def fill(
        self,
        cells: Sequence[Row],
        measure: Callable[[Row], Row],
        describe: Callable[[Row], str],
        limits: Limits,
    ) -> int:
        """Measure cells, write each at once, and return how many are left.

        Args:
            cells: What to measure.
            measure: Cell → its numbers, at the top level of a module; a cell that fails gets the
                line {"failed": why}.
            describe: Line → text for people.
            limits: What the call and each cell may take.
        """
        until = time.monotonic() + limits.within
        for place, cell in enumerate(cells):
            if time.monotonic() > until:
                return len(cells) - place
            began = time.monotonic()
            try:
                found = in_child(measure, cell, seconds=limits.seconds, gigabytes=limits.gigabytes)
            except ChildFailed as error:
                found = {"failed": str(error)}
            now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            seconds = round(time.monotonic() - began, 1)
            row = {**cell, **found, "took_seconds": seconds, "date": now, **self.origin}
            json_lines.append(self.out, row)
            print(describe(row), flush=True)
        return 0


def add_options(parser: argparse.ArgumentParser, out: str, limits: Limits) -> None:
    """Add the options that all sweeps have.

    Args:
        parser: Where.
        out: The file's name in benchmarks/results.
        limits: Their defaults.
    """
    add = parser.add_argument
    add("--out", type=Path, default=RESULTS / out, help=f"file of lines (benchmarks/results/{out})")
    add("--only", nargs="+", metavar="NAME", help="only these")
    add("--again", action="store_true", help="also what has a line; the newest one counts")
    add("--seconds", type=float, default=limits.within, help="begin nothing after this long")
    add("--limit", type=float, default=limits.seconds, help=f"of each, s ({limits.seconds:g})")
    add("--memory", type=float, default=limits.gigabytes, help=f"GiB ({limits.gigabytes:g})")
    add("--list", action="store_true", help="print what has no line yet; measures nothing")


def limits_of(given: argparse.Namespace) -> Limits:
    """The limits that the options of `add_options` say."""
    return Limits(given.seconds, given.limit, given.memory)


def require_known(parser: argparse.ArgumentParser, only: Sequence[str] | None, known: Any) -> None:
    """End with a message where --only names what there is not."""
    if unknown := set(only or ()) - set(known):
        parser.error(
            f"--only: {', '.join(sorted(unknown))} was given; accepted are {', '.join(known)}"
        )


def provenance(rows: Sequence[Row]) -> str:
    """The machine, torch, the commits and the dates of lines, as a sentence."""

    def of(fact: str) -> str:
        return " and ".join(sorted({str(row[fact]) for row in rows}))

    changed = any(row["uncommitted_changes"] for row in rows)
    commits = of("commit") + " with uncommitted changes" * changed
    dates = sorted(row["date"][:10] for row in rows)
    span = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"Measured on {of('cpu')}; torch {of('torch')}; commit {commits}, {span}."
