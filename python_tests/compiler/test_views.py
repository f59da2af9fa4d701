"""Operations that only change how a value is seen: against PyTorch, and which of them copy."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.shaping import Reshape, Slice
from sign_ext.compiler.ir.view import View
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer

IMAGE = (3, 6, 4)
COPIES = (Rearrange, Reshape, Slice)


class Between(nn.Module):
    """A function of images (N, 8, 6, 4), after which every element counts in its own way."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.function = function
        self.last = nn.LazyLinear(3)
        self.classifier = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.first(x).tanh())
        return self.classifier(self.last(x.flatten(1)).tanh())


def compiled(function) -> tuple[Program, Phi]:
    torch.manual_seed(1)
    model = Between(function).eval()
    model(torch.rand(2, *IMAGE))
    model.double().requires_grad_(False)
    phi = Phi(model, SourceLayer("classifier", "input", "Linear"))
    return compile_phi(phi, torch.rand(1, *IMAGE).double(), strict=True), phi


def check(function) -> Program:
    """δ of other numbers of images than were recorded, against autograd."""
    program, phi = compiled(function)
    for count in (1, 3):
        images = torch.randn(count, *IMAGE).double()
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
        got = program.pullback_of_ones(images)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    return program


def copies(program: Program) -> list[str]:
    """Those before the last linear layer's own."""
    return [str(op).split(" ")[0] for op in program.ops if isinstance(op, COPIES)]


# Views and what follows them as tokens, which must not copy.
FREE = {
    "tokens": lambda x: F.gelu(x.flatten(2).transpose(1, 2)) * 2,
    "back to an image": lambda x: F.conv2d(
        x.flatten(2).transpose(1, 2).relu().transpose(1, 2).reshape(x.shape), weight(8, 8, 1, 1)
    ),
    "channels last": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)),
    "linear on tokens": lambda x: F.linear(x.flatten(2).mT, weight(5, 8)),
    "linear on five dimensions": lambda x: F.linear(
        x.permute(0, 2, 3, 1).reshape(len(x), 2, 3, 2, 2, 8), weight(5, 8)
    ),
    "a sum of tokens": lambda x: x.flatten(2).mT + F.linear(x.flatten(2).mT, weight(8, 8)),
    "heads and back": lambda x: (
        x.flatten(2).mT.reshape(len(x), 24, 2, 4).permute(2, 0, 1, 3).movedim(0, 2).flatten(2)
    ),
    "the images second": lambda x: F.linear(x.flatten(2).permute(2, 0, 1), weight(5, 8)).transpose(
        0, 1
    ),
    "windows of rows": lambda x: F.layer_norm(
        x.permute(0, 2, 3, 1).reshape(-1, 12, 8), (8,)
    ).reshape(len(x), 2, 12, 8),
    "expanded to what it is": lambda x: x.expand(-1, 8, 6, 4).relu(),
    "same": lambda x: x.squeeze(1).contiguous().clone().unsqueeze(2).squeeze(2),
}

COPYING = {
    "a slice of channels": (lambda x: x[:, 2:5].relu(), ["slice"]),
    "every second row": (lambda x: x.narrow(2, 1, 5)[:, :, ::2].relu(), ["slice"]),
    "twice the same": (lambda x: x[:, 1:].relu() + x[:, 1:].tanh(), ["slice"]),
    "two halves": (lambda x: torch.mul(*x.chunk(2, 1)), ["slice", "slice"]),
    "windows": (
        lambda x: F.linear(windows(x.permute(0, 2, 3, 1)), weight(5, 8)).reshape(len(x), 6, 4, 5),
        ["rearrange"],
    ),
    "windows and back": (
        lambda x: back(F.layer_norm(windows(x.permute(0, 2, 3, 1)), (8,)), x),
        ["rearrange", "rearrange"],
    ),
    "channels between groups": (
        lambda x: F.conv2d(
            x.view(len(x), 2, 4, 6, 4).transpose(1, 2).reshape(x.shape), weight(3, 8, 1, 1)
        ),
        ["rearrange"],
    ),
    "one token": (lambda x: F.layer_norm(x.flatten(2).mT[:, 3], (8,)), ["rearrange"]),
    "norm over the columns": (lambda x: F.layer_norm(x, (4,)), ["rearrange"]),
    "a sum of two orders": (
        lambda x: x.transpose(2, 3).reshape(len(x), 8, 24).relu() + x.flatten(2),
        ["rearrange", "reshape"],
    ),
    "tokens joined": (
        lambda x: torch.cat([x.flatten(2).mT, x.flatten(2).mT[:, :2] * 2], 1).relu(),
        ["rearrange", "reshape"],
    ),
}


def weight(*shape: int) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).cos().reshape(shape)


def windows(x: Tensor) -> Tensor:
    """(N, 6, 4, F) to (N · 6, 2 · 2, F)."""
    n, _, _, f = x.shape
    return x.view(n, 3, 2, 2, 2, f).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 4, f)


def back(x: Tensor, like: Tensor) -> Tensor:
    x = x.view(-1, 3, 2, 2, 2, x.shape[-1]).permute(0, 1, 3, 2, 4, 5).contiguous()
    return x.view(len(like), 6, 4, -1)


@pytest.fixture(autouse=True)
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("name", FREE)
def test_these_copy_nothing(name):
    program = check(FREE[name])
    assert copies(program)[:-1] == [], str(program)


@pytest.mark.parametrize("name", COPYING)
def test_these_copy_this_much(name):
    function, expected = COPYING[name]
    program = check(function)
    found = copies(program)
    assert found[: len(expected)] == expected, str(program)
    assert len(found) <= len(expected) + 1, str(program)


def test_it_takes_no_images_apart():
    for function in (
        lambda x: x[:1].expand(x.shape).relu(),
        lambda x: x.flip(0),
        lambda x: x.transpose(0, 1).reshape(-1, 4).unflatten(0, (8, -1, 6)).transpose(0, 1),
    ):
        with pytest.raises(UnsupportedOperation):
            compiled(function)


def test_a_number_that_happens_to_be_that_of_the_images():
    """Two images are recorded; the windows of an image are two as well."""
    program = check(lambda x: x.reshape(len(x), 2, 4, 24).transpose(1, 2).reshape(len(x), 96, 2))
    assert copies(program)


STEPS = ("reshape", "permute", "slice", "select", "split", "merge", "relu", "twice", "linear")


@st.composite
def compositions(draw: st.DrawFn):
    """A function of (N, 8, 6, 4) made of view operations and what comes between them."""
    steps = []
    shape = (8, 6, 4)
    for name in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=7)):
        if name == "permute":
            order = draw(st.permutations(range(len(shape))))
            steps.append(lambda x, o=order: x.permute(0, *(d + 1 for d in o)))
            shape = tuple(shape[d] for d in order)
        elif name == "reshape":
            shape = draw(st.sampled_from(_reshapes(shape)))
            steps.append(lambda x, s=shape: x.reshape(len(x), *s))
        elif name == "slice":
            d = draw(st.integers(0, len(shape) - 1))
            start, step = draw(st.integers(0, shape[d] - 1)), draw(st.integers(1, 2))
            index = (slice(None),) * (d + 1) + (slice(start, None, step),)
            steps.append(lambda x, i=index: x[i])
            shape = (*shape[:d], len(range(start, shape[d], step)), *shape[d + 1 :])
        elif name == "select" and len(shape) > 1:
            d = draw(st.integers(0, len(shape) - 1))
            i = draw(st.integers(0, shape[d] - 1))
            steps.append(lambda x, d=d, i=i: x.select(d + 1, i))
            shape = (*shape[:d], *shape[d + 1 :])
        elif name == "split":
            d = draw(st.integers(0, len(shape) - 1))
            size = max(1, shape[d] // 2)
            steps.append(lambda x, d=d, s=size: x.split(s, d + 1)[-1])
            last = shape[d] - (math.ceil(shape[d] / size) - 1) * size
            shape = (*shape[:d], last, *shape[d + 1 :])
        elif name == "merge" and len(shape) > 2:
            steps.append(lambda x: F.layer_norm(x.flatten(0, 1), x.shape[-1:]).view(x.shape))
        elif name == "relu":
            steps.append(lambda x: F.relu(x + 0.1))
        elif name == "twice":
            steps.append(lambda x: x + x.contiguous() * 2)
        elif name == "linear":
            steps.append(lambda x: F.linear(x, weight(3, x.shape[-1])))
            shape = (*shape[:-1], 3)

    def function(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return function


def _reshapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    total = math.prod(shape)
    found = [(total,), (*shape, 1), (1, *shape)]
    if len(shape) > 1:
        found += [(shape[0] * shape[1], *shape[2:]), (*shape[:-2], shape[-2] * shape[-1])]
    found += [(total // n, n) for n in (2, 3, 4) if total % n == 0]
    found += [(n, total // n) for n in (2, 3, 4) if total % n == 0]
    return [each for each in found if len(each) < 6]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(compositions())
def test_random_compositions_equal_pytorch(function):
    check(function)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.permutations(range(4)), st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_a_view_covers_what_a_permutation_of_it_covers(order, sizes):
    view = View.contiguous(tuple(sizes)).permuted(order)
    assert view.covers(math.prod(sizes))
    memory = torch.arange(2.0 * math.prod(sizes)).view(2, -1)
    expected = memory.view(2, *sizes).permute(0, *(d + 1 for d in order))
    assert torch.equal(view.on(memory), expected)
    assert view.permuted(view.outermost_first()) == View.contiguous(
        tuple(view.shape[d] for d in view.outermost_first())
    )
    for d, n in enumerate(view.shape):
        if n > 1:
            shape = (*view.shape[:d], n - 1, *view.shape[d + 1 :])
            assert not View(shape, view.strides).covers(math.prod(sizes))
            strides = (*view.strides[:d], 0, *view.strides[d + 1 :])
            assert not View(view.shape, strides).covers(math.prod(sizes))
