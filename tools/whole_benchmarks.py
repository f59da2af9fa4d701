"""A pytest plugin for a run of benchmarks that may be interrupted: its JSON has the whole ones.

pytest-benchmark alone would count the rounds of a benchmark that did not end, and where there are
none yet write no JSON at all.
"""

from __future__ import annotations

from typing import Any

import pytest

ENDED = pytest.StashKey[set[str]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Note the tests that ended; an interrupt leaves its test without a report."""
    if call.when == "call":
        item.config.stash.setdefault(ENDED, set()).add(item.nodeid)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_generate_json(config: pytest.Config, benchmarks: list[Any]) -> None:
    """Leave the benchmarks of other tests out, then let pytest-benchmark write."""
    ended = config.stash.get(ENDED, set())
    benchmarks[:] = [one for one in benchmarks if one.fullname in ended]
