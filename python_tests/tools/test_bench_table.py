"""A benchmark file becomes medians and ratios that agree with arithmetic by hand."""

from __future__ import annotations

from typing import Any

import pytest
from bench_table import condense, seconds, table


@pytest.fixture
def raw() -> dict[str, Any]:
    """What pytest-benchmark writes, cut down: one race of two, and one thing timed alone."""
    contenders = {
        "naive": {"median": 0.5, "fastest": 0.4, "rounds": 15},
        "ours": {"median": 0.2, "fastest": 0.1, "rounds": 15},
    }
    race = {
        "name": "test_race[3]",
        "group": "BasicCNN",
        "param": "3",
        "stats": {"median": 0.7, "rounds": 15, "data": [0.7] * 15},
        "extra_info": {"contenders": contenders, "baseline": "naive", "batch": 128},
    }
    alone = {
        "name": "test_alone",
        "group": None,
        "param": None,
        "stats": {"median": 2e-5, "rounds": 9, "data": [2e-5] * 9},
        "extra_info": {},
    }
    return {
        "machine_info": {"cpu": "some processor", "threads": 2, "torch": "2.15.0", "gpu": None},
        "commit_info": {"id": "abc", "dirty": True},
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [race, alone],
    }


def test_ratios_are_the_baselines_median_over_each(raw: dict[str, Any]) -> None:
    race, alone = condense(raw)["races"]
    assert [row["ratio"] for row in race["rows"]] == pytest.approx([1.0, 2.5])
    assert race["facts"] == {"batch": 128}
    assert alone["rows"] == [{"name": "test_alone", "median": 2e-5, "rounds": 9, "ratio": 1.0}]


def test_the_result_keeps_the_commit_and_drops_the_raw_times(raw: dict[str, Any]) -> None:
    result = condense(raw)
    assert (result["commit"], result["uncommitted_changes"]) == ("abc", True)
    assert "data" not in str(result)


def test_the_table_names_machine_medians_and_ratios(raw: dict[str, Any]) -> None:
    text = table(condense(raw))
    assert "2.50×" in text
    assert "200 ms" in text
    assert "20 µs" in text
    assert "batch 128" in text
    assert "some processor" in text


@pytest.mark.parametrize(
    ("value", "text"), [(12.0, "12 s"), (0.0125, "12.5 ms"), (3.21e-6, "3.21 µs"), (5e-9, "5 ns")]
)
def test_seconds_choose_a_unit(value: float, text: str) -> None:
    assert seconds(value) == text
