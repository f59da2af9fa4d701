"""What benchmarks share: the device, the facts of the machine, and a fair race between peers.

A benchmark is one race a test: every contender does the same work, and they take turns, so that
a busy machine slows all of them alike. `make bench` prints each race's medians and ratios.

    @pytest.mark.benchmark(group="sign_update_ float32")
    def test_sign_update(race, device):
        race({"unfused torch": unfused, "sign_update_": fused}, baseline="unfused torch")
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

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


def _cpu_model() -> str:
    """The processor's name as the kernel tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """The NVIDIA driver's version, or None where nvidia-smi does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.split("\n")[0].strip() or None


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Put beside the numbers what they depend on, and leave out the machine's name."""
    machine_info.clear()
    machine_info.update(
        cpu=_cpu_model(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=torch.backends.cudnn.version(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        driver=_driver(),
        tf32_convolutions=torch.backends.cudnn.allow_tf32,
        tf32_matmuls=torch.backends.cuda.matmul.allow_tf32,
    )


def _clock(work: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds that one of several calls takes, by CUDA events on a GPU and by the clock else."""
    if device.type != "cuda":
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - started) / calls
    torch.cuda.synchronize(device)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


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
        times: dict[str, list[float]] = {name: [] for name in contenders}

        def one_round() -> None:
            for name, work in contenders.items():
                times[name].append(_clock(work, calls, device))

        for _ in range(warmup if benchmark.enabled else 0):
            for work in contenders.values():
                work()
        benchmark.pedantic(one_round, rounds=rounds, iterations=1)
        benchmark.extra_info.update(
            facts,
            device=device.type,
            baseline=baseline,
            contenders={
                name: {"median": statistics.median(of), "fastest": min(of), "rounds": len(of)}
                for name, of in times.items()
            },
        )
        return {name: statistics.median(of) for name, of in times.items()}

    return run
