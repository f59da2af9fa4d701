"""Random images ask a network what the caller's may not show."""

from __future__ import annotations

import copy
import random
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pytest
import torch
from networks import tiny_cnn
from sign_checks import STEP, assert_moved_like, reference
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_pre_hook

from sign_ext import BackendError, NegligibleDeltaWarning, SignTransform, iterative_sign, probe
from sign_ext.probe import random_images, statistics_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5 * 5 * 7, 4)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x / 255))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


@pytest.fixture
def images(torch_rng):
    return torch.rand(5, 3, 7, 9, generator=torch_rng) * 255


# ---------------------------------------------------------------- random images


def test_random_images_have_the_images_statistics(torch_rng):
    images = (
        torch.rand(64, 3, 20, 21, generator=torch_rng) * torch.tensor([9.0, 50, 200])[:, None, None]
    )
    like = statistics_of(images)
    seen = images[::8].transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(like.mean.flatten().double(), seen.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(like.high.flatten().double(), seen.amax(1))
    drawn = random_images(like, images.shape[1:], 30, 0)
    assert torch.equal(drawn, random_images(like, images.shape[1:], 30, 0))
    assert not torch.equal(drawn, random_images(like, images.shape[1:], 30, 1))
    assert (drawn >= like.low).all()
    assert (drawn <= like.high).all()
    # Every third has the images' own contrast; clamping takes some of it.
    own = drawn[::3].transpose(0, 1).flatten(1).double()
    assert (own.std(1) / seen.std(1)).sub(1).abs().max() < 0.3
    assert (own.mean(1) / seen.mean(1)).sub(1).abs().max() < 0.2


def test_black_images_give_random_ones_all_the_same():
    like = statistics_of(torch.zeros(3, 2, 5, 6, 7))
    assert random_images(like, torch.Size((2, 5, 6, 7)), 1, 0).std() > 10


# ---------------------------------------------------------------- a compiled program's gradient


class Within(torch.autograd.Function):
    """The identity, with a gradient where the value is small only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (x.abs() < 0.3)


class Clipped(torch.autograd.Function):
    """The identity, with a gradient that is clipped."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-1e-3, 1e-3)


@pytest.mark.parametrize("function", [Within, Clipped])
def test_a_gradient_that_a_black_image_hides(images, function):
    class Custom(Net):
        def features(self, x: Tensor) -> Tensor:
            y = self.first(x / 255)
            # The head of a black image gets a gradient of zero through this ReLU.
            return F.relu(function.apply(y * 4) - 4 * self.first.bias.view(-1, 1, 1))

    model = Custom().eval()
    images[0] = 0
    with pytest.raises(BackendError, match="its gradient is not that of its operations"):
        iterative_sign(model, images, 2, step_size=STEP, backend="fused")
    got = iterative_sign(model, images, 2, step_size=STEP)
    wanted = iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
    assert torch.equal(got, wanted)


def test_a_number_drawn_in_python_is_not_compiled_in(images):
    class Drawn(Net):
        def features(self, x: Tensor) -> Tensor:
            return super().features(x) * (1 + random.random())

    random.seed(1)  # by chance two draws may be as close as rounding
    with pytest.raises(BackendError, match="depends on more than its input"):
        iterative_sign(Drawn().eval(), images, 2, step_size=STEP, backend="fused")


# ---------------------------------------------------------------- samples that interact


def bodied(body, **buffers):
    class Bodied(Net):
        def features(self, x: Tensor) -> Tensor:
            return body(self, x, super().features)

    model = Bodied()
    for name, value in buffers.items():
        model.register_buffer(name, value)
    return model.eval()


def rows(twins: bool = False) -> Tensor:
    values = torch.arange(1.0, 6.0).view(5, 1, 1, 1)
    if twins:
        values[1] = values[0]
    return values


def running() -> dict[str, Tensor]:
    return {"mean": torch.zeros(5), "var": torch.ones(5)}


MATES, PLACE, SIZE = "the samples of a batch interact", "the place of an image", "how many images"
INTERACTING = {
    "batch_norm": (
        lambda: bodied(lambda m, x, f: F.batch_norm(f(x), None, None, training=True)),
        MATES,
    ),
    "batch_norm with running statistics": (
        lambda: bodied(
            lambda m, x, f: F.batch_norm(f(x), m.mean, m.var, training=True), **running()
        ),
        MATES,
    ),
    "mean of the batch": (lambda: bodied(lambda m, x, f: f(x - x.mean(0))), MATES),
    "a little of it": (lambda: bodied(lambda m, x, f: f(x) - 0.01 * f(x).mean(0)), MATES),
    "softmax over the batch": (
        lambda: bodied(lambda m, x, f: f(x) * f(x).mean((1, 2, 3), keepdim=True).softmax(0)),
        MATES,
    ),
    "images shifted by one": (lambda: bodied(lambda m, x, f: f(x) + 0.5 * f(x).roll(1, 0)), MATES),
    "a buffer of rows": (
        lambda: bodied(lambda m, x, f: f(x * m.rows[: len(x)]), rows=rows()),
        PLACE,
    ),
    "of which two are equal": (
        lambda: bodied(lambda m, x, f: f(x * m.rows[: len(x)]), rows=rows(twins=True)),
        PLACE,
    ),
    "all at once": (lambda: bodied(lambda m, x, f: f(x * m.rows), rows=rows()), PLACE),
    "a number of images": (lambda: bodied(lambda m, x, f: f(x) / len(x)), SIZE),
}


@pytest.mark.parametrize("batch_size", [None, 1])
@pytest.mark.parametrize("case", INTERACTING)
def test_samples_that_interact_are_refused(images, case, batch_size):
    make, cause = INTERACTING[case]
    model = make()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=cause):
        iterative_sign(model, images, 2, step_size=STEP, batch_size=batch_size)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_error_names_the_module():
    class Mixing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - 0.5 * x.mean(0)

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Mixing(), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
    with pytest.raises(ValueError, match=r"in the output of '1' \(Mixing\).*running statistics"):
        iterative_sign(model.eval(), torch.rand(2, 3, 5, 5), 1)


class SequenceFirst(Net):
    """Φ is (T, N, ...): its first dimension is not the images'."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(35, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(2).transpose(0, 1))


INDEPENDENT = {
    "noise": lambda: bodied(lambda m, x, f: f(x + torch.randn_like(x))),
    "one image at a time": lambda: bodied(lambda m, x, f: f(x).view(1, 5, 5, 7)),
    "sequence first": lambda: SequenceFirst().eval(),
    "statistics of each image": lambda: bodied(
        lambda m, x, f: f(x - x.mean((1, 2, 3), keepdim=True))
    ),
    "a table that is no image's": lambda: bodied(
        lambda m, x, f: f(x) * m.rows.view(5, 1, 1), rows=rows()
    ),
    "float32 in a float64 network": lambda: bodied(
        lambda m, x, f: f(x) / f(x).float().square().mean((1, 2, 3), keepdim=True).sqrt()
    ).double(),
}


@pytest.mark.parametrize("case", INDEPENDENT)
def test_what_does_not_interact_is_not_refused(images, case):
    given = images[:1] if case == "one image at a time" else images
    moved = iterative_sign(INDEPENDENT[case](), given, 2, step_size=STEP)
    assert not torch.equal(moved.float(), given)


@pytest.mark.parametrize("layers", [1, 8])
def test_a_sum_that_is_constant_is_no_interaction(images, layers):
    """δ is rounding alone there, and rounding depends on the size of the batch."""
    blocks = [nn.Sequential(nn.Linear(175, 175), nn.GELU()) for _ in range(layers)]
    features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten(), *blocks, nn.LayerNorm(175))
    with pytest.warns(NegligibleDeltaWarning):
        iterative_sign(nn.Sequential(features, nn.Linear(175, 4)).eval(), images, 1)


class Averaged(torch.autograd.Function):
    """The identity, with a gradient that is divided by the number of images."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g / len(g)


def test_a_gradient_that_depends_on_the_number_of_images_is_told(images):
    model = bodied(lambda m, x, f: Averaged.apply(f(x)))
    with pytest.warns(RuntimeWarning, match="100% from its gradient in a batch of two"):
        got = iterative_sign(model, images, 1, step_size=STEP, backend="autograd")
    delta = torch.autograd.functional.jacobian(lambda x: Net.features(model, x).sum(), images)
    torch.testing.assert_close(got, images + STEP * delta / len(images), rtol=1e-5, atol=1e-4)


@contextmanager
def counted(model: nn.Module):
    """The forward passes of the first module, by the number of images in each.

    The hook is PyTorch's for all modules, since one of the model's own would be a change to it.
    """
    seen: dict[int, int] = {}

    def hook(module: nn.Module, args: tuple[Tensor]) -> None:
        if module is model[0]:
            seen[len(args[0])] = seen.get(len(args[0]), 0) + 1

    handle = register_module_forward_pre_hook(hook)
    yield seen
    handle.remove()


def test_what_is_asked_costs_a_few_images_once(torch_rng):
    images = torch.rand(3, 3, 9, 11, generator=torch_rng) * 255
    model = tiny_cnn().eval()
    # The source layer is looked for and checked, and Φ runs in two layouts. At each of two points,
    # two images are asked about alone, both together, and one of them twice. Two more show units.
    # A later call runs the network once, to see that Φ is where it was.
    first, later = {1: 2 + 2 + 2 * 2 + 2, 2: 2 * 2, 3: 2}, {1: 1, 3: 2}
    for wanted in (first, later, later):
        with counted(model) as seen:
            iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
        assert seen == wanted
    # A new program is recorded with two images, and compared with autograd at one of the caller's
    # and three random ones at once; a kept one at a random image, in whose one pass it is seen
    # where Φ is.
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    for wanted in ({1: 1, 2: 1, 4: 1}, {1: 1}, {1: 1}):
        with counted(model) as seen:
            sign.transform(images)
        assert seen == wanted
    with torch.no_grad():
        model[1].weight.mul_(1.5)
    with counted(model) as seen:
        sign.transform(images)
    assert seen == {1: 1 + 2 * 2, 2: 2 * 2}


# ---------------------------------------------------------------- a failure is not for ever


def test_a_failure_ends_with_its_cause(images):
    class Softened(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.logcumsumexp(1) * 100

    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), Softened(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(60, 2)
    ).eval()
    sign = SignTransform(model, 2, step_size=STEP, strict=True)
    sign.transform(images)
    assert sign.explain().backend == "autograd"
    model[1] = nn.ReLU()
    got = sign.transform(images)
    assert sign.explain(images).backend == SignTransform(model).explain(images).backend
    assert sign.explain().backend == sign.explain(images).backend
    assert_moved_like(got, reference(model, images, 2, step_size=STEP), images)


# ---------------------------------------------------------------- what comes back


def test_random_states_and_buffers_come_back(images):
    class Writes(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros((), dtype=torch.long))
            self.register_buffer("last", torch.full((5,), torch.nan))
            self.register_buffer("grows", torch.empty(0))

        def features(self, x: Tensor) -> Tensor:
            y = super().features(x)
            self.calls += 1
            self.last.copy_(y.detach().mean((0, 2, 3)))
            self.grows.resize_(3).fill_(1)
            self.replaced = random.random() + np.random.rand()  # noqa: NPY002
            return y

    model = Writes().eval()
    before = {name: (id(b), b.clone()) for name, b in model.named_buffers()}
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    got = iterative_sign(model, images, 2, step_size=STEP)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    for name, buffer in model.named_buffers():
        same, value = before[name]
        assert id(buffer) == same
        torch.testing.assert_close(buffer, value, rtol=0, atol=0, equal_nan=True)
    plain = Net().eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(got, iterative_sign(plain, images, 2, step_size=STEP, backend="autograd"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("trained", [0, 20])
@pytest.mark.parametrize("moving", [True, False])
def test_the_observers_of_quantisation_do_not_move(images, trained, moving):
    from torch.ao import quantization

    model = nn.Sequential(
        quantization.QuantStub(), nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(175, 4)
    )
    model.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    if not moving:
        observer = quantization.FakeQuantize.with_args(observer=quantization.MinMaxObserver)
        weight = quantization.default_weight_fake_quant
        model.qconfig = quantization.QConfig(activation=observer, weight=weight)
    model = quantization.prepare_qat(model.train())
    for _ in range(trained):
        model(images)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    iterative_sign(model, images, 2, step_size=STEP)
    after = model.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)


# ---------------------------------------------------------------- rounding between batch sizes


class BySize(nn.Module):
    """Adds to every value what rounding might, of its batch's size or of the image beside it."""

    def __init__(self, mates: bool) -> None:
        super().__init__()
        self.mates = mates

    def forward(self, x: Tensor) -> Tensor:
        other = x.flip(0).mean((1, 2, 3), keepdim=True) / 255 if self.mates else float(len(x))
        return x * (1 + 0.002 * other)


@pytest.mark.parametrize("mates", [False, True], ids=["sizes", "mates"])
def test_what_only_batch_sizes_differ_in_needs_no_float64(images, monkeypatch, mates):
    """But what the images beside one change does, and is refused."""
    asked: list[object] = []
    look = probe._Pair._in_float64
    monkeypatch.setattr(probe._Pair, "_in_float64", lambda pair: asked.append(0) or look(pair))
    model = nn.Sequential(BySize(mates), Net())
    sign = SignTransform(model.eval(), 1, step_size=STEP, backend="autograd")
    if mates:
        with pytest.raises(ValueError, match="interact"):
            sign.transform(images)
    else:
        sign.transform(images)
    assert bool(asked) == mates


@pytest.mark.parametrize("rows", [False, True])
def test_a_network_is_copied_only_if_it_may_hold_rows(images, monkeypatch, rows):
    copies: list[object] = []
    monkeypatch.setattr(probe.copy, "deepcopy", lambda *args: copies.append(0) or deepcopy(*args))
    model = nn.Sequential(nn.BatchNorm2d(3), Net())
    if rows:
        model[1].register_buffer("kept", torch.arange(3.0))
    SignTransform(model.eval(), 1, step_size=STEP, backend="autograd").transform(images)
    assert bool(copies) == rows
