"""The cells of the peer table: which there are, where each was measured, and the file of them.

A cell is one contender of one race (network, precision, images, K). It has an origin: the machine,
its libraries and the sources that were measured. Cells of another origin stay in the file, apart:
they are neither counted nor shown beside those of this one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sign_ext import environment
from sign_ext.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
WHAT, FORMAT = "sign_ext peer table", 1
# What a time depends on. Documents, tests, data sets and the command line may change.
MEASURED = (
    "csrc/**/*",
    "sign_ext/*.py",
    *(f"sign_ext/{part}/**/*.py" for part in ("compiler", "engine", "models", "ops")),
    *(f"sign_ext/benchmarking/{name}.py" for name in ("loops", "measure", "race")),
    *(f"benchmarks/{name}.py" for name in ("contenders", "jax_peer", "peer_measure", "peers")),
)
UNMEASURED = {"tests", "testing", "cli.py", "__pycache__"}
SAME = ("gpu", "cpu", "threads", "driver", "torch", "sources")
OFTEN = 2  # times that a cell is begun before it counts as one that ends the process


@dataclass(frozen=True)
class Race:
    """What contenders are compared on."""

    network: str
    precision: str
    images: int
    steps: int
    device: str

    def __str__(self) -> str:
        """What it is called."""
        return f"{self.network}, {self.precision}, {self.images} images, K = {self.steps}"


@dataclass(frozen=True)
class Cell:
    """One contender of a race."""

    race: Race
    contender: str

    @property
    def key(self) -> str:
        """What finds it in the file."""
        return "/".join(map(str, (*asdict(self.race).values(), self.contender)))

    def __str__(self) -> str:
        """What it is called."""
        return f"{self.race}: {self.contender}"


def sources(root: Path = ROOT) -> str:
    """A digest of the files that a time depends on, tracked by git or not.

    It depends on their contents only: moving a file does not make what was measured out of date.
    """
    found = {path for pattern in MEASURED for path in root.glob(pattern)}
    contents = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file() and not UNMEASURED & set(path.relative_to(root).parts)
    )
    return hashlib.sha256("".join(contents).encode()).hexdigest()[:16]


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """The checkout's commit ("unknown" without git), and whether files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def origin_here(device: torch.device) -> dict[str, Any]:
    """The machine, the libraries and the sources of a measurement now."""
    head, changed = commit()
    facts = {**environment.machine_details(device), "commit": head, "uncommitted_changes": changed}
    return {**facts, "sources": sources()}


def name_of(origin: dict[str, Any]) -> str:
    """What an origin is called in the file: the same for the same machine and sources."""
    text = json.dumps([origin.get(fact) for fact in SAME])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Table:
    """The file of cells, whole after each cell.

    Args:
        path: where it is, or will be.
        origin: that of what is measured now.
        start: another file to begin from where there is none at `path` yet.

    Raises:
        ValueError: the file is something else.
    """

    def __init__(self, path: Path, origin: dict[str, Any], start: Path | None = None) -> None:
        """Read what is there."""
        self.path = path
        self.origin = origin
        self.here = name_of(origin)
        first = path if path.exists() or start is None or not start.exists() else start
        self.content = read(first)
        # The facts noted first stay; the commit is each cell's own.
        self.content["origins"].setdefault(self.here, origin)

    def cells(self) -> dict[str, dict[str, Any]]:
        """Key → cell, of this origin."""
        return {cell["key"]: cell for cell in self.content["cells"] if cell["origin"] == self.here}

    def apart(self) -> int:
        """How many cells are of another origin."""
        return sum(cell["origin"] != self.here for cell in self.content["cells"])

    def missing(self, wanted: Iterable[Cell]) -> list[Cell]:
        """Those that have not been measured here."""
        there = self.cells()
        return [cell for cell in wanted if cell.key not in there]

    def begin(self, cell: Cell) -> bool:
        """Note that a cell is begun; False if it has ended the process too often already."""
        begun = self.content["begun"]
        name = f"{self.here}/{cell.key}"
        begun[name] = begun.get(name, 0) + 1
        self._write()
        return bool(begun[name] <= OFTEN)

    def add(self, cell: Cell, facts: dict[str, Any]) -> None:
        """Put a finished cell in the file, in place of an older one of this origin."""
        row = {"key": cell.key, **asdict(cell.race), "contender": cell.contender}
        others = [
            each
            for each in self.content["cells"]
            if (each["origin"], each["key"]) != (self.here, cell.key)
        ]
        self.content["cells"] = [*others, {**row, "origin": self.here, **facts}]
        self.content["begun"].pop(f"{self.here}/{cell.key}", None)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """A file of cells, or an empty one where there is none.

    Raises:
        ValueError: the file is something else.
    """
    if not path.exists():
        return {"what": WHAT, "format": FORMAT, "origins": {}, "begun": {}, "cells": []}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = (content["what"], content["format"])
        if found != (WHAT, FORMAT):
            raise ValueError(f"it says {found}, not {(WHAT, FORMAT)}")
        keys = [(cell["origin"], cell["key"]) for cell in content["cells"]]
        if len(set(keys)) < len(keys):
            raise ValueError("it has a cell twice")
        if not {origin for origin, _ in keys} <= set(content["origins"]):
            raise ValueError("a cell's origin is not in it")
        if not isinstance(content["begun"], dict):
            raise ValueError('its "begun" is no object')
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no file of this script ({type(error).__name__}: {error}), so nothing was "
            "measured or written: give another --out, or move it away"
        ) from error
    return content
