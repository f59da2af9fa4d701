"""What all tests share: seeded randomness, hypothesis profiles, and skipping where no GPU is."""

from __future__ import annotations

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
# Under compute-sanitizer every launch costs seconds; a few odd shapes already tell.
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no GPU to run them on, and say why."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        cause = "no NVIDIA GPU here" if torch.version.cuda else "this torch is built without CUDA"
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=f"{cause} (make gpu-check runs these)"))


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
    torch.manual_seed(seed)
