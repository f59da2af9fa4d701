"""The fused backend through SignTransform: equal results, fresh weights, micro-batches, errors."""

from __future__ import annotations

import copy
import math
import threading

import pytest
import torch
from networks import basic_cnn, step_for, tiny_cnn
from torch import Tensor, nn

from sign_ext import BackendError, DivergenceError, SignTransform, iterative_sign
from sign_ext.engine.fused import tuning_plan
from sign_ext.reference import iterative_sign_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
STEP = 2000.0


def expected(model: nn.Sequential, images: Tensor, steps: int, **options) -> Tensor:
    exact = copy.deepcopy(model).double().eval()
    return iterative_sign_reference(exact[:-1], images.double(), steps, **options)


def agree(got: Tensor, wanted: Tensor, images: Tensor, tolerance: float = 1e-4) -> None:
    moved = wanted - images.double()
    assert moved.norm() > 1
    assert (got.double() - wanted).norm() <= tolerance * moved.norm()


@pytest.fixture
def images(torch_rng):
    return torch.rand(5, 3, 9, 11, generator=torch_rng) * 255


@pytest.fixture
def model():
    return tiny_cnn().eval()


CASES = {
    "as printed": {},
    "momentum": {"momentum": 0.8},
    "clamped": {"clamp": (0.0, 255.0)},
    "momentum, clamped below": {"momentum": 0.5, "clamp": (10.0, None)},
    "at the input": {"linearize_at": "input"},
    "momentum at the input": {"linearize_at": "input", "momentum": 0.5},
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(model, images, case, batch_size, device):
    options = CASES[case]
    wanted = expected(model, images, 4, step_size=STEP, **options)
    model, given = model.to(device), images.to(device)
    sign = SignTransform(
        model, 4, step_size=STEP, batch_size=batch_size, backend="fused", **options
    )
    agree(sign.transform(given).cpu(), wanted, images)
    agree(sign.transform(given).cpu(), wanted, images)  # again, from what was kept


@pytest.mark.parametrize(
    ("kernel", "padding"), [(1, (0, 1)), (1, (2, 0)), (3, (3, 4)), (2, (1, 2))], ids=str
)
def test_a_first_convolution_whose_windows_begin_past_the_image(torch_rng, kernel, padding):
    first = nn.Conv2d(3, 4, kernel, padding=padding)
    network = nn.Sequential(first, nn.SiLU(), nn.Flatten(), nn.LazyLinear(5)).eval()
    images = torch.rand(3, 3, 5, 7, generator=torch_rng) * 255
    with torch.no_grad():
        network(images)
    phi = copy.deepcopy(network[:3]).double()
    wanted = iterative_sign_reference(phi, images.double(), 3, step_size=STEP)
    for _ in range(2):  # once more, from what was kept
        agree(iterative_sign(network, images, 3, step_size=STEP, backend="fused"), wanted, images)


@pytest.mark.parametrize("device", DEVICES)
def test_snapshots_come_from_one_trajectory(model, images, device):
    model, given = model.to(device), images.to(device)
    got = iterative_sign(
        model, given, 5, step_size=STEP, snapshots=(2, 5), batch_size=3, backend="fused"
    )
    model = model.cpu()
    for k, iterate in got.items():
        agree(iterate.cpu(), expected(model, images, k, step_size=STEP), images)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[1].weight.data.mul_(1.5),
        lambda m: m.load_state_dict({k: v * 1.25 for k, v in m.state_dict().items()}),
        lambda m: m[2].running_mean.add_(0.5),
        lambda m: setattr(m[5], "stride", (1, 1)),
        lambda m: m[5].register_forward_hook(lambda *io: io[2] * 2),
    ],
    ids=["in place", "state dict", "statistics", "structure", "hook"],
)
@pytest.mark.parametrize("device", DEVICES)
def test_changes_between_calls_are_seen(model, images, change, device):
    model, given = model.to(device), images.to(device)
    sign = SignTransform(model, 3, step_size=STEP, backend="fused")
    before = sign.transform(given)
    change(model)
    after = sign.transform(given)
    assert not torch.equal(before, after)
    fresh = SignTransform(model, 3, step_size=STEP, backend="autograd").transform(given)
    agree(after.cpu(), fresh.cpu().double(), images)


def only_the_cache_counts(monkeypatch, size: int) -> None:
    """Micro-batches of as many images as fit in a cache of that many bytes."""
    monkeypatch.setattr(tuning_plan, "MICRO_BATCH_BYTES", size)
    monkeypatch.setattr(tuning_plan, "CALL_SECONDS", 0.0)
    monkeypatch.setattr(tuning_plan, "WEIGHT_BYTES_A_SECOND", math.inf)


def test_micro_batches_change_nothing(monkeypatch, model, torch_rng):
    images = torch.rand(11, 3, 9, 11, generator=torch_rng) * 255
    whole = iterative_sign(model, images, 4, step_size=STEP, backend="fused")
    step = SignTransform(model).step(images)
    assert step.micro_batch == 11
    only_the_cache_counts(monkeypatch, 3 * step.memory.peak)
    sign = SignTransform(model, 4, step_size=STEP, backend="fused")
    sign.reset()  # the step above is kept with the network
    assert sign.step(images).micro_batch == 3
    torch.testing.assert_close(sign.transform(images), whole, rtol=1e-6, atol=1e-3)
    seen = []
    sign.transform(images, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (44, 44)


class Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x


@pytest.mark.parametrize("micro", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_the_first_bad_step_is_named(monkeypatch, torch_rng, micro, device):
    """δ of a square is linear in the image, so the iterates grow exponentially."""
    if micro:
        only_the_cache_counts(monkeypatch, 1)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), Square(), nn.Flatten(), nn.Linear(8, 2)).eval()
    images = 1 + torch.rand(3, 1, 2, 2, generator=torch_rng)
    model, images = model.to(device), images.to(device)
    errors = []
    for backend in ("autograd", "fused"):
        with pytest.raises(DivergenceError) as error:
            iterative_sign(model, images, 30, step_size=1e6, backend=backend)
        errors.append(error.value.step)
    assert errors[0] == errors[1]


@pytest.mark.parametrize("device", DEVICES)
def test_a_callers_modes_change_nothing(model, images, device):
    model, images = model.to(device), images.to(device)
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    plain = sign.transform(images)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(sign.transform(images), plain)
    with torch.inference_mode():
        assert torch.equal(sign.transform(images), plain)
    with torch.no_grad():
        assert torch.equal(sign.transform(images), plain)


def test_channels_last_and_strided_images(model, images):
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    plain = sign.transform(images)
    wide = torch.zeros(5, 3, 9, 22)
    wide[..., ::2] = images
    for given in (images.to(memory_format=torch.channels_last), wide[..., ::2]):
        assert torch.equal(sign.transform(given), plain)


def test_an_image_network_without_convolutions(torch_rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 2)).eval()
    images = torch.rand(4, 3, 2, 2, generator=torch_rng) * 255
    step = step_for(torch.autograd.functional.jacobian(lambda x: model[:-1](x).sum(), images))
    got = iterative_sign(model, images, 3, step_size=step, backend="fused")
    agree(got, expected(model, images, 3, step_size=step), images)


class Sharpened(nn.Module):
    """An operation that the compiler does not know."""

    def forward(self, x: Tensor) -> Tensor:
        return x.logcumsumexp(1) * 100


def unknown() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), Sharpened(), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 7 * 9, 2)
    ).eval()


def test_an_unknown_operation_is_named_or_another_backend_runs(images):
    model = unknown()
    with pytest.raises(BackendError, match=r"aten\.logcumsumexp\.default on \(4, 7, 9\)"):
        iterative_sign(model, images, 1, step_size=STEP, backend="fused", strict=True)
    sign = SignTransform(model, 2, step_size=STEP, strict=True)
    got = sign.transform(images)
    plain = iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
    assert torch.equal(got, plain)
    explanation = sign.explain(images)
    assert explanation.backend == "autograd"
    assert "aten.logcumsumexp.default" in explanation.reason


def test_explaining_alone_finds_out_too(images):
    explanation = SignTransform(unknown(), strict=True).explain(images)
    assert explanation.backend == "autograd"
    assert "aten.logcumsumexp.default" in explanation.reason


class Reversed(torch.autograd.Function):
    """A backward pass that is not that of the forward pass."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return -3 * g


class Reversing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Reversed.apply(x)


def test_a_custom_gradient_is_respected(images):
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), Reversing(), nn.Flatten(), nn.Linear(252, 2)
    )
    model.eval()
    with pytest.raises(BackendError, match="its gradient is not that of its operations"):
        iterative_sign(model, images, 1, step_size=STEP, backend="fused")
    got = iterative_sign(model, images, 2, step_size=STEP)
    assert torch.equal(got, iterative_sign(model, images, 2, step_size=STEP, backend="autograd"))


def test_rounding_alone_is_no_other_gradient(images, monkeypatch):
    """Where float32 differs by more than the tolerance, float64 decides."""
    from sign_ext.engine import agreement

    model = tiny_cnn().eval()
    monkeypatch.setitem(agreement.TOLERANCE, torch.float32, 0.0)
    wanted = iterative_sign(model, images, 1, step_size=STEP, backend="autograd")
    agree(
        iterative_sign(model, images, 1, step_size=STEP, backend="fused"), wanted.double(), images
    )


def test_half_precision_networks(images, torch_rng):
    model = basic_cnn(8, 8, 4).eval()
    images = torch.rand(2, 3, 8, 8, generator=torch_rng) * 255
    plain = iterative_sign(model, images, 3, step_size=STEP, backend="autograd")
    for dtype, most in ((torch.float16, 0.01), (torch.bfloat16, 0.1)):
        half = model.to(dtype)
        got = iterative_sign(half, images, 3, step_size=STEP, backend="fused")
        assert got.dtype == torch.float32
        assert (got - plain).norm() < most * (plain - images).norm()


def test_kept_steps_are_bounded_and_threads_wait(model, torch_rng):
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    given = [torch.rand(n, 3, 9, 11, generator=torch_rng) * 255 for n in range(1, 8)]
    wanted = [sign.transform(images) for images in given]
    assert len(sign.engines.fused._kept) <= 4
    results: dict[int, Tensor] = {}

    def run(i: int) -> None:
        results[i] = sign.transform(given[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, want in enumerate(wanted):
        assert torch.equal(results[i], want)


def test_the_explanation_names_operators_bytes_and_floor(images):
    text = str(SignTransform(basic_cnn().eval()).explain(torch.rand(2, 3, 32, 32)))
    for words in (
        "fused (auto: the network is compiled to fused operators)",
        "fused, ",
        "2 max pools",
        "5 activations kept as bits",
        "4 convolutions (",
        "1 linear layer (",
        "no δ in memory",
        "an image at its peak",
        "MFLOP an image and step",
    ):
        assert words in text, text
