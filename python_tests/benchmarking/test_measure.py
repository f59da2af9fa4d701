"""Contenders take turns and have medians; peak memory is the bytes counted by hand."""

from __future__ import annotations

import torch

from sign_ext.benchmarking.measure import (
    MemoryUsage,
    Turns,
    memory_usage,
    mirrored,
    on_each,
    step_bytes,
)

CPU = torch.device("cpu")
KIB = 1024


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


def test_the_peak_counts_what_is_held_at_once() -> None:
    def work() -> None:
        first = torch.empty(4 * KIB, dtype=torch.uint8)
        second = torch.empty(8 * KIB, dtype=torch.uint8)
        del first
        third = torch.empty(2 * KIB, dtype=torch.uint8)
        del second
        fourth = torch.empty(5 * KIB, dtype=torch.uint8)
        del third, fourth

    # The first two at once; later 10 and 7.
    assert memory_usage(work, CPU) == MemoryUsage(peak=12 * KIB, kept=0)


def test_what_was_there_before_does_not_count_and_what_stays_is_kept() -> None:
    held = [torch.empty(64 * KIB, dtype=torch.uint8)]

    def work() -> None:
        torch.empty(9 * KIB, dtype=torch.uint8)
        held.append(torch.empty(3 * KIB, dtype=torch.uint8))

    assert memory_usage(work, CPU) == MemoryUsage(peak=9 * KIB, kept=3 * KIB)


def test_a_result_is_not_kept() -> None:
    assert memory_usage(lambda: torch.zeros(KIB), CPU) == MemoryUsage(peak=4 * KIB, kept=0)


def test_a_step_counts_buffers_of_the_first_call_but_not_its_passing_needs() -> None:
    kept: list[torch.Tensor] = []

    def run(images: torch.Tensor) -> torch.Tensor:
        if not kept:
            torch.empty(900 * KIB, dtype=torch.uint8)
            kept.append(torch.empty(7 * KIB, dtype=torch.uint8))
        passing = torch.empty(2 * KIB, dtype=torch.uint8)
        result = images.clone()
        del passing
        return result

    assert step_bytes(run, torch.zeros(2, 3, 8, 8)) == 9 * KIB
