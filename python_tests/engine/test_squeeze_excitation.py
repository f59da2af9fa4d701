"""Squeeze-and-excitation and smooth activations: fused, correct, in the plan, in place."""

from __future__ import annotations

import pytest
import step_checks
import torch
from measured_memory import check_plan, peak_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.squeeze_excitation import SqueezeExcitation
from sign_ext.engine.fused.step import Step
from sign_ext.eval_state import computing
from sign_ext.source_layer import Phi, find_source_layer


class Excited(nn.Module):
    """A network with one squeeze-and-excitation, in the forms that libraries write.

    Args:
        form: "convolutions" (timm), "linear" (flattened), or what must not be fused: "window" (the
            pooling is not global), "other" (the pooling is of another value), "grouped", "read
            twice" (the pooled value is).
        inner: the activation between.
        outer: that of the factors.
    """

    def __init__(self, form: str, inner: nn.Module, outer: nn.Module, bias: bool = True) -> None:
        super().__init__()
        self.form, self.inner, self.outer = form, inner, outer
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.SiLU())
        if form == "linear":
            self.down, self.up = nn.Linear(12, 5, bias), nn.Linear(5, 12, bias)
        else:
            groups = 3 if form == "grouped" else 1
            self.down = nn.Conv2d(12, 6, 1, groups=groups, bias=bias)
            self.up = nn.Conv2d(6, 12, 1, bias=bias)
        self.last = nn.Sequential(nn.Conv2d(12, 8, 1), nn.SiLU(), nn.Flatten())
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = F.adaptive_avg_pool2d(x, 1)
        if self.form == "window":
            pooled = F.avg_pool2d(x, (x.shape[2], 1))
            pooled = F.avg_pool2d(pooled, (1, x.shape[3]))
        if self.form == "other":
            pooled = F.adaptive_avg_pool2d(x + F.relu(x), 1)
        if self.form == "linear":
            pooled = pooled.flatten(1)
        factors = self.outer(self.up(self.inner(self.down(pooled))))
        if self.form == "linear":
            factors = factors[:, :, None, None]
        y = x * factors
        if self.form == "read twice":
            y = y + F.interpolate(pooled, y.shape[2:])
        return self.head(self.last(y))


def excited(
    form: str = "convolutions",
    inner: nn.Module | None = None,
    outer: nn.Module | None = None,
    *,
    size: tuple[int, int] = (5, 7),
    bias: bool = True,
    seed: int = 0,
) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and images."""
    torch.manual_seed(seed)
    model = Excited(form, inner or nn.ReLU(), outer or nn.Sigmoid(), bias)
    images = torch.rand(3, 3, *size)
    model(images)  # the head's size
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4)
    return model.eval().requires_grad_(False), images


def program_of(model: nn.Module, images: Tensor):
    with computing(model):
        return compile_phi(Phi(model, find_source_layer(model, images[:1])), images[:1])


def fused(model: nn.Module, images: Tensor) -> int:
    return sum(isinstance(op, SqueezeExcitation) for op in program_of(model, images).ops)


FORMS = [
    ("convolutions", nn.ReLU(), nn.Sigmoid(), True),
    ("convolutions", nn.SiLU(), nn.Sigmoid(), False),
    ("convolutions", nn.LeakyReLU(0.1), nn.Hardsigmoid(), True),
    ("convolutions", nn.ReLU6(), nn.Tanh(), True),
    ("linear", nn.GELU(), nn.Sigmoid(), True),
    ("linear", nn.ReLU(), nn.ReLU(), False),
]


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (8, 3)])
@pytest.mark.parametrize(("form", "inner", "outer", "bias"), FORMS)
def test_it_is_one_operation_with_autograds_gradient(form, inner, outer, bias, size):
    model, images = excited(form, inner, outer, size=size, bias=bias)
    if size != (1, 1):  # there is nothing to pool: it may be anything
        assert fused(model, images) == 1
    double, exact = model.double(), images.double()
    phi = Phi(double, find_source_layer(double, exact[:1]))
    leaf = exact.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(phi(leaf).sum(), leaf)
    got = compile_phi(phi, exact[:1]).pullback_of_ones(exact)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)
    ours, _ = step_checks.errors(double, exact)
    assert ours < 1e-7  # hardsigmoid's 1/6 is float32 in PyTorch


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("form", "inner", "outer", "bias"), FORMS)
def test_steps_are_as_near_as_eager_pytorch(form, inner, outer, bias, precision):
    model, images = excited(form, inner, outer, bias=bias, seed=1)
    step_checks.check(model, images, precision)


@pytest.mark.parametrize("form", ["window", "other", "grouped", "read twice"])
def test_what_looks_like_it_is_left_as_it_is(form):
    model, images = excited(form)
    assert fused(model, images) == 0
    ours, _ = step_checks.errors(model.double(), images.double())
    assert ours < 1e-12


def test_the_plan_says_what_it_takes():
    model, images = excited(size=(24, 20))
    images = images.contiguous(memory_format=torch.channels_last)
    with computing(model), torch.no_grad():
        step = step_checks.bound_step(model, images, find_source_layer(model, images[:1]))
        measured = peak_bytes(lambda: step.stem_cotangent(images), images.device)
    check_plan(len(images) * step.memory.peak, measured, images.device, 0.05)
    (op,) = (op for op in step.program.ops if isinstance(op, SqueezeExcitation))
    kinds = {residue.kind: residue.bytes for residue in op.residues(4)}
    # x once; the reduced values, their activation's and the factors.
    assert kinds == {"input": 12 * 24 * 20 * 4, "factors": (6 + 12 + 12) * 4}


def test_it_says_what_it_is():
    model, images = excited(inner=nn.SiLU())
    assert "squeeze-excitation 6, silu, 12, sigmoid" in str(program_of(model, images))


class Branches(nn.Module):
    """Activations whose input, or whose cotangent, another branch reads too."""

    def __init__(self, function: nn.Module, form: str) -> None:
        super().__init__()
        self.function, self.form = function, form
        self.first, self.second = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 9, 1)
        self.head = nn.Linear(9 * 35, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.form == "input":
            x = self.function(x) * 0.5 + self.second(x).sin()
        elif self.form == "cotangent":
            y = self.second(self.function(x))
            x = self.function(x + y) + F.relu(y)
        else:
            x = self.function(self.second(self.function(x)))
        return self.head(x.flatten(1))


@pytest.mark.parametrize("form", ["input", "cotangent", "chain"])
@pytest.mark.parametrize(
    "function",
    [nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Hardswish(), nn.Hardsigmoid(), nn.Mish()],
    ids=str,
)
def test_what_runs_in_place_changes_nothing_that_is_still_read(function, form):
    torch.manual_seed(4)
    model = Branches(function, form).eval().requires_grad_(False)
    images = torch.rand(2, 3, 5, 7)
    step_checks.check(model, images)
    step_checks.check(model, images, "bfloat16")
    ours, _ = step_checks.errors(model.double(), images.double())
    assert ours < 1e-7


def test_a_chain_runs_in_place_both_ways():
    torch.manual_seed(5)
    model = Branches(nn.SiLU(), "chain").eval().requires_grad_(False)
    images = torch.rand(2, 3, 5, 7)
    step = step_checks.bound_step(model, images, find_source_layer(model, images[:1]))
    assert isinstance(step, Step)
    smooth = [i for i in step.schedule.instructions if step.program.ops[i.op].kind == "smooth"]
    assert [i.in_place for i in smooth if i.kind != "seed"] == [True] * 4
    kept = [s.bytes for s in step.schedule.slots if s.kind == "derivative"]
    assert kept == [9 * 35 * 3] * 2  # 24 bits


def test_an_input_that_is_read_again_is_not_overwritten():
    torch.manual_seed(6)
    model = Branches(nn.SiLU(), "input").eval().requires_grad_(False)
    images = torch.rand(2, 3, 5, 7)
    step = step_checks.bound_step(model, images, find_source_layer(model, images[:1]))
    smooth = [i for i in step.schedule.instructions if step.program.ops[i.op].kind == "smooth"]
    assert not any(i.in_place for i in smooth if i.kind == "forward")
