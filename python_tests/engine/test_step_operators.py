"""What a step calls besides the network's own products: one update, which also watches it.

Each further operator would be a kernel of its own in every replayed step of a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from networks import tiny_cnn
from onchip_cases import prepare
from tensors import pixels
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.trajectory import FusedTrajectory
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.ops.native import NATIVE
from sign_ext.pushforward import pullback_of_ones
from sign_ext.settings import Settings
from sign_ext.sign import SignTransform
from sign_ext.source_layer import Phi, guess_source_layer

pytestmark = pytest.mark.skipif(not NATIVE.loaded, reason=f"no extension: {NATIVE.why}")
OPTIONS = [{}, {"momentum": 0.5, "clamp": (0, 255)}]


class Called(TorchDispatchMode):
    """Counts the operators that compute something; views launch nothing."""

    def __init__(self) -> None:
        """Nothing is counted yet."""
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Count one and run it."""
        if not func.is_view:
            self.names[func.name()] += 1
        return func(*args, **kwargs or {})


def called_by(work: Callable[[], object]) -> Counter[str]:
    with torch.no_grad(), Called() as called:
        work()
    return called.names


def problem_of(model: nn.Module, images: torch.Tensor, **options: object) -> Problem:
    model.eval().requires_grad_(False)
    phi = Phi(model, guess_source_layer(model))
    return Problem(phi, Settings(**options), torch.float32)


def fused(model: nn.Module, images: torch.Tensor, **options: object) -> FusedTrajectory:
    step = SignTransform(model, backend="fused", **options).step(images)
    assert isinstance(step, Step)
    trajectory = FusedTrajectory(problem_of(model, images, **options), images, step)
    trajectory.start(images)
    return trajectory


@pytest.fixture
def images(torch_rng):
    return pixels(torch_rng, (5, 3, 9, 11))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_fused_step_is_its_products_and_one_update(images, options):
    trajectory = fused(tiny_cnn(), images, **options)
    assert trajectory._updates_by_stem
    own = called_by(lambda: trajectory._step.stem_cotangent(trajectory.iterate))
    assert called_by(trajectory.step) - own == {"sign_ext::stem_update_": 1}


def test_a_step_is_compared_with_autograd_by_the_operators_that_it_runs(images):
    model = tiny_cnn()
    step = fused(model, images)._step
    found = []
    called = called_by(lambda: found.append(step.pullback_of_ones(images)))
    assert called["sign_ext::stem_update_"] == 1
    wanted = pullback_of_ones(model.double(), images.double())
    assert (found[0] - wanted).norm() < 1e-5 * wanted.norm()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_fused_step_without_a_stem_too(images, options):
    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 8), nn.ReLU(), nn.Linear(8, 2))
    trajectory = fused(model, images, **options)
    assert not trajectory._updates_by_stem
    own = called_by(trajectory.pullback)
    assert called_by(trajectory.step) - own == {"sign_ext::sign_update_": 1}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_by_autograd_too(images, options):
    trajectory = Trajectory(problem_of(tiny_cnn(), images, **options), images)
    trajectory.start(images)
    own = called_by(trajectory.pullback)
    assert called_by(trajectory.step) - own == {"sign_ext::sign_update_": 1}


def test_two_launches_on_chip_add_nothing(seed):
    trajectory, images, _ = prepare("keras", seed)
    assert isinstance(trajectory, OnChipTrajectory)
    trajectory.start(images)
    rest, features = trajectory._rest, trajectory._features
    assert rest is not None
    assert features is not None
    own = called_by(lambda: rest.delta(features))
    assert called_by(trajectory.step) - own == {}
    assert int(trajectory._counts[0]) == 1
