"""Shared by the benchmarks: the device, machine facts, and a fair race between contenders.

Each benchmark test is one race: all contenders do the same work and take turns, so that a busy
machine slows all of them equally. `make bench` prints the medians and ratios of each race.

    @pytest.mark.benchmark(group="sign_update_ float32")
    def test_sign_update(race, device):
        race({"unfused torch": unfused, "sign_update_": fused}, baseline="unfused torch")
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from sign_ext import environment
from sign_ext.benchmarking.measure import Turns

STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a benchmark run: device, contenders, sizes and time limit."""
    add = parser.getgroup("sign_ext benchmarks").addoption
    add("--device", default=None, help="cpu or cuda (default: cuda if available)")
    add("--all-peers", action="store_true", help="include peers and networks that take minutes")
    add("--images", type=int, default=None, help="images per race (default: the race's own)")
    add("--steps", type=int, default=None, help="K of each race (default: the race's own)")
    add(
        "--seconds",
        type=float,
        default=float(os.environ.get("BENCH_SECONDS", "inf")),
        help="skip benchmarks that would start later than this (default: $BENCH_SECONDS, or none)",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Store the start time for --seconds."""
    session.config.stash[STARTED] = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would start after --seconds, so that a limited run still reports the rest."""
    spent = time.monotonic() - item.config.stash[STARTED]
    if spent > item.config.getoption("--seconds"):
        pytest.skip(f"the run has taken {spent:.0f} s, more than --seconds")


def device_of(config: pytest.Config) -> torch.device:
    """The device to measure on: --device, else the GPU where there is one."""
    name = config.getoption("--device")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to measure on: --device, else the GPU where there is one."""
    return device_of(request.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip benchmarks marked `gpu` if there is no GPU to run on."""
    if torch.cuda.is_available() and config.getoption("--device") != "cpu":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU to measure on"))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Record what the numbers depend on, without the machine's host name."""
    machine_info.clear()
    machine_info.update(environment.machine_details())


def quantiles(values: list[float]) -> list[float]:
    """The quartiles of the ratios of single rounds, the median between them."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


@pytest.fixture
def race(benchmark: Any, device: torch.device) -> Callable[..., dict[str, float]]:
    """A function that times contenders in turns; see the module's docstring for an example."""

    def run(
        contenders: Mapping[str, Callable[[], object]],
        *,
        baseline: str,
        rounds: int = 15,
        warmup: int = 2,
        calls: int = 1,
        **facts: object,
    ) -> dict[str, float]:
        """Time every contender `rounds` times, interleaved.

        Args:
            contenders: Name → function. All do the same work at equal precision.
            baseline: The contender that ratios refer to.
            rounds: Turns per contender.
            warmup: Untimed calls per contender first (compilation, caches, allocator).
            calls: Calls per turn, timed together; more if a call is shorter than a launch.
            **facts: Stored with the numbers, such as shape="128x3x32x32" or bytes_moved=...

        Returns:
            Name → median seconds.
        """
        if baseline not in contenders:
            raise ValueError(f"baseline {baseline!r} is not among {', '.join(contenders)}")
        turns = Turns(contenders, device, calls)
        for _ in range(warmup if benchmark.enabled else 0):
            for work in contenders.values():
                work()
        benchmark.pedantic(turns.round, rounds=rounds, iterations=1)
        medians = turns.medians()
        quartiles = {
            name: quantiles([a / b for a, b in zip(turns.times[baseline], times, strict=True)])
            for name, times in turns.times.items()
        }
        benchmark.extra_info.update(
            facts,
            device=device.type,
            baseline=baseline,
            contenders={
                name: {
                    "median": median,
                    "fastest": min(times),
                    "rounds": len(times),
                    "ratio_quartiles": quartiles[name],
                }
                for (name, times), median in zip(turns.times.items(), medians.values(), strict=True)
            },
        )
        return medians

    return run
