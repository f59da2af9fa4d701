"""A pytest plugin for benchmark runs that may be interrupted: its JSON has the finished ones only.

pytest-benchmark alone would include the rounds of an unfinished benchmark, and would write no JSON
at all if that benchmark had no rounds yet.
"""

from __future__ import annotations

from typing import Any

import pytest

ENDED = pytest.StashKey[set[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note the tests that ended; the test that is interrupted gets no report."""
    if call.when == "call":
        item.config.stash.setdefault(ENDED, set()).add(item.nodeid)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_json(config: pytest.Config, benchmarks: list[Any]) -> None:
    """Drop the benchmarks of unfinished tests before pytest-benchmark writes its JSON."""
    ended = config.stash.get(ENDED, set())
    benchmarks[:] = [one for one in benchmarks if one.fullname in ended]
