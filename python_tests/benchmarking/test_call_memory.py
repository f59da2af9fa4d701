"""Peak memory of a call agrees with bytes counted by hand."""

from __future__ import annotations

import torch

from sign_ext.benchmarking import memory

CPU = torch.device("cpu")
KIB = 1024


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
    assert memory.usage(work, CPU) == memory.Usage(most=12 * KIB, kept=0)


def test_what_was_there_before_does_not_count_and_what_stays_is_kept() -> None:
    held = [torch.empty(64 * KIB, dtype=torch.uint8)]

    def work() -> None:
        torch.empty(9 * KIB, dtype=torch.uint8)
        held.append(torch.empty(3 * KIB, dtype=torch.uint8))

    assert memory.usage(work, CPU) == memory.Usage(most=9 * KIB, kept=3 * KIB)


def test_a_result_is_not_kept() -> None:
    assert memory.usage(lambda: torch.zeros(KIB), CPU) == memory.Usage(most=4 * KIB, kept=0)


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

    assert memory.step_bytes(run, torch.zeros(2, 3, 8, 8)) == 9 * KIB
