"""Every change of a network between two calls is noticed: by a watch, or by what it does to δ."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from sign_checks import assert_moved_like
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import SignTransform, iterative_sign
from sign_ext.engine.witness import TURNS
from sign_ext.network_state import StructureWatch, weights_digest
from sign_ext.reference import iterative_sign_reference

STEP = 1000.0
GLOBAL = {"scale": 1.0}


class Net(nn.Module):
    """A convolution, whatever `body` makes of it, and a classifier."""

    def __init__(self, **held: object) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5 * 5 * 7, 4)
        vars(self).update(held)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x / 255))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).flatten(1))


def net(body, **held) -> Net:
    """A network whose features are body(network, features)."""
    kind = type("Net", (Net,), {"features": lambda self, x: body(self, Net.features(self, x))})
    return kind(**held)


def in_a_closure():
    scale = [1.0]

    class Closed(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.features(x) * scale[0]).flatten(1))

    return Closed(), lambda model: scale.__setitem__(0, 3.0)


class LoRA(Net):
    def __init__(self) -> None:
        super().__init__()
        self.scaling = {"default": 1.0}
        self.adapter = nn.Conv2d(3, 5, 3)

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.first(x / 255) + self.scaling["default"] * self.adapter(x / 255))


def ones() -> Tensor:
    return torch.ones(5, 1, 1)


def new_forward(self, x: Tensor) -> Tensor:
    return F.conv2d(2 * x, self.weight, self.bias)


def scaled(scales: list[float]):
    def scale(y: Tensor, k: list[float] = scales) -> Tensor:
        return y * k[0]

    return scale


def by(name):
    return lambda m, y: y * getattr(m, name)


def scale_at(m, y):
    return y * m.held["a"][0]


def with_a_parameter() -> Net:
    model = net(lambda m, y: y * float(m.gain))
    model.gain = nn.Parameter(torch.ones(()))
    return model


CHANGES = {
    "a tensor attribute, in place": lambda: (
        net(by("mean"), mean=ones()),
        lambda m: m.mean.fill_(2),
    ),
    "a tensor attribute, through data": lambda: (
        net(by("mean"), mean=ones()),
        lambda m: m.mean.data.fill_(2),
    ),
    "a tensor attribute, replaced": lambda: (
        net(by("mean"), mean=ones()),
        lambda m: setattr(m, "mean", 2 * ones()),
    ),
    "a tensor in a list": lambda: (
        net(lambda m, y: y * m.held[0], held=[ones()]),
        lambda m: m.held[0].mul_(3),
    ),
    "a number in a dict in a list": lambda: (
        net(scale_at, held={"a": [1.0]}),
        lambda m: m.held["a"].__setitem__(0, 3.0),
    ),
    "LoRA's scaling": lambda: (LoRA(), lambda m: m.scaling.update(default=9.0)),
    "a number in an object": lambda: (
        net(lambda m, y: y * m.config.scale, config=types.SimpleNamespace(scale=1.0)),
        lambda m: setattr(m.config, "scale", 3.0),
    ),
    "a numpy array": lambda: (
        net(lambda m, y: y * torch.from_numpy(m.k.copy()), k=np.ones((5, 1, 1), np.float32)),
        lambda m: m.k.fill(3),
    ),
    "a function": lambda: (
        net(lambda m, y: m.act(y), act=torch.relu),
        lambda m: setattr(m, "act", torch.tanh),
    ),
    "a function's default": lambda: (
        net(lambda m, y: m.act(y), act=scaled([1.0])),
        lambda m: m.act.__defaults__[0].__setitem__(0, 3.0),
    ),
    "a closure": in_a_closure,
    "a forward, replaced": lambda: (
        Net(),
        lambda m: setattr(m.first, "forward", types.MethodType(new_forward, m.first)),
    ),
    "a module that is no submodule": lambda: (
        net(lambda m, y: m.hidden[0](y), hidden=[nn.Conv2d(5, 5, 1).requires_grad_(False)]),
        lambda m: m.hidden[0].weight.data.mul_(3),
    ),
    "a weight that is read as a number": lambda: (
        with_a_parameter(),
        lambda m: m.gain.data.fill_(3.0),
    ),
    # No watch sees these three.
    "a global variable": lambda: (
        net(lambda m, y: y * GLOBAL["scale"]),
        lambda m: GLOBAL.update(scale=3.0),
    ),
    "a class attribute": lambda: (
        net(lambda m, y: y * type(m).scale),
        lambda m: setattr(type(m), "scale", 3.0),
    ),
    "a gradient, and no value": lambda: (
        net(lambda m, y: y if GLOBAL["scale"] == 1.0 else y + (y - y.detach())),
        lambda m: GLOBAL.update(scale=3.0),
    ),
}


def expected(model: nn.Module, images: Tensor, steps: int) -> Tensor:
    """Algorithm 1 in float64, as its definition."""
    exact = copy.deepcopy(model).double().eval()
    for value in vars(exact).values():
        for tensor in value if isinstance(value, list) else ():
            if isinstance(tensor, nn.Module):
                tensor.double()

    def phi(x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        handle = exact.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        exact(x)
        handle.remove()
        return seen[0]

    return iterative_sign_reference(phi, images.double(), steps, step_size=STEP)


def one_transform(model, images):
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    return sign.transform


def another_transform(model, images):
    return lambda some: one_transform(model, some)(some)


def a_new_call(model, images):
    return lambda some: iterative_sign(model, some, 2, step_size=STEP, backend="fused")


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.parametrize("how", [one_transform, another_transform, a_new_call])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_every_change_is_seen(torch_rng, monkeypatch, case, how):
    """By the same transform, by another one of the network, and by a call of the function."""
    monkeypatch.setitem(GLOBAL, "scale", 1.0)
    monkeypatch.setattr(Net, "scale", 1.0, raising=False)
    model, change = CHANGES[case]()
    model.eval()
    images = torch.rand(4, 3, 7, 9, generator=torch_rng) * 255
    transform = how(model, images)
    # Later calls find what the first one kept, and look at less: at the end at a random image that
    # an earlier one had.
    first = transform(images)
    for _ in range(TURNS):
        assert torch.equal(transform(images), first)
    change(model)
    wanted = expected(model, images, 2)
    assert_moved_like(transform(images), wanted, images)
    assert_moved_like(transform(images[:2]), wanted[:2], images[:2])


def test_a_custom_gradient_is_looked_at_in_every_call(torch_rng, monkeypatch):
    """Neither values nor autograd's graph show what its backward pass reads."""

    class Times(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y: Tensor) -> Tensor:
            return y.clone()

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            return g * GLOBAL["scale"]

    monkeypatch.setitem(GLOBAL, "scale", 1.0)
    model = net(lambda m, y: Times.apply(y)).eval()
    images = torch.rand(4, 3, 7, 9, generator=torch_rng) * 255
    sign = SignTransform(model, 2, step_size=STEP)
    first = sign(images)
    for _ in range(TURNS):
        assert torch.equal(sign(images), first)
    GLOBAL["scale"] = 3.0
    assert_moved_like(sign(images), expected(model, images, 2), images)


@pytest.mark.parametrize("how", [one_transform, another_transform, a_new_call])
def test_another_classifier_is_seen(torch_rng, monkeypatch, how):
    """No watch sees the switch; the way from the network's output back to Φ does."""

    class Branches(Net):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(3, 5, 3)
            self.other = nn.Linear(5 * 5 * 7, 4)

        def forward(self, x: Tensor) -> Tensor:
            one = self.head(self.features(x).flatten(1))
            two = self.other(torch.relu(self.second(x / 255)).flatten(1))
            return one if GLOBAL["scale"] == 1.0 else two

    monkeypatch.setitem(GLOBAL, "scale", 1.0)
    model = Branches().eval()
    images = torch.rand(3, 3, 7, 9, generator=torch_rng) * 255
    transform = how(model, images)
    for _ in range(TURNS + 1):
        transform(images)
    GLOBAL["scale"] = 2.0
    exact = copy.deepcopy(model).double()

    def phi(x: Tensor) -> Tensor:
        return torch.relu(exact.second(x / 255)).flatten(1)

    wanted = iterative_sign_reference(phi, images.double(), 2, step_size=STEP)
    assert_moved_like(transform(images), wanted, images)


def test_a_weight_that_is_read_as_a_number_may_change_a_little(torch_rng):
    """By less than what the comparison with autograd can tell from rounding."""
    model = with_a_parameter().eval()
    images = torch.rand(2, 3, 7, 9, generator=torch_rng) * 255
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    first = sign.transform(images) - images
    model.gain.data.mul_(1 + 2e-5)
    second = sign.transform(images) - images
    # Each step moves by the gain's share of it, and 2e-5 of a step of hundreds is not rounding.
    grown = float(second.double().norm() / first.double().norm())
    assert 1 + 1e-5 < grown < 1 + 4e-5


def test_what_the_forward_pass_writes_itself_is_no_change(torch_rng, monkeypatch):
    """Such a network is recorded once, not in every call."""
    from sign_ext.engine.fused import programs

    class Keeps(Net):
        def features(self, x: Tensor) -> Tensor:
            self.calls = getattr(self, "calls", 0) + 1
            self.last = super().features(x)
            return self.last

    recorded: list[int] = []
    trace = programs.trace
    monkeypatch.setattr(programs, "trace", lambda *a: recorded.append(1) or trace(*a))
    images = torch.rand(2, 3, 7, 9, generator=torch_rng) * 255
    sign = SignTransform(Keeps().eval(), 2, step_size=STEP, backend="fused")
    for _ in range(4):
        sign.transform(images)
    assert len(recorded) <= 2


def test_the_watch_ends_where_objects_refer_to_each_other():
    model = Net()
    model.itself = [model]
    model.far = far = []
    for _ in range(50):
        far.append(far := [])
    model.many = list(range(100_000))
    watch = StructureWatch(model)
    before = watch.key()
    hash(before)
    assert watch.key() == before
    model.many = [1]
    assert watch.key() != before


def test_reset_begins_anew(torch_rng, monkeypatch):
    from sign_ext.engine.fused import programs

    recorded: list[int] = []
    trace = programs.trace
    monkeypatch.setattr(programs, "trace", lambda *a: recorded.append(1) or trace(*a))
    images = torch.rand(2, 3, 7, 9, generator=torch_rng) * 255
    sign = SignTransform(Net().eval(), 2, step_size=STEP, backend="fused")
    first = sign.transform(images)
    assert torch.equal(sign.transform(images), first)
    assert len(recorded) == 1
    sign.reset()
    assert sign.source_layer() is None
    assert torch.equal(sign.transform(images), first)
    assert len(recorded) == 2


@pytest.mark.parametrize("offsets", [(1.0, -2.0, 1.0), (1.0, -1.0)], ids=str)
def test_changes_that_cancel_in_plain_and_ramped_sums_are_seen(offsets):
    """Written through `.data`, which no version counts."""
    model = nn.Linear(40, 60)
    before = weights_digest(model)
    assert weights_digest(model) == before
    model.weight.data.view(-1)[100 : 100 + len(offsets)] += 0.01 * torch.tensor(offsets)
    assert weights_digest(model) != before
