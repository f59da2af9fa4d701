"""Contenders take turns, and the middle one of their times counts."""

from __future__ import annotations

import torch

from sign_ext.benchmarking.timing import Turns, mirrored, on_each

CPU = torch.device("cpu")


def test_contenders_take_turns() -> None:
    order: list[str] = []
    turns = Turns({name: lambda name=name: order.append(name) for name in "ab"}, CPU, calls=2)
    turns.round()
    turns.round()
    assert "".join(order) == "aabbaabb"
    assert {name: len(times) for name, times in turns.times.items()} == {"a": 2, "b": 2}


def test_medians_are_of_each_contenders_own_times() -> None:
    turns = Turns({"a": int, "b": int}, CPU)
    turns.times.update(a=[3.0, 1.0, 9.0], b=[4.0, 2.0])
    assert turns.medians() == {"a": 3.0, "b": 3.0}


def test_inputs_differ_from_call_to_call() -> None:
    images = torch.arange(2 * 1 * 2 * 3.0).reshape(2, 1, 2, 3)
    seen: list[torch.Tensor] = []
    work = on_each(seen.append, mirrored(images))
    for _ in range(4):
        work()
    assert not any(torch.equal(a, b) for i, a in enumerate(seen[:3]) for b in seen[:i])
    assert torch.equal(seen[3], seen[0])
