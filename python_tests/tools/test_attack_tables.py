"""The tables of docs/beyond.md show what was measured, and those on the page are of the files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import attack_tables  # noqa: E402
import bench_table  # noqa: E402

MACHINE = {"cpu": "a processor", "threads": 1, "torch": "2.9"}


@pytest.fixture
def parity() -> dict[str, Any]:
    """One attack and one attribution of one network."""
    attack = {"network": "net", "check": "PGD", "library": "torchattacks", "values": 10}
    mean = {**attack, "check": "mean gradient", "library": "captum", "steps_equal": None}
    rows = [
        {**attack, "dtype": "float64", "equal": 1.0, "steps_equal": 1.0},
        {**attack, "dtype": "float32", "equal": 0.98765, "steps_equal": 0.999999},
        {**mean, "dtype": "float64", "equal": 1.0},
        {**mean, "dtype": "float32", "equal": 0.9934},
    ]
    libraries = {"torchattacks": "3.5", "captum": "0.9"}
    return {"machine": MACHINE, "commit": "abc", "libraries": libraries, "images": 8, "rows": rows}


def test_parity_is_never_rounded_up(parity: dict[str, Any]) -> None:
    text = attack_tables.parity_table(parity)
    assert "| PGD | torchattacks | net | 100% | 98.76% | 99.99% |" in text
    assert "| mean gradient | captum | net | 100% | 99.34% | – |" in text
    assert "torchattacks 3.5, captum 0.9" in text
    assert "commit abc" in text


def test_speed_is_the_ratio_of_medians_with_quartiles_of_rounds() -> None:
    facts = {"network": "net", "images": 64, "backend": "fused"}
    rows = [
        {"name": "theirs", "ratio": 1.0, "ratio_quartiles": [1, 1, 1]},
        {"name": "sign_ext", "ratio": 2.5, "ratio_quartiles": [2.25, 2.4, 2.75]},
    ]
    pgd = {"name": "PGD [net]", "facts": {**facts, "steps": 10}, "rows": rows}
    other = {"name": "integrated gradients [net]", "facts": {**facts, "points": 9}, "rows": rows}
    result = {"machine": MACHINE, "commit": "abc", "command": "make it", "races": [pgd, other]}
    text = attack_tables.speed_table(result)
    cell = "2.50× (2.25–2.75)"
    assert f"| net, 64 images | fused | {cell} | {cell} |" in text
    assert "PGD, 10 steps, over torchattacks | integrated gradients, 9 points, over captum" in text
    assert "`make it`" in text


def test_the_page_shows_the_stored_results() -> None:
    page = (attack_tables.ROOT / "docs" / "beyond.md").read_text(encoding="utf-8")
    found = 0
    tables = {
        attack_tables.PARITY: attack_tables.parity_table,
        attack_tables.SPEED: attack_tables.speed_table,
    }
    for name, table in tables.items():
        path = attack_tables.ROOT / "benchmarks" / "results" / name
        if path.exists():
            text = table(json.loads(path.read_text(encoding="utf-8")))
            assert bench_table.fill(page, name, text) == page
            found += 1
    assert found
