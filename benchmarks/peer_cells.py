"""The cells of the peer table, their origins, and the file that stores them.

A cell is one contender in one race (network, precision, images, K). Its origin is the machine, the
libraries and the sources that were measured. Cells of other origins stay in the file, but are
neither counted nor shown together with those of the current one.
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
KIND, FORMAT = "sign_ext peer table", 1
# The files that a time depends on. Documents, tests, data sets and the command line do not matter.
MEASURED = (
    "csrc/**/*",
    "sign_ext/*.py",
    *(f"sign_ext/{part}/**/*.py" for part in ("compiler", "engine", "models", "ops")),
    *(f"sign_ext/benchmarking/{name}.py" for name in ("loops", "measure", "race")),
    *(f"benchmarks/{name}.py" for name in ("contenders", "jax_peer", "peer_measure", "peers")),
)
UNMEASURED = {"tests", "testing", "cli.py", "__pycache__"}
ORIGIN_FACTS = ("gpu", "cpu", "threads", "driver", "torch", "sources")
MAX_ATTEMPTS = 2  # a cell that was started this often without finishing is given up


@dataclass(frozen=True)
class Race:
    """The work that contenders are compared on."""

    network: str
    precision: str
    images: int
    steps: int
    device: str

    def __str__(self) -> str:
        """The name that is printed."""
        return f"{self.network}, {self.precision}, {self.images} images, K = {self.steps}"


@dataclass(frozen=True)
class Cell:
    """One contender of a race."""

    race: Race
    contender: str

    @property
    def key(self) -> str:
        """The cell's key in the file."""
        return "/".join(map(str, (*asdict(self.race).values(), self.contender)))

    def __str__(self) -> str:
        """The name that is printed."""
        return f"{self.race}: {self.contender}"


def sources(root: Path = ROOT, more: Iterable[str] = ()) -> str:
    """A digest of the files that a time depends on, tracked by git or not.

    It depends only on their contents: moving a file does not invalidate measurements.

    Args:
        root: The checkout.
        more: Further files, or patterns of them, that matter.
    """
    found = {path for pattern in (*MEASURED, *more) for path in root.glob(pattern)}
    contents = sorted(
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.is_file() and not UNMEASURED & set(path.relative_to(root).parts)
    )
    return hashlib.sha256("".join(contents).encode()).hexdigest()[:16]


def commit(root: Path = ROOT) -> tuple[str, bool]:
    """The checkout's commit ("unknown" without git), and whether there are uncommitted changes."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def origin_here(device: torch.device) -> dict[str, Any]:
    """The origin of cells measured now: machine, libraries and sources."""
    head, changed = commit()
    facts = {**environment.machine_details(device), "commit": head, "uncommitted_changes": changed}
    return {**facts, "sources": sources()}


def origin_key(origin: dict[str, Any]) -> str:
    """The key of an origin in the file: equal for the same machine, libraries and sources."""
    text = json.dumps([origin.get(fact) for fact in ORIGIN_FACTS])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Table:
    """The file of cells, written atomically after each cell.

    Args:
        path: The file; it need not exist.
        origin: The origin of the cells that will be added.
        start: Another file to start from if `path` does not exist.

    Raises:
        ValueError: The file is not a peer table.
    """

    def __init__(self, path: Path, origin: dict[str, Any], start: Path | None = None) -> None:
        """Read the file."""
        self.path = path
        self.origin = origin
        self.origin_key = origin_key(origin)
        first = path if path.exists() or start is None or not start.exists() else start
        self.content = read(first)
        # The facts stored first are kept; the commit is stored per cell.
        self.content["origins"].setdefault(self.origin_key, origin)

    def cells(self) -> dict[str, dict[str, Any]]:
        """Key → cell, for the current origin."""
        return {
            cell["key"]: cell for cell in self.content["cells"] if cell["origin"] == self.origin_key
        }

    def count_of_other_origins(self) -> int:
        """The number of cells of other origins."""
        return sum(cell["origin"] != self.origin_key for cell in self.content["cells"])

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that have not been measured for the current origin."""
        measured = self.cells()
        return [cell for cell in cells if cell.key not in measured]

    def begin(self, cell: Cell) -> bool:
        """Record that a cell is started; False if it has ended the process too often."""
        begun = self.content["begun"]
        name = f"{self.origin_key}/{cell.key}"
        begun[name] = begun.get(name, 0) + 1
        self._write()
        return bool(begun[name] <= MAX_ATTEMPTS)

    def add(self, cell: Cell, facts: dict[str, Any]) -> None:
        """Store a finished cell; it replaces an older one of the current origin."""
        row = {"key": cell.key, **asdict(cell.race), "contender": cell.contender}
        others = [
            each
            for each in self.content["cells"]
            if (each["origin"], each["key"]) != (self.origin_key, cell.key)
        ]
        self.content["cells"] = [*others, {**row, "origin": self.origin_key, **facts}]
        self.content["begun"].pop(f"{self.origin_key}/{cell.key}", None)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(self.content, indent=1, ensure_ascii=False) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a file of cells; a missing file counts as empty.

    Raises:
        ValueError: The file is not a peer table.
    """
    if not path.exists():
        return {"what": KIND, "format": FORMAT, "origins": {}, "begun": {}, "cells": []}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = (content["what"], content["format"])
        if found != (KIND, FORMAT):
            raise ValueError(f"it says {found}, not {(KIND, FORMAT)}")
        keys = [(cell["origin"], cell["key"]) for cell in content["cells"]]
        if len(set(keys)) < len(keys):
            raise ValueError("a cell is in it twice")
        if not {origin for origin, _ in keys} <= set(content["origins"]):
            raise ValueError("a cell's origin is not in it")
        if not isinstance(content["begun"], dict):
            raise ValueError('its "begun" is not an object')
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a peer table ({type(error).__name__}: {error}), so nothing was "
            "measured or written: give another --out, or move the file away"
        ) from error
    return content
