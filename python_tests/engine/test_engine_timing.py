"""The time of a call, for which a GPU is waited for, and the ceilings made of such times."""

from __future__ import annotations

import pytest
import torch

from sign_ext.engine.timing import Ceilings, ceilings, clock

CPU = torch.device("cpu")


def test_a_call_is_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 16.0])
    monkeypatch.setattr("sign_ext.engine.timing.time.perf_counter", lambda: next(now))
    assert clock(lambda: None, 3, CPU) == 2.0


def test_ceilings_are_what_was_done_by_the_time_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.5, 0.25])
    monkeypatch.setattr("sign_ext.engine.timing._fastest", lambda work, device: next(times))
    # A product of 1024×1024 matrices in 0.5 s; 2^24 floats read and written in 0.25 s.
    expected = Ceilings(2 * 1024**3 / 0.5, 2 * 4 * 2**24 / 0.25)
    assert ceilings.__wrapped__(CPU, torch.float32) == expected


@pytest.mark.gpu
def test_a_gpus_time_is_waited_for() -> None:
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    a @ a
    # Launching returns at once; 20 products of 137 GFLOP each cannot be done in a millisecond.
    assert clock(lambda: [a @ a for _ in range(20)], 1, device) > 1e-3
