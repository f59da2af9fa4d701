"""A pytest plugin that records each failed test as a fact at once, and the counts at the end."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from facts import Facts

COUNTS: Counter[str] = Counter()
MAX_FAILURES = 10  # failures that are recorded individually


def facts() -> Facts:
    """The facts file of the check that runs these tests."""
    began = float(os.environ["FIRST_BEGAN"])
    return Facts(Path(os.environ["FIRST_FACTS"]), os.environ["FIRST_STEP"], began)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count each test once; record failures with the end of their output."""
    if report.when != "call" and report.passed:
        return
    COUNTS[report.outcome] += 1
    if report.failed and COUNTS["failed"] <= MAX_FAILURES:
        facts().record("failed", test=report.nodeid, right=False, error=report.longreprtext[-500:])


def pytest_sessionfinish() -> None:
    """Record how many tests passed, failed and were skipped."""
    facts().record("tests", **COUNTS)
