"""What all tests share: seeded randomness, hypothesis profiles, and skipping where no GPU is."""

from __future__ import annotations

import gc
import os
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# No deadlines: a time on a shared machine says nothing about the code.
settings.register_profile("local", deadline=None)
# In CI the same examples every run, so that a failure there is about the change under test.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
# Under compute-sanitizer every launch costs seconds; a few odd shapes are enough.
settings.register_profile(
    "sanitizer",
    deadline=None,
    derandomize=True,
    max_examples=5,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "local")
)
# Tables are as wide as the terminal, which would decide what tests find in a line.
os.environ.pop("COLUMNS", None)


def few_of_each_file(items: list[pytest.Item], most: int) -> list[pytest.Item]:
    """At most so many tests of each file, in order: of every function in turn, spread evenly.

    Args:
        items: The tests to choose from.
        most: Tests of a file; with more functions than that, the first functions' are taken.
    """
    files: dict[str, dict[str, list[pytest.Item]]] = {}
    for item in items:
        function = item.nodeid.partition("[")[0]
        files.setdefault(str(item.path), {}).setdefault(function, []).append(item)
    chosen: set[pytest.Item] = set()
    for functions in files.values():
        cases = list(functions.values())
        share = [0] * len(cases)
        for _ in range(min(most, sum(map(len, cases)))):
            fewest = min((n, i) for i, n in enumerate(share) if n < len(cases[i]))[1]
            share[fewest] += 1
        for of_function, n in zip(cases, share, strict=True):
            chosen.update(of_function[i * len(of_function) // n] for i in range(n))
    return [item for item in items if item in chosen]


@pytest.hookimpl(trylast=True)  # after -m and -k
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no GPU to run them on, and say why.

    With the sanitizer's profile, $SANITIZER_CASES keeps that many of them in each file, no others.
    """
    most = os.environ.get("SANITIZER_CASES")
    if most and os.environ.get("HYPOTHESIS_PROFILE") == "sanitizer":
        kept = few_of_each_file([i for i in items if i.get_closest_marker("gpu")], int(most))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        cause = "no NVIDIA GPU here" if torch.version.cuda else "this torch is built without CUDA"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"{cause} (make gpu-check runs these)"))


def pytest_collection_finish() -> None:
    """Leave all that is imported by now out of the garbage collections that tests cause."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Collect it at the end, as without this: what is left then is reported as a leak by some."""
    gc.unfreeze()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number that is this test's own: it differs between tests and is the same in every run."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """numpy randomness, fresh for this test and the same in every run."""
    return np.random.default_rng(seed)


@pytest.fixture
def torch_rng(seed: int) -> torch.Generator:
    """torch randomness on the CPU, fresh for this test and the same in every run."""
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run on one thread: for networks as small as tests', threads cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _global_seed(seed: int) -> None:
    """Seed what draws from torch's global generator (layers' initial weights, dropout)."""
    # `torch.manual_seed` formats the call stack for each kind of device that is not in use.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
