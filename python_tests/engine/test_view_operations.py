"""Operations on views: their δ by the Program and by the bound step, against autograd's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch
from measured_memory import check_plan, peak_bytes
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.attention import Attention
from sign_ext.compiler.ir.broadcast import Broadcast, Select
from sign_ext.compiler.ir.elementwise import Elementwise
from sign_ext.compiler.ir.matmul import MatMul
from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.reduce import First, Reduce
from sign_ext.compiler.ir.softmax import Softmax
from sign_ext.compiler.ir.view import View, stored_shape, stored_strides
from sign_ext.compiler.ir.viewed import (
    Viewed,
    covers_once,
    gather_cotangents,
    laid_out,
)
from sign_ext.engine.fused.step import Step

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass(frozen=True, eq=False, kw_only=True)
class Cut(Op):
    """Some of the image's elements, as a value of its own."""

    start: int
    kind: ClassVar[str] = "cut"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        rows = inputs[0].flatten(1)[:, self.start : self.start + count(self.shape)].contiguous()
        strides = (count(self.shape), *stored_strides(self.shape))
        return rows.as_strided((len(rows), *self.shape), strides), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        whole = cotangent.new_zeros((len(cotangent), *self.in_shapes[0]))
        rows = View.contiguous((count(self.shape),)).on(cotangent)
        whole.flatten(1)[:, self.start : self.start + count(self.shape)] = rows
        return (whole,)


@dataclass
class Case:
    """One operation on views, and the same in PyTorch.

    Attributes:
        kind: of the operation.
        inputs: stored shapes.
        operands: which input, and its view, for each.
        out: the value's shape as the network has it.
        function: the same in PyTorch, of (N, *view.shape) for each operand.
        options: of the operation.
        order: of the value in memory.
        positive: whether the images are.
    """

    kind: type[Op]
    inputs: Sequence[Shape]
    operands: Sequence[tuple[int, View]]
    out: Shape
    function: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    order: Sequence[int] | None = None
    positive: bool = False

    @property
    def size(self) -> int:
        """Elements of an image."""
        return sum(count(shape) for shape in self.inputs)

    def program(self, seed: Tensor) -> Program:
        """The inputs cut from the image, then the operation."""
        ops: list[Op] = []
        start = 0
        for shape in self.inputs:
            number = len(ops) + 1
            cut = Cut(
                inputs=(0,), in_shapes=((self.size, 1, 1),), output=number, shape=shape, start=start
            )
            ops.append(cut)
            start += count(shape)
        stored, view = laid_out(self.out, self.order)
        options = dict(self.options)
        if issubclass(self.kind, Viewed):
            options["operands"] = tuple(number for number, _ in self.operands)
            options["views"] = tuple(view for _, view in self.operands)
            options["out"] = view
        inputs = tuple(range(1, len(ops) + 1))
        last = self.kind(
            inputs=inputs,
            in_shapes=tuple(self.inputs),
            output=len(ops) + 1,
            shape=stored,
            **options,
        )
        memory = torch.empty(1, *stored).to(seed)
        memory = (
            memory.contiguous(memory_format=torch.channels_last) if memory.dim() == 4 else memory
        )
        view.on(memory).copy_(seed)
        return Program(image_shape=(self.size, 1, 1), ops=(*ops, last), seed=memory[0])

    def delta(self, images: Tensor, seed: Tensor) -> Tensor:
        """Autograd's."""
        x = images.clone().requires_grad_()
        starts = [sum(count(shape) for shape in self.inputs[:i]) for i in range(len(self.inputs))]
        rows = x.flatten(1)
        operands = []
        for number, view in self.operands:
            part = rows[:, starts[number] :]
            size = (len(x), *view.shape)
            operands.append(
                part.as_strided(size, (rows.stride(0), *view.strides), starts[number] + view.offset)
            )
        value = self.function(*operands)
        assert value.shape[1:] == self.out
        (found,) = torch.autograd.grad(value, x, seed.expand_as(value))
        return found


def of_qkv(heads: int, length: int, size: int, windows: int = 0) -> tuple[Shape, list[View]]:
    """The stored shape of a product with three times the features, and q, k and v of it."""
    features = heads * size
    row, whole = 3 * features, 3 * features * length
    lead, steps = ((windows,), (whole,)) if windows else ((), ())
    views = [
        View((*lead, heads, length, size), (*steps, size, row, 1), part * features)
        for part in range(3)
    ]
    return stored_shape((*lead, length, row)), views


def attend(**options: Any) -> Callable[..., Tensor]:
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def fixed(*shape: int) -> Tensor:
    """The same constant for every case that asks for it, exact in bfloat16."""
    rng = torch.Generator().manual_seed(count(shape))
    return torch.randn(shape, generator=rng).bfloat16().float()


def shut(*shape: int) -> Tensor:
    """A mask as networks write it, one row of which shuts everything out."""
    mask = torch.zeros(shape)
    mask[..., ::2, ::3] = -torch.inf
    mask[..., 1, :] = -torch.inf
    return mask


def attentions() -> dict[str, Case]:
    shape, qkv = of_qkv(3, 7, 8)
    same = [(0, view) for view in qkv]
    order = (1, 0, 2)
    found = {
        "of one product": Case(
            Attention, [shape], same, (3, 7, 8), attend(), {"scale": 8**-0.5}, order
        ),
        "causal": Case(
            Attention, [shape], same, (3, 7, 8), attend(is_causal=True, scale=0.2),
            {"scale": 0.2, "causal": True}, order,
        ),
    }  # fmt: skip
    for name, bias in (("bias", fixed(1, 3, 7, 7)), ("bias of all heads", fixed(1, 1, 1, 7)),
                       ("nothing to read", shut(1, 1, 7, 7))):  # fmt: skip

        def biased(q: Tensor, k: Tensor, v: Tensor, bias: Tensor = bias) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q))

        found[name] = Case(
            Attention, [shape], same, (3, 7, 8), biased, {"scale": 8**-0.5, "bias": bias}, order
        )
    windows, views = of_qkv(2, 5, 4, windows=3)
    for name, bias in (("windows", None), ("windows with a mask", fixed(3, 2, 5, 5))):

        def of_windows(q: Tensor, k: Tensor, v: Tensor, bias: Any = bias) -> Tensor:
            mask = None if bias is None else bias.to(q)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

        found[name] = Case(
            Attention, [windows], [(0, view) for view in views], (3, 2, 5, 4), of_windows,
            {"scale": 0.5, "bias": bias}, (0, 2, 1, 3),
        )  # fmt: skip
    # q of one value, k and v of another, which has other positions; v of another size.
    q = View((2, 5, 4), (4, 8, 1))
    found["of two values"] = Case(
        Attention, [(8, 1, 5), (16, 1, 9)],
        [(0, q), (1, View((2, 9, 4), (4, 16, 1))), (1, View((2, 9, 4), (4, 16, 1), 8))],
        (2, 5, 4), attend(), {"scale": 0.5}, order,
    )  # fmt: skip
    found["of three values"] = Case(
        Attention, [(8, 1, 5), (3, 3, 3), (18, 1, 9)],
        [(0, View((2, 5, 3), (4, 8, 1))), (1, View((1, 9, 3), (0, 3, 1))),
         (2, View((2, 9, 7), (9, 18, 1)))],
        (2, 5, 7), lambda q, k, v: torch.softmax(q @ k.mT * 0.7, -1) @ v, {"scale": 0.7}, order,
    )  # fmt: skip
    found["heads that share k and v"] = Case(
        Attention, [(12, 1, 5), (8, 1, 6)],
        [(0, View((3, 5, 4), (4, 12, 1))), (1, View((1, 6, 4), (0, 8, 1))),
         (1, View((1, 6, 4), (0, 8, 1), 4))],
        (3, 5, 4), attend(scale=0.6), {"scale": 0.6}, order,
    )  # fmt: skip
    found["without heads"] = Case(
        Attention, [(12, 1, 5)],
        [(0, View((5, 4), (12, 1))), (0, View((5, 4), (12, 1), 4)), (0, View((5, 4), (12, 1), 8))],
        (5, 4), attend(), {"scale": 0.5}, None,
    )  # fmt: skip
    return found


def products() -> dict[str, Case]:
    a, b = View((2, 5, 3), (3, 6, 1)), View((2, 3, 7), (21, 1, 3))
    shapes = [(6, 1, 5), (3, 2, 7)]
    return {
        "two values": Case(MatMul, shapes, [(0, a), (1, b)], (2, 5, 7), torch.matmul),
        "broadcast": Case(
            MatMul, [(6, 1, 5), (3, 1, 7)], [(0, a), (1, View((3, 7), (7, 1)))], (2, 5, 7),
            lambda a, b: a @ b.unsqueeze(1),
        ),
        "a value with itself": Case(
            MatMul, [(6, 1, 5)], [(0, View((5, 6), (6, 1))), (0, View((6, 5), (1, 6)))], (5, 5),
            torch.matmul,
        ),
        "by a constant": Case(
            MatMul, shapes[:1], [(0, a)], (2, 5, 4), lambda a: a @ fixed(3, 4).to(a),
            {"factor": fixed(3, 4)}, (1, 0, 2),
        ),
        "a constant by it": Case(
            MatMul, shapes[:1], [(0, a)], (2, 4, 3), lambda a: fixed(2, 4, 5).to(a) @ a,
            {"factor": fixed(2, 4, 5), "factor_first": True},
        ),
    }  # fmt: skip


def reductions() -> dict[str, Case]:
    found = {}
    x = View((4, 5, 3), (1, 12, 4))  # channels first, of a stored (4, 5, 3)
    references: dict[str, Callable[..., Tensor]] = {
        "sum": torch.sum,
        "mean": torch.mean,
        "amax": torch.amax,
        "amin": torch.amin,
        "norm": lambda x, dims, **named: torch.linalg.vector_norm(x, 2, dims, **named),
        "norm1": lambda x, dims, **named: torch.linalg.vector_norm(x, 1, dims, **named),
        "logsumexp": torch.logsumexp,
    }
    for name, function in references.items():
        found[f"{name} over channels"] = Case(
            Reduce, [(4, 5, 3)], [(0, x)], (1, 5, 3),
            lambda x, f=function: f(x, (1,), keepdim=True),
            {"function": name, "dims": (0,), "keepdim": True}, (1, 2, 0),
        )  # fmt: skip
        found[f"{name} over positions"] = Case(
            Reduce, [(4, 5, 3)], [(0, x)], (4,), lambda x, f=function: f(x, (2, 3)),
            {"function": name, "dims": (1, 2)},
        )  # fmt: skip
    for name, of in (("var", torch.var), ("std", torch.std)):
        for correction in (0.0, 1.0):
            found[f"{name} {correction:g}"] = Case(
                Reduce, [(4, 5, 3)], [(0, x)], (5,),
                lambda x, f=of, c=correction: f(x, (1, 3), correction=c),
                {"function": name, "dims": (0, 2), "correction": correction},
            )  # fmt: skip
    for name, function in (("max", torch.max), ("min", torch.min)):
        found[f"first {name}"] = Case(
            First, [(4, 5, 3)], [(0, x)], (4, 1, 3),
            lambda x, f=function: f(x, 2, keepdim=True)[0],
            {"dim": 1, "keepdim": True, "largest": name == "max"}, (1, 2, 0),
        )  # fmt: skip
    found["of everything"] = Case(
        Reduce, [(4, 5, 3)], [(0, x)], (), lambda x: x.sum((1, 2, 3)),
        {"function": "sum", "dims": (0, 1, 2)},
    )  # fmt: skip
    tokens = View((5, 6), (6, 1))
    for log in (False, True):
        for dim in (-1, -2):
            function = torch.log_softmax if log else torch.softmax
            found[f"softmax {dim} {log}"] = Case(
                Softmax, [(6, 1, 5)], [(0, tokens)], (5, 6), lambda x, f=function, d=dim: f(x, d),
                {"dim": dim, "log": log},
            )  # fmt: skip
    found["softmax of channels"] = Case(
        Softmax, [(4, 5, 3)], [(0, x)], (4, 5, 3), lambda x: x.softmax(1), {"dim": -3}, (1, 2, 0)
    )
    return found


def arithmetic() -> dict[str, Case]:
    found = {}
    x, gate = View((4, 5, 3), (1, 12, 4)), View((4, 1, 3), (1, 0, 4))
    for name in ("add", "sub", "mul", "div", "maximum", "minimum"):
        function = getattr(torch, name)
        found[name] = Case(
            Broadcast, [(4, 5, 3), (4, 1, 3)], [(0, x), (1, gate)], (4, 5, 3), function,
            {"function": name}, (1, 2, 0), positive=True,
        )  # fmt: skip
        found[f"{name} the other way"] = Case(
            Broadcast, [(4, 5, 3), (7,)], [(1, View((7, 1, 1, 1), (1, 0, 0, 0))), (0, x)],
            (7, 4, 5, 3), lambda a, b, f=function: f(a, b.unsqueeze(1)), {"function": name},
            positive=True,
        )  # fmt: skip
        found[f"{name} of one value"] = Case(
            Broadcast, [(6, 1, 5)], [(0, View((5, 4), (6, 1))), (0, View((5, 1), (6, 0), 4))],
            (5, 4), function, {"function": name}, positive=True,
        )  # fmt: skip
        for first in (False, True):
            constant = fixed(2, 1, 5, 1).abs()

            def by_constant(x: Tensor, f: Any = function, first: bool = first) -> Tensor:
                c = fixed(2, 1, 5, 1).abs().to(x)
                return f(c, x.unsqueeze(1)) if first else f(x.unsqueeze(1), c)

            found[f"{name} constant {first}"] = Case(
                Broadcast, [(4, 5, 3)], [(0, x)], (2, 4, 5, 3), by_constant,
                {"function": name, "constant": constant, "constant_first": first}, positive=True,
            )  # fmt: skip
    mask = fixed(4, 1, 3) > 0
    found["where"] = Case(
        Select, [(4, 5, 3), (4, 1, 3)], [(0, x), (1, gate)], (4, 5, 3),
        lambda a, b: torch.where(mask.to(a.device), a, b), {"mask": mask.float()}, (1, 2, 0),
    )  # fmt: skip
    found["fill"] = Case(
        Select, [(4, 5, 3)], [(0, x)], (4, 5, 3),
        lambda a: a.masked_fill(mask.to(a.device), 0.25), {"mask": mask.float(), "fill": 0.25},
    )  # fmt: skip
    return found


def functions() -> dict[str, Case]:
    found = {}
    whole = View.contiguous((11,))
    for name in ("sqrt", "rsqrt", "exp", "expm1", "log", "log1p", "abs", "reciprocal", "sin",
                 "cos", "erf"):  # fmt: skip
        found[name] = Case(
            Elementwise, [(11,)], [(0, whole)], (11,), getattr(torch, name), {"function": name},
            positive=True,
        )  # fmt: skip
    for exponent in (0.0, 2.0, 3.0, -1.5):
        found[f"pow {exponent:g}"] = Case(
            Elementwise, [(11,)], [(0, whole)], (11,), lambda x, e=exponent: x.pow(e),
            {"function": "pow", "parameters": (exponent,)}, positive=True,
        )  # fmt: skip
    found["clamp"] = Case(
        Elementwise, [(11,)], [(0, whole)], (11,), lambda x: x.clamp(-0.5, 0.75),
        {"function": "clamp", "parameters": (-0.5, 0.75)},
    )  # fmt: skip
    return found


CASES = {
    **{f"attention {name}": case for name, case in attentions().items()},
    **{f"matmul {name}": case for name, case in products().items()},
    **{f"reduce {name}": case for name, case in reductions().items()},
    **{f"arithmetic {name}": case for name, case in arithmetic().items()},
    **{f"function {name}": case for name, case in functions().items()},
}
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 0.04}


def given(case: Case, rng: torch.Generator, images: int = 3) -> tuple[Tensor, Tensor]:
    """Images and a cotangent. Their numbers are exact in bfloat16."""
    x = torch.randn(images, case.size, 1, 1, generator=rng).bfloat16().double()
    seed = torch.randn(case.out, generator=rng).bfloat16().double()
    return ((x.abs() + 0.25).bfloat16().double() if case.positive else x), seed


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert found.isfinite().all()
    error = float((found.double() - wanted).norm() / wanted.norm().clamp_min(1e-3))
    assert error < tolerance, error


@pytest.mark.parametrize("name", CASES)
def test_a_program_gives_autograds(name, torch_rng):
    case = CASES[name]
    images, seed = given(case, torch_rng)
    wanted = case.delta(images, seed)
    program = case.program(seed).to(torch.float64)
    torch.testing.assert_close(program.pullback_of_ones(images), wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_step_gives_autograds(name, dtype, device, torch_rng):
    case = CASES[name]
    images, seed = given(case, torch_rng)
    wanted = case.delta(images, seed)
    program = case.program(seed).to(device)
    size = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.no_grad():
        step = Step(program, dtype, torch.device(device), len(images))
        found = step.pullback_of_ones(images.to(device, size))
    close(found.cpu(), wanted, TOLERANCE[dtype])


def test_equal_extremes_share_and_the_first_of_them_takes_all():
    images = torch.tensor([1.0, 2.0, 2.0, 0.0]).double().view(1, 4, 1, 1)
    whole = View.contiguous((4,))
    seed = torch.ones(()).double()
    for kind, options, wanted in (
        (Reduce, {"function": "amax", "dims": (0,)}, [0, 0.5, 0.5, 0]),
        (First, {"dim": 0}, [0, 1, 0, 0]),
    ):
        case = Case(kind, [(4,)], [(0, whole)], (), torch.amax, options)
        found = case.program(seed).pullback_of_ones(images)
        assert found.flatten().tolist() == wanted


def test_a_norm_of_zeros_has_no_derivative_but_zero():
    images = torch.zeros(2, 4, 1, 1).double()
    case = Case(
        Reduce, [(4,)], [(0, View.contiguous((4,)))], (), torch.norm,
        {"function": "norm", "dims": (0,)},
    )  # fmt: skip
    assert not case.program(torch.ones(()).double()).pullback_of_ones(images).any()


def test_cotangents_of_views_that_cover_an_input_are_copied_and_others_added(torch_rng):
    shape, views = of_qkv(2, 5, 3)
    assert covers_once(shape, tuple(views))
    assert not covers_once(shape, (views[0], views[0], views[2]))
    assert not covers_once(shape, tuple(views[:2]))
    parts = [torch.randn(2, *view.shape, generator=torch_rng) for view in views]
    found = gather_cotangents(shape, (views[0], views[0], views[2]), parts)
    torch.testing.assert_close(views[0].on(found), parts[0] + parts[1])
    assert not views[1].on(found).any()


@pytest.mark.parametrize("name", ["of one product", "windows with a mask", "of three values"])
def test_attention_keeps_a_number_a_row(name):
    case = attentions()[name]
    op = case.program(torch.ones(case.out)).ops[-1]
    rows = count(case.out[:-1])
    kinds = {residue.kind: residue.bytes for residue in op.residues(4)}
    assert kinds["logarithms of sums"] == 4 * rows
    assert sum(kinds.values()) == 4 * (rows + case.size + count(case.out))


@pytest.mark.parametrize(("windows", "bias"), [(0, False), (4, True)])
def test_the_plan_of_attention_is_the_allocators_peak(windows, bias):
    shape, views = of_qkv(4, 49, 32, windows)
    lead = (windows,) if windows else ()
    out = (*lead, 4, 49, 32)
    options = {"scale": 0.1, "bias": fixed(windows, 4, 49, 49) if bias else None}
    order = (0, 2, 1, 3) if windows else (1, 0, 2)
    case = Case(Attention, [shape], [(0, v) for v in views], out, attend(), options, order)
    program = case.program(torch.ones(out))
    images = torch.randn(16, case.size, 1, 1)
    with torch.no_grad():
        step = Step(program, torch.float32, torch.device("cpu"), 16)
        measured = peak_bytes(lambda: step.delta(images), torch.device("cpu"))
    if bias:  # CUDA's kernel repeats the windows' bias for each image; on a CPU the step holds it
        measured += 16 * windows * 4 * 49 * 49 * 4
    check_plan(16 * step.memory.peak, measured, torch.device("cpu"), 0.05)
