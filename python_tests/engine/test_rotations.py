"""Rotary embedding as one operation on the product that queries and keys are cut from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.rotate import Rotate
from sign_ext.engine.fused.step import Step
from sign_ext.source_layer import Phi, find_source_layer

HEADS, SIZE = 3, 8  # of a head


def pairs(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)


def halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


class Turned(nn.Module):
    """A patch embedding and attention whose q and k are turned behind the first `kept` tokens."""

    def __init__(self, turn=pairs, kept: int = 1, apart: bool = False, extra: bool = False) -> None:
        super().__init__()
        width = HEADS * SIZE
        self.turn, self.kept, self.extra = turn, kept, extra
        self.first = nn.Conv2d(3, width, 4, 4)
        self.products = nn.ModuleList(
            nn.Linear(width, width) if apart else nn.Linear(width, 3 * width)
            for _ in range(3 if apart else 1)
        )
        self.token = nn.Parameter(torch.randn(1, kept, width))
        self.angles = nn.Parameter(torch.randn(6, SIZE))
        self.last = nn.Linear(width, width)
        self.head = nn.Linear(width, 2)

    def rope(self, x: Tensor) -> Tensor:
        before, x = x[:, :, : self.kept], x[:, :, self.kept :]
        x = x * self.angles.cos() + self.turn(x) * self.angles.sin()
        return torch.cat([before, x], 2) if self.kept else x

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) if self.kept else x
        parts = torch.cat([product(x) for product in self.products], -1)
        if len(self.products) > 1:
            q, k, v = (
                product(x).unflatten(2, (HEADS, SIZE)).transpose(1, 2) for product in self.products
            )
        else:
            q, k, v = parts.unflatten(2, (3, HEADS, SIZE)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(self.rope(q), self.rope(k), v)
        y = self.last(y.transpose(1, 2).flatten(2)) + x
        if self.extra:  # the queries are read once more, as they were
            y = y + q.transpose(1, 2).flatten(2).tanh()
        return self.head(y.sin().mean(1))


CASES = {
    "pairs": {},
    "halves": {"turn": halves},
    "without a token": {"kept": 0},
    "two tokens, halves": {"turn": halves, "kept": 2},
    "three products": {"apart": True},
    "read twice": {"extra": True},
}


@pytest.mark.parametrize("name", CASES)
def test_delta_is_autograds(name):
    torch.manual_seed(3)
    model = Turned(**CASES[name]).eval().requires_grad_(False).double()
    images = torch.randn(3, 3, 8, 12).double()
    phi = Phi(model, find_source_layer(model, images[:1]))
    program = compile_phi(phi, images[:1], strict=True)
    x = images.clone().requires_grad_()
    value = phi(x)
    (wanted,) = torch.autograd.grad(value, x, torch.ones_like(value))
    turns = [op for op in program.ops if isinstance(op, Rotate)]
    assert len(turns) == (2 if "apart" in CASES[name] else 1)
    assert "broadcast mul" not in str(program)
    norm = float(wanted.norm())
    assert float((program.pullback_of_ones(images) - wanted).norm()) < 1e-11 * norm
    for dtype, most in ((torch.float64, 1e-11), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
        step = Step(program, dtype, images.device, len(images))
        single = images if dtype == torch.float64 else images.float()
        got = step.pullback_of_ones(single).double()
        assert float((got - wanted).norm()) < most * norm


def test_what_no_permutation_of_channels_does_is_left_as_it_is():
    """Both channels of a pair get the same partner."""

    def same(x: Tensor) -> Tensor:
        return torch.stack([x[..., ::2], x[..., ::2]], -1).reshape(x.shape)

    torch.manual_seed(4)
    model = Turned(same).eval().requires_grad_(False).double()
    images = torch.randn(2, 3, 8, 12).double()
    phi = Phi(model, find_source_layer(model, images[:1]))
    program = compile_phi(phi, images[:1], strict=True)
    assert not any(isinstance(op, Rotate) for op in program.ops)
    x = images.clone().requires_grad_()
    value = phi(x)
    (wanted,) = torch.autograd.grad(value, x, torch.ones_like(value))
    difference = program.pullback_of_ones(images) - wanted
    assert float(difference.norm()) < 1e-11 * float(wanted.norm())


def test_equal_angles_are_prepared_once():
    """Three rotations of an image, the last by the angles of the first."""
    torch.manual_seed(9)
    shape = (4, 2, 3)
    one, two = (tuple(torch.randn(2, *shape).double()) for _ in range(2))
    same = tuple(each.clone() for each in one)
    ops = tuple(
        Rotate(
            inputs=(i,),
            output=i + 1,
            in_shapes=(shape,),
            shape=shape,
            own=own,
            other=other,
            partners=(1, 2, 3, 0),
        )
        for i, (own, other) in enumerate((one, two, same))
    )
    program = Program(image_shape=shape, ops=ops, seed=torch.randn(shape).double())
    images = torch.randn(2, *shape).double()
    step = Step(program, torch.float64, images.device, len(images))
    assert step.prepared[0] is step.prepared[2]
    assert step.prepared[0] is not step.prepared[1]
    wanted = program.pullback_of_ones(images)
    assert float((step.pullback_of_ones(images) - wanted).norm()) < 1e-13 * float(wanted.norm())
    x = images.clone().requires_grad_()
    value = x
    for own, other in (one, two, same):
        value = value * own + value[:, [1, 2, 3, 0]] * other
    (independent,) = torch.autograd.grad((value * program.seed).sum(), x)
    assert float((wanted - independent).norm()) < 1e-13 * float(wanted.norm())
