"""A call's time is its own, and on a GPU it is waited for."""

from __future__ import annotations

import pytest
import torch

from sign_ext.engine.timing import clock

CPU = torch.device("cpu")


def test_a_call_is_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 16.0])
    monkeypatch.setattr("sign_ext.engine.timing.time.perf_counter", lambda: next(now))
    assert clock(lambda: None, 3, CPU) == 2.0


@pytest.mark.gpu
def test_a_gpus_time_is_waited_for() -> None:
    device = torch.device("cuda")
    a = torch.rand(4096, 4096, device=device)
    a @ a
    # Launching returns at once; 20 products of 137 GFLOP each cannot be done in a millisecond.
    assert clock(lambda: [a @ a for _ in range(20)], 1, device) > 1e-3
