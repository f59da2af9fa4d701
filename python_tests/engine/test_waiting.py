"""Steps that wait for the device are found before they are captured, on any device."""

from __future__ import annotations

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from torch import nn

from sign_ext import BackendError
from sign_ext.engine.graphed import forbid_host_sync
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.settings import Settings
from sign_ext.source_layer import Phi, guess_source_layer


def step_of(model: nn.Module, **options):
    model.eval().requires_grad_(False)
    phi = Phi(model, guess_source_layer(model))
    settings = Settings(step_size=100.0, **options)
    problem = Problem(phi, settings, torch.float32, torch.channels_last)
    images = torch.rand(2, 3, 32, 32) * 255
    trajectory = Trajectory(problem, images)
    trajectory.start(images)
    return trajectory


class Waits(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return x * self.how(x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda x: 2.0 if x.sum() > 0 else 1.0, "reads a value back"),
        (lambda x: x.mean().item(), "reads a value back"),
        (lambda x: len(x.flatten().nonzero()), "nonzero"),
        (lambda x: x[x > 0].detach().numel() * 0 + len(x.masked_select(x > 0)), "masked_select"),
        (lambda x: 1.0 if torch.equal(x, x) else 2.0, "compares"),
    ],
)
def test_a_step_that_waits_is_refused(how, words):
    trajectory = step_of(nn.Sequential(Waits(how), *tiny_cnn()))
    trajectory.step()  # it runs
    with pytest.raises(BackendError, match=f"captured.*{words}"):
        forbid_host_sync(trajectory.step)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "clamp": (0, 255)},
        {"linearize_at": "input"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_our_own_step_never_waits_and_is_not_changed_by_watching(options):
    trajectory = step_of(basic_cnn(), **options)
    before = trajectory.iterate.clone()
    forbid_host_sync(trajectory.step)
    watched = trajectory.iterate.clone()
    trajectory.start(before)
    trajectory.step()
    torch.testing.assert_close(trajectory.iterate, watched, rtol=0, atol=0)
    assert not torch.equal(watched, before)
