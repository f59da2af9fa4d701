"""Medians and ratios from a benchmark file agree with arithmetic by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_table
import pytest
from bench_table import END, condense, fact, fill, markdown, seconds, size, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def raw() -> dict[str, Any]:
    """Shortened JSON of pytest-benchmark: a race of two, a single benchmark, and memory."""
    contenders = {
        "naive": {"median": 0.5, "fastest": 0.4, "rounds": 15, "share_of_matmul": 0.25},
        "ours": {"median": 0.2, "fastest": 0.1, "rounds": 15, "share_of_matmul": 0.625},
    }
    race = {
        "name": "test_race[3]",
        "group": "BasicCNN",
        "param": "3",
        "stats": {"median": 0.7, "rounds": 15, "data": [0.7] * 15},
        "extra_info": {
            "contenders": contenders,
            "baseline": "naive",
            "batch": 128,
            "matmul_flop_per_s": 95.2e9,
            "absent": {"theirs": "not installed"},
        },
    }
    alone = {
        "name": "test_alone",
        "group": None,
        "param": None,
        "stats": {"median": 2e-5, "rounds": 9, "data": [2e-5] * 9},
        "extra_info": {},
    }
    rows = {
        "eager": {
            "peak": 8e6,
            "per_image": 2e6,
            "per_further_image": 1.5e6,
            "saved_per_image": 1.25e6,
        },
        "lean": {"peak": 2e6, "per_image": 5e5, "per_further_image": 4e3},
    }
    memory = {
        "name": "test_memory[x]",
        "group": "memory",
        "param": "x",
        "stats": {"median": 3.0, "rounds": 1, "data": [3.0]},
        "extra_info": {"memory": rows, "baseline": "eager", "images": 4},
    }
    return {
        "machine_info": {"cpu": "some processor", "threads": 2, "torch": "2.15.0", "gpu": None},
        "commit_info": {"id": "abc", "dirty": True},
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [race, alone, memory],
    }


def test_ratios_are_the_baselines_median_over_each(raw: dict[str, Any]) -> None:
    race, alone, _ = condense(raw)["races"]
    assert [row["ratio"] for row in race["rows"]] == pytest.approx([1.0, 2.5])
    assert race["facts"] == {"batch": 128, "matmul_flop_per_s": 95.2e9}
    assert race["absent"] == [{"name": "theirs", "reason": "not installed"}]
    assert alone["rows"] == [{"name": "test_alone", "median": 2e-5, "rounds": 9, "ratio": 1.0}]
    assert [race["measures"], alone["measures"]] == ["time", "time"]


def test_ratios_of_memory_are_each_over_the_baseline(raw: dict[str, Any]) -> None:
    memory = condense(raw)["races"][2]
    assert memory["measures"] == "memory"
    assert [row["ratio"] for row in memory["rows"]] == pytest.approx([1.0, 0.25])
    assert memory["rows"][1]["per_further_image"] == 4e3
    assert memory["facts"] == {"images": 4}


def test_the_result_keeps_the_commit_and_drops_the_raw_times(raw: dict[str, Any]) -> None:
    result = condense(raw)
    assert (result["commit"], result["uncommitted_changes"]) == ("abc", True)
    assert "data" not in str(result)
    assert json.loads(json.dumps(result)) == result


def line_of(text: str, name: str) -> str:
    """The table's line of one contender."""
    return next(line for line in text.splitlines() if line.strip().startswith(name))


def test_the_table_names_machine_medians_and_ratios(raw: dict[str, Any]) -> None:
    text = table(condense(raw))
    assert line_of(text, "naive").split() == ["naive", "500", "ms", "1.00×", "25.0%", "baseline"]
    assert line_of(text, "ours").split() == ["ours", "200", "ms", "2.50×", "62.5%"]
    assert line_of(text, "theirs").split() == ["theirs", "not", "installed"]
    assert "\n  test_alone   20 µs  1.00×\n" in text
    assert "batch 128, matmul 95.2 GFLOP/s" in text
    assert "some processor" in text
    assert "abc with uncommitted changes" in text


def test_the_table_of_memory(raw: dict[str, Any]) -> None:
    text = table(condense(raw))
    words = ["eager", "8", "MB", "2", "MB", "1.00", "1.5", "MB", "1.25", "MB", "baseline"]
    assert line_of(text, "eager").split() == words
    assert line_of(text, "lean").split() == ["lean", "2", "MB", "500", "kB", "0.25", "4", "kB"]


def test_columns_are_aligned(raw: dict[str, Any]) -> None:
    text = table(condense(raw)).splitlines()
    heading, first = (line for line in text if "speed" in line or line.startswith("  naive"))
    assert heading.index("speed") + len("speed") == first.index("1.00×") + len("1.00×")


def test_markdown_has_a_table_for_each_race(raw: dict[str, Any]) -> None:
    text = markdown(condense(raw))
    assert "| naive | 500 ms | 1.00× | 25.0% |" in text
    assert "|  | median | speed | of matmul |\n|---|---:|---:|---:|\n" in text
    assert "Not run: theirs (not installed)." in text
    assert "| lean | 2 MB | 500 kB | 0.25 | 4 kB |  |" in text


def test_filling_replaces_only_one_section() -> None:
    mark = "<!-- generated from a.json: by make -->"
    other = f"<!-- generated from b.json -->\nkeep\n{END}"
    document = f"before\n{mark}\nold\n{END}\nafter\n{other}\n"
    filled = fill(document, "a.json", "new")
    assert filled == f"before\n{mark}\n\nnew\n\n{END}\nafter\n{other}\n"
    assert fill(filled, "a.json", "new") == filled
    with pytest.raises(ValueError, match=r"c\.json"):
        fill(document, "c.json", "new")


def test_the_command_condenses_and_fills(raw: dict[str, Any], tmp_path: Path) -> None:
    source, out, page = (tmp_path / name for name in ("raw.json", "out/bench.json", "page.md"))
    source.write_text(json.dumps(raw))
    page.write_text(f"<!-- generated from bench.json -->\n{END}\n")

    def call(*arguments: object) -> str:
        command = [sys.executable, bench_table.__file__, *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert "2.50×" in call(source, "--out", out)
    assert json.loads(out.read_text()) == {**condense(raw), "command": "make bench"}
    call(out, "--markdown", page)
    assert "| ours | 200 ms |" in page.read_text()


def test_the_performance_page_is_up_to_date() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    name = "bench_cpu.json"
    result = json.loads((ROOT / "benchmarks/results" / name).read_text(encoding="utf-8"))
    command = f"tools/bench_table.py benchmarks/results/{name} --markdown docs/performance.md"
    assert fill(page, name, markdown(result)) == page, f"out of date; run {command}"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("bytes_moved", 150_994_944, "bytes moved 151 MB"),
        ("floor_seconds", 0.0125, "floor 12.5 ms"),
        ("fraction_of_copy", 1.53277, "fraction_of_copy 1.53"),
        ("precision", "tf32", "precision tf32"),
    ],
)
def test_facts_are_formatted(key: str, value: object, text: str) -> None:
    assert fact(key, value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(2.5e9, "2.5 GB"), (3e6, "3 MB"), (1234, "1.23 kB"), (8, "8 B")]
)
def test_sizes_choose_a_unit(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(12.0, "12 s"), (0.0125, "12.5 ms"), (3.21e-6, "3.21 µs"), (5e-9, "5 ns")]
)
def test_seconds_choose_a_unit(value: float, text: str) -> None:
    assert seconds(value) == text
