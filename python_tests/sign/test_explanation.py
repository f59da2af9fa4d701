"""What `explain()` reports; python_tests/engine/test_backends.py holds it to what then runs."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.explanation import Explanation, IslandShare
from sign_ext.ops.native import NATIVE


def test_the_answers(model, images):
    sign = SignTransform(model, 7, snapshots=(3, 7))
    assert "guess" in str(sign.explain())
    answer = sign.explain(images)
    assert answer.source_layer == "the input of '9' (Linear 28 → 4)"
    assert answer.backend == ("fused" if NATIVE.loaded else "autograd")
    assert answer.products == 7
    assert "3, 7" in str(answer)
    assert answer.to_dict()["layout"] == "channels_last"
    assert SignTransform(model, 7, linearize_at="input").explain().products == 1
    assert "output of '5'" in str(SignTransform(model, layer="5").explain())


class Mixed(nn.Module):
    """Convolutions of three kinds, an activation, and two parts without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.point = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 10, 1)
        self.depth = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.classifier = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(torch.logcumsumexp(torch.relu(self.first(x)), 2))
        x = self.depth(torch.logcumsumexp(x, 3))
        return self.classifier(x.square().mean((2, 3)))


def compiled(torch_rng) -> Explanation:
    network = Mixed().eval().requires_grad_(False)
    images = torch.rand(2, 3, 13, 11, generator=torch_rng)
    return SignTransform(network, 1, backend="fused").explain(images)


def percentages(text: str) -> list[int]:
    return [int(each) for each in re.findall(r"(\d+)%", text)]


def test_operations_have_their_shares_of_a_step(torch_rng):
    answer = compiled(torch_rng)
    lines = [line for line in answer.operations if "of a step (estimated): " in line]
    total = 0
    shares = []
    for line in lines:
        head, kinds = line.split(": ")
        (share,) = percentages(head)
        shares.append(share)
        total += share
        if len(parts := percentages(kinds)) > 1:
            assert sum(parts) == pytest.approx(share, abs=len(kinds.split(", ")))
    assert total == pytest.approx(100, abs=len(lines))
    assert shares == sorted(shares, reverse=True)
    text = " ".join(lines)
    assert "1 convolution (" in text
    assert "1 convolution 1×1" in text
    assert "1 depthwise convolution" in text
    assert "2 islands (" in text
    assert "1 activation kept as bits until the backward pass" in answer.operations


def test_islands_have_a_sum(torch_rng):
    answer = compiled(torch_rng)
    assert len(answer.islands) == 2
    total = sum(island.share for island in answer.islands)
    assert f"islands    2, together {total:.0%} of a step (estimated)\n" in str(answer)
    assert "1 vector-Jacobian product for" in str(answer)


def explanation(**fields) -> Explanation:
    required = dict.fromkeys(("model", "source_layer", "backend", "reason", "device"), "x")
    more = dict.fromkeys(("arithmetic", "layout", "update"), "y")
    return Explanation(**{**required, **more, "products": 2, **fields})


def test_many_islands_are_the_largest_and_a_sum():
    islands = tuple(IslandShare(("sort",), f"a.{i}", 0.09 - i / 100) for i in range(7))
    text = str(explanation(islands=islands))
    assert "islands    7, together 42% of a step (estimated); the largest 5:\n" in text
    assert text.count("\nisland     sort") == 5
    assert "a.4" in text
    assert "a.5" not in text
    small = str(explanation(islands=(IslandShare(("sort",), "", 0.0004),)))
    assert "island     sort: under 1% of a step (estimated)" in small
    assert "islands" not in small


def test_long_answers_are_broken_between_things():
    kinds = ", ".join(f"{n} convolutions of a kind ({n}%)" for n in range(100, 140))
    answer = explanation(operations=(kinds,))
    lines = str(answer).splitlines()
    assert max(map(len, lines)) <= 120
    rows = [line[11:] for line in lines if not line[:11].strip() or line.startswith("operations")]
    assert len(rows) > 5
    assert " ".join(rows) == kinds
    for line in rows:
        assert line[0] != "("
        assert not line[-1].isdigit()


def test_a_constant_sum_is_asked_for_again_when_weights_have_changed(torch_rng):
    network = nn.Sequential(nn.Flatten(), nn.Linear(60, 7), nn.LayerNorm(7), nn.Linear(7, 3)).eval()
    images = torch.rand(2, 3, 4, 5, generator=torch_rng)
    assert any("constant" in note for note in SignTransform(network, 1).explain(images).notes)
    with torch.no_grad():
        network[2].weight.copy_(torch.rand(7, generator=torch_rng))
    assert SignTransform(network, 1).explain(images).notes == ()
