"""Compiled steps with islands: parity at each precision, memory, who runs, and what is said."""

from __future__ import annotations

import pickle

import pytest
import step_checks
import torch
from measured_memory import peak_bytes
from networks import Sinc, tiny_cnn
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import BackendError, SignTransform, iterative_sign
from sign_ext.compiler import island_part
from sign_ext.compiler.ir.island import Island
from sign_ext.compiler.ir.program import constant_bytes
from sign_ext.engine.fused.trajectory import RecordedTrajectory
from sign_ext.eval_state import computing
from sign_ext.ops.native import NATIVE
from sign_ext.source_layer import find_source_layer

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
needs_native = pytest.mark.skipif(not NATIVE.loaded, reason="auto tries fused where it is native")


def norm_cnn() -> nn.Module:
    """Convolutions with rare activations, a residual sum, and a transposed convolution."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), Sinc())
            self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), Sinc())
            # One more window than the convolution back has: no rule.
            self.up = nn.ConvTranspose2d(8, 8, 2, 2, output_padding=2, dilation=3)
            self.last = nn.Sequential(nn.Conv2d(8, 6, 3), nn.ReLU())
            self.classifier = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            z = F.interpolate(self.up(self.down(y)), y.shape[2:], mode="bilinear")
            return self.classifier(self.last(F.relu(y + z + 1)).mean((2, 3)))

    return Net()


class Transformer(nn.Module):
    """Patches, a class token, one block of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 3, 3)
        self.token, self.positions = (nn.Parameter(torch.randn(1, n, 12)) for n in (1, 10))
        self.norm, self.attention = nn.LayerNorm(12), nn.MultiheadAttention(12, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.classifier = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return self.classifier((x + self.mlp(x))[:, 0])


MODELS = {"norms": norm_cnn, "transformer": Transformer}


def case(name: str, count: int, device: str = "cpu", size: tuple[int, int] = (9, 11)):
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(4)
    model = MODELS[name]().eval().requires_grad_(False).to(device)
    return model, torch.randn(count, 3, *size, generator=generator).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("name", MODELS)
def test_each_precision(name, count, precision, device):
    step_checks.check(*case(name, count, device), precision)


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_other_dtypes(name):
    model, images = case(name, 3)
    ours, _ = step_checks.errors(model.double(), images.double())
    assert ours < 1e-12
    got = iterative_sign(model.bfloat16(), images.float(), 1, backend="fused")
    wanted = iterative_sign(model, images.float(), 1, backend="autograd")
    assert (got - wanted).norm() <= 0.1 * (wanted - images).norm()


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_in_micro_batches_is_autograds(name):
    model, images = case(name, 7)
    options = {"step_size": 0.05, "momentum": 0.5, "snapshots": (1, 3)}
    sign = SignTransform(model, 3, backend="fused", **options)
    step = sign.step(images)
    step.micro_batch = 3
    got = sign.transform(images)
    wanted = iterative_sign(model, images, 3, backend="autograd", **options)
    for k in (1, 3):
        assert (got[k] - wanted[k]).norm() <= 1e-4 * (wanted[k] - images).norm()


def test_new_weights_are_used():
    model, images = case("norms", 2)
    sign = SignTransform(model, 1, backend="fused")
    before = sign.transform(images)
    with torch.no_grad():
        model.up.weight.mul_(-2)
        model.last[0].weight.add_(1)
    after = sign.transform(images)
    wanted = iterative_sign(model, images, 1, backend="autograd")
    assert (after - wanted).norm() <= 1e-4 * (wanted - images).norm()
    assert (after - before).norm() > 0.01 * (wanted - images).norm()


class Distances(nn.Module):
    """From every position to learned points: PyTorch's alone, with weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.points = nn.Conv2d(3, 6, 3), nn.Parameter(torch.randn(4, 6))
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x)).flatten(2).transpose(1, 2)
        return self.classifier(torch.cdist(x, self.points).mean(1))


def distances(generator: torch.Generator) -> tuple[nn.Module, Tensor]:
    model = Distances().eval().requires_grad_(False)
    return model, torch.randn(2, 3, 9, 7, generator=generator)


def test_new_weights_do_not_measure_islands_again(monkeypatch, torch_rng):
    """Their layouts and what they keep follow from the recording."""
    runs: list[Island] = []
    measured = island_part.measured

    def counted(island: Island, device: torch.device) -> Island:
        runs.append(island)
        return measured(island, device)

    monkeypatch.setattr(island_part, "measured", counted)
    model, images = distances(torch_rng)
    sign = SignTransform(model, 1, backend="fused")
    (before,) = (op for op in sign.step(images).program.ops if isinstance(op, Island))
    found = len(runs)
    assert found
    with torch.no_grad():
        model.points.mul_(-2)
    (after,) = (op for op in sign.step(images).program.ops if isinstance(op, Island))
    assert len(runs) == found
    assert (after.residue, after.layouts, after.inner) == (
        before.residue, before.layouts, before.inner)  # fmt: skip
    wanted = iterative_sign(model, images, 1, backend="autograd")
    assert (sign.transform(images) - wanted).norm() <= 1e-4 * (wanted - images).norm()


def test_the_weights_of_islands_are_counted_once(torch_rng):
    """They are kept as they are; an operator has others for each direction."""
    model, images = distances(torch_rng)
    sign = SignTransform(model, 1, backend="fused")
    step = sign.step(images)
    in_islands = sum(
        weight.numel() for op in step.program.ops if isinstance(op, Island) for weight in op.weights
    )
    assert in_islands
    program = sign.program(images)
    everywhere = constant_bytes(program)
    (kept,) = sign.engines.fused._programs._kept.values()
    assert kept.program is None
    assert sign.engines.fused._programs.bytes() == 2 * everywhere - 4 * in_islands


class Permuted(nn.Module):
    """The same image, whose channels are innermost."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


@pytest.mark.parametrize("between", [nn.Identity, Permuted])
@pytest.mark.parametrize("count", [1, 3])
def test_an_instance_norm_of_one_image(count, between, torch_rng):
    """PyTorch's derivative is wrong for one image with channels innermost, right for several."""
    norm = nn.InstanceNorm2d(8, track_running_stats=True)
    body = [nn.Conv2d(3, 8, 3), between(), norm, nn.Tanh()]
    model = nn.Sequential(*body, nn.Flatten(), nn.Linear(8 * 35, 2)).double()
    model.eval().requires_grad_(False)
    norm.running_var.uniform_(0.5, 2)
    images = torch.randn(count, 3, 9, 7, generator=torch_rng).double()
    twice = images.repeat(2, 1, 1, 1).requires_grad_()
    (wanted,) = torch.autograd.grad(model[:-1](twice).sum(), twice)
    got = SignTransform(model, 1, backend="fused").step(images).pullback_of_ones(images)
    torch.testing.assert_close(got, wanted[:count], rtol=1e-9, atol=1e-12)


def test_a_recorded_step_is_the_same(torch_rng):
    """As CUDA records it: the same buffers in every step, and nothing is read back."""
    model, images = case("norms", 3)
    sign = SignTransform(model, 3, backend="fused", step_size=0.1)
    with sign._prepared(images) as (problem, *_):
        step = sign.engines.fused.step(problem, images)
        recorded = RecordedTrajectory(problem, images, step, lambda work, device: work)
        with torch.no_grad():
            recorded.start(images)
            recorded.advance(3)
    assert torch.equal(recorded.iterate, sign.transform(images))


@pytest.mark.parametrize("name", MODELS)
def test_the_memory_plan_has_the_islands(name):
    model, images = case(name, 16, size=(36, 30) if name == "norms" else (9, 11))
    with computing(model):
        source = find_source_layer(model, images[:1])
    step = step_checks.bound_step(model, images, source)
    images = images.to(memory_format=torch.channels_last)
    with computing(model), torch.no_grad():
        step.delta(images)
        measured = peak_bytes(lambda: step.stem_cotangent(images), images.device)
    assert measured == pytest.approx(16 * step.memory.peak, rel=0.1)


def test_explain_lists_the_islands():
    model, images = case("norms", 2)
    answer = SignTransform(model, 1, backend="fused").explain(images)
    found = {island.module: island for island in answer.islands}
    assert set(found) == {"", "up"}
    assert found["up"].operations == ("sinc", "conv_transpose2d")
    assert sum(island.share for island in answer.islands) < 1
    shares = [island.share for island in answer.islands]
    assert shares == sorted(shares, reverse=True)
    assert "sinc, conv_transpose2d (up): " in str(answer)
    assert "% of a step (estimated)" in str(answer)
    assert answer.to_dict()["islands"][0]["share"] == shares[0]
    assert SignTransform(tiny_cnn(), 1).explain(images).islands == ()


class Recurrent(nn.Module):
    """A recurrent layer over patches, which has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.cell = nn.Conv2d(3, 6, 3, 3), nn.GRU(6, 30, batch_first=True)
        self.classifier = nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.classifier(self.cell(x)[0][:, -1])


@needs_native
def test_auto_compiles_where_islands_hold_less_than_half():
    model, images = case("norms", 2)
    assert SignTransform(model, 1).explain(images).backend == "fused"
    model = Recurrent().eval().requires_grad_(False)
    sign = SignTransform(model, 1)
    answer = sign.explain(images)
    assert answer.backend == "autograd"
    assert "fused was tried: operations without a rule hold " in answer.reason
    assert "gru" in answer.reason
    with sign._prepared(images) as (problem, *_):
        assert sign.engines.memory(problem, images) is None
    by_name = SignTransform(model, 1, backend="fused").explain(images)
    assert (by_name.backend, len(by_name.islands)) == ("fused", 1)


def test_strict_refuses_islands_and_names_them():
    model, images = case("norms", 2)
    for sign in (
        SignTransform(model, 1, backend="fused", strict=True),
        SignTransform(model, 1, backend="fused").with_options(strict=True),
        pickle.loads(pickle.dumps(SignTransform(tiny_island(), 1, backend="fused", strict=True))),
    ):
        for ask in (sign.explain, sign.transform, sign.program):
            with pytest.raises(BackendError, match=r"no rule for aten\.sinc"):
                ask(images)
    assert SignTransform(model, 1, strict=True).explain(images).backend == "autograd"
    with pytest.raises(BackendError, match=r"no rule for aten\.sinc"):
        iterative_sign(model, images, 1, backend="fused", strict=True)
    with pytest.raises(TypeError, match="strict must be True or False, got 1"):
        SignTransform(model, 1, strict=1)


def tiny_island() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), Sinc(), nn.Flatten(), nn.Linear(4 * 63, 3)).eval()


def test_an_output_is_not_overwritten_while_autograd_needs_it():
    """ReLU works in place where it may; here the backward pass of tan reads its output."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.classifier = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.classifier(F.relu(self.first(x).tan() - 0.1).mean((2, 3)))

    torch.manual_seed(0)
    model = Net().eval().requires_grad_(False)
    images = torch.rand(3, 3, 7, 7)
    step_checks.check(model, images)
    step = SignTransform(model, 1, backend="fused").step(images)
    (island,) = (op for op in step.program.ops if isinstance(op, Island))
    (after,) = (
        i for i in step.schedule.instructions if i.kind == "forward" and i.op == island.output
    )
    assert not after.in_place


class Turned(nn.Module):
    """Images of one row, which are turned without moving anything in memory."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.rows, self.columns = nn.Conv2d(3, 5, (11, 3)), nn.Conv2d(3, 5, (3, 11))
        self.classifier, self.again = nn.Linear(5, 2), again

    def forward(self, x: Tensor) -> Tensor:
        other = F.relu(self.columns(x))
        y = F.relu(self.rows(x))
        turned = y.permute(0, 1, 3, 2)
        if not self.again:  # the cotangent of the sum goes to both, one of them through the view
            return self.classifier(torch.tanh(turned + other).mean((2, 3)))
        cut = F.relu(turned - 0.2)  # over the view, if it were not for what reads y again
        return self.classifier((cut + other).mean((2, 3)) + torch.tanh(y).mean((2, 3)))


@pytest.mark.parametrize("again", [False, True])
def test_views_share_no_memory(again):
    """What is written in place over a value or a cotangent must not show in its view."""
    torch.manual_seed(0)
    model = Turned(again).eval().requires_grad_(False)
    images = 3 * torch.randn(2, 3, 11, 11)
    step_checks.check(model, images)
