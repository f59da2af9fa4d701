"""An operation added from outside: its class, its rule, its binders, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import step_checks
import torch
from torch import Tensor, nn

from sign_ext.compiler.ir.op import Op, Residue, count
from sign_ext.compiler.lower import RULES, lowers
from sign_ext.engine.fused.bind.context import Bindings, Slots, binds, binds_backward
from sign_ext.source_layer import SourceLayer


@dataclass(frozen=True, eq=False, kw_only=True)
class Arctangent(Op):
    """atan(x), which keeps 1 / (1 + x²)."""

    kind: ClassVar[str] = "arctangent"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        return inputs[0].atan(), 1 / (1 + inputs[0] ** 2)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        return (cotangent * kept,)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        return (Residue("slopes", count(self.shape) * element_size),)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        return self.kept(element_size)


@pytest.fixture
def registered():
    """Only while a test runs: the tables are those of the process."""
    calls: list[str] = []

    @lowers("atan.default")
    def arctangent(builder, shape, x):
        return builder.add(Arctangent, (x,), shape)

    @binds(Arctangent)
    def forward(context, i, op):
        def run(s: Slots, images: int, x: Tensor) -> Tensor:
            calls.append(op.kind)
            value, s[i.own[0]] = op.linear(x)
            return value

        return run

    @binds_backward(Arctangent)
    def backward(context, i, op):
        def run(s: Slots, g: Tensor, other: Tensor | None) -> Tensor:
            (out,) = op.linear_vjp(g, s[i.own[0]])
            return out if other is None else out + other

        return run

    yield calls
    del RULES["atan.default"]
    for table in (binds, binds_backward):
        del table._functions[Arctangent]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = torch.relu(torch.atan(y) + torch.atan(y - 1))
        return self.last(y.mean((2, 3)))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_runs_compiled(registered, precision, torch_rng):
    torch.manual_seed(1)
    images = torch.randn(3, 3, 7, 5, generator=torch_rng)
    model, source = Net().eval().requires_grad_(False), SourceLayer("last", "input", "Linear")
    with torch.no_grad():
        step = step_checks.bound_step(model, images, source)
    assert [op.kind for op in step.program.ops].count("arctangent") == 2
    assert step.memory.residues == 2 * 6 * 5 * 3 * 4 + 5 * 3  # slopes of two, bits of the ReLU
    assert "keeps slopes 360 B" in str(step.program)
    ours, eager = step_checks.errors(model, images, precision, source)
    assert step_checks.within(ours, eager), f"{ours:.2e}, eager {eager:.2e}"
    assert registered


def test_a_kind_has_the_binders_of_what_it_derives_from(registered):
    class Other(Arctangent):
        """Of the same binders."""

    made = {
        kind: kind(inputs=(0,), output=1, in_shapes=((1,),), shape=(1,))
        for kind in (Arctangent, Other)
    }
    assert binds.of(made[Other]) is binds.of(made[Arctangent])


def test_a_kind_that_nothing_binds_is_named():
    empty = Bindings("binds the forward pass of")
    with pytest.raises(TypeError, match="no function binds the forward pass of Arctangent"):
        empty.of(Arctangent(inputs=(0,), output=1, in_shapes=((1,),), shape=(1,)))
