"""What benchmarks share: the device, the facts of the machine, and a fair race between peers.

A benchmark is one race a test: every contender does the same work, and they take turns, so that
a busy machine slows all of them alike. `make bench` prints each race's medians and ratios.

    @pytest.mark.benchmark(group="sign_update_ float32")
    def test_sign_update(race, device):
        race({"unfused torch": unfused, "sign_update_": fused}, baseline="unfused torch")
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from sign_ext import environment
from sign_ext.benchmarking.measure import Turns

STARTED = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what a run of benchmarks can be told: where, who takes part, how much and how long."""
    add = parser.getgroup("sign_ext benchmarks").addoption
    add("--device", default=None, help="cpu or cuda (default: cuda where there is)")
    add("--all-peers", action="store_true", help="also peers and networks that take minutes each")
    add("--images", type=int, default=None, help="images a race (default: its own numbers)")
    add("--steps", type=int, default=None, help="K of a race (default: its own)")
    add(
        "--seconds",
        type=float,
        default=float(os.environ.get("BENCH_SECONDS", "inf")),
        help="start no benchmark after this long, skip it (default: $BENCH_SECONDS, else no limit)",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Note when --seconds begin."""
    session.config.stash[STARTED] = time.monotonic()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what would start after --seconds, so that a run with a limit still reports the rest."""
    spent = time.monotonic() - item.config.stash[STARTED]
    if spent > item.config.getoption("--seconds"):
        pytest.skip(f"{spent:.0f} s are spent, more than --seconds")


def device_of(config: pytest.Config) -> torch.device:
    """The device to measure on: --device, else the GPU where there is one."""
    name = config.getoption("--device")
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device to measure on: --device, else the GPU where there is one."""
    return device_of(request.config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip benchmarks marked `gpu` where they would have no GPU to run on."""
    if torch.cuda.is_available() and config.getoption("--device") != "cpu":
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU to measure on"))


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put beside the numbers what they depend on, and leave out the machine's name."""
    machine_info.clear()
    machine_info.update(environment.machine_details())


@pytest.fixture
def race(benchmark: Any, device: torch.device) -> Callable[..., dict[str, float]]:
    """Time contenders in turns; see the module's docstring for an example."""

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
            contenders: Name → what to call. All do the same work at equal precision.
            baseline: The contender that the ratios are against.
            rounds: Turns that each contender gets.
            warmup: Untimed calls of each before (compilation, caches, allocator).
            calls: Calls a turn, timed together: more where one call is shorter than a launch.
            **facts: Kept beside the numbers, such as shape="128x3x32x32" or bytes_moved=...

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
        benchmark.extra_info.update(
            facts,
            device=device.type,
            baseline=baseline,
            contenders={
                name: {"median": median, "fastest": min(of), "rounds": len(of)}
                for (name, of), median in zip(turns.times.items(), medians.values(), strict=True)
            },
        )
        return medians

    return run
