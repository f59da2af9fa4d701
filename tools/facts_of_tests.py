"""A pytest plugin: failed tests become facts at once, the counts become one at the end."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from facts import Facts

COUNTS: Counter[str] = Counter()
MOST = 10  # failures that are told one by one


def facts() -> Facts:
    """The file of the check that runs these tests."""
    began = float(os.environ["FIRST_BEGAN"])
    return Facts(Path(os.environ["FIRST_FACTS"]), os.environ["FIRST_STEP"], began)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count a test once; tell those that fail, with the end of what they say."""
    if report.when != "call" and report.passed:
        return
    COUNTS[report.outcome] += 1
    if report.failed and COUNTS["failed"] <= MOST:
        facts().tell("failed", test=report.nodeid, right=False, error=report.longreprtext[-500:])


def pytest_sessionfinish() -> None:
    """How many of each."""
    facts().tell("tests", **COUNTS)
