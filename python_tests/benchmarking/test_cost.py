"""What a set costs is arithmetic on a measured rate."""

from __future__ import annotations

import torch
from torch import nn

from sign_ext.benchmarking import Cost, Race, Row, Task, costs
from sign_ext.benchmarking.table import (
    caption,
    describe_auto,
    describe_cost,
    format_rate,
    format_seconds,
    table_row,
)


def row(name: str, rate: float) -> Row:
    return Row(name, 1000 / rate, 1000 / rate, 1.0, rate, 1e6, 1e-4)


def outcome(*rows: Row) -> Race:
    ordered = tuple(sorted(rows, key=lambda each: each.median))
    return Race(ordered, {}, 5, "float64", 0.03)


TASK = Task(model=nn.Identity(), images=torch.zeros(20, 3, 32, 48), steps=50, step_size=1.0)


def test_seconds_from_given_numbers() -> None:
    # 6.4 whole images of 100 steps a second: 50,000 take 7,812.5 s.
    cost = Cost(50_000, (3, 32, 32), 100, "fused", 128, 640.0)
    assert cost.images_per_second == 6.4
    assert cost.seconds == 7812.5
    assert str(cost) == (
        "SIGN with K = 100 on 50,000 images of 3×32×32: about 2 h 10 min on this machine "
        "(fused, 128 images at a time, 6.4 images/s)"
    )
    assert cost.to_dict()["seconds"] == 7812.5


def test_the_cost_is_that_of_the_backend_that_auto_runs() -> None:
    race = outcome(row("sign_ext fused", 400.0), row("sign_ext graphed", 800.0), row("naive", 1e9))
    both = costs(race, TASK, "fused", images=600, steps=100)
    assert both is not None
    usual, fastest = both
    assert (usual.backend, usual.seconds) == ("fused", 150.0)
    assert (fastest.backend, fastest.seconds) == ("graphed", 75.0)
    assert (usual.batch, usual.image_shape) == (20, (3, 32, 48))
    line = describe_cost(usual.to_dict(), fastest.to_dict())
    assert line.endswith("4.0 images/s); with --backend graphed about 75 s")
    assert describe_cost(usual.to_dict(), usual.to_dict()).endswith("4.0 images/s)")


def test_what_auto_runs_may_not_have_been_timed() -> None:
    both = costs(outcome(row("sign_ext autograd", 10.0)), TASK, "fused", 7, 2)
    assert both is not None
    assert both[0].backend == "autograd"
    assert costs(outcome(row("naive .backward()", 10.0)), TASK, "fused", 7, 2) is None
    assert "not known" in describe_cost(None)


def test_words() -> None:
    assert [format_rate(each) for each in (0.0321, 4.0, 64.3, 12_345.6)] == [
        "0.032",
        "4.0",
        "64",
        "12,346",
    ]
    assert [format_seconds(each) for each in (2.0, 0.0123, 4.5e-6)] == [
        "2 s",
        "12.3 ms",
        "4.5 µs",
    ]
    shown = {**vars(row("x", 500.0)), "speed": None}
    assert table_row(shown) == ["x", "2 s", "–", "500", "1 MB", "0.0001"]
    race = {"rounds": 5, "rounds_wanted": 5, "seconds": 30.0, "reference": "float64"}
    assert "did not fit" not in caption(race)
    assert "(5 did not fit into 30 s)" in caption({**race, "rounds": 2})


def test_a_fallback_is_said() -> None:
    why = "fused was tried: no rule for aten.roll"
    said = describe_auto({"backend": "autograd", "reason": f"auto: {why}"})
    assert said == f"backend auto: autograd, not fused ({why})"
    assert "not fused" not in describe_auto({"backend": "fused", "reason": "auto: compiled"})
