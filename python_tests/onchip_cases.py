"""Networks for onchip, and trajectories of them: on the emulated device or on a real one."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from emulated_onchip import Emulated
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.onchip.check import find_mismatch
from sign_ext.engine.onchip.engine import start_on_chip
from sign_ext.engine.onchip.network import put_on_chip
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.models import Normalize
from sign_ext.models.basic_cnn import basic_cnn

H200 = SharedMemory(232_448, 233_472)


def conv(channels_in, channels_out, kernel=3, **options):
    return nn.Conv2d(channels_in, channels_out, kernel, **{"padding": kernel // 2, **options})


def all_convolutions():
    """Strides, odd sizes, an even kernel, pooling that leaves a row, no activation in places."""
    return nn.Sequential(
        conv(3, 12, stride=2), nn.ReLU6(), conv(12, 20), nn.MaxPool2d(2), nn.LeakyReLU(0.1),
        nn.Conv2d(20, 9, 2), conv(9, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip


def small_head():
    return nn.Sequential(
        conv(1, 32), nn.ReLU(), conv(32, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 8), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 10), nn.ReLU(), nn.Linear(10, 3),
    )  # fmt: skip


def poolings():
    """Averages over windows, apart and overlapping; maxima and activations by themselves."""
    return nn.Sequential(
        conv(3, 24), nn.ReLU(), nn.AvgPool2d(2), conv(24, 16), nn.ReLU6(),
        nn.AvgPool2d((3, 2), (2, 1)), nn.LeakyReLU(0.2), nn.MaxPool2d(2), conv(16, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


class Block(nn.Module):
    """A residual block, with a convolution on its shortcut where sizes change."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.first = conv(before, after, stride=stride)
        self.second = conv(after, after)
        plain = stride == 1 and before == after
        self.shortcut = nn.Identity() if plain else conv(before, after, 1, stride=stride)

    def forward(self, x):
        return (self.shortcut(x) + self.second(self.first(x).relu())).relu()


def residual():
    """A small ResNet: identity blocks, two in a row, and shortcuts by convolutions."""
    return nn.Sequential(
        conv(3, 16), nn.ReLU(), Block(16, 16, 1), Block(16, 16, 1), Block(16, 24, 2),
        Block(24, 24, 1), Block(24, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 4),
    )  # fmt: skip


def split():
    """Two launches a step, with small values; a smooth activation after the trunk."""
    return nn.Sequential(
        Normalize((128.0,) * 3, (64.0,) * 3), conv(3, 16), nn.ReLU(), conv(16, 24),
        nn.MaxPool2d(2), nn.ReLU(), conv(24, 16), nn.SiLU(), nn.Flatten(), nn.LazyLinear(4),
    )  # fmt: skip


def resnet20():
    """ResNet-20 for CIFAR, untrained, with biases in place of batch normalisation."""
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    strides = {4: 2, 7: 2}
    blocks = [Block(widths[i - 1], widths[i], strides.get(i, 1)) for i in range(1, 10)]
    return nn.Sequential(
        Normalize((125.0, 123.0, 114.0), (63.0, 62.0, 67.0)), conv(3, 16), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def two_readers():
    """A value that two convolutions read and a sum adds, pooled before."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Sequential(conv(3, 16), nn.MaxPool2d(2), nn.ReLU())
            # Neither window holds the other: they do not become one convolution.
            self.left = nn.Conv2d(16, 16, (1, 3), padding=(0, 1))
            self.right = nn.Conv2d(16, 16, (3, 1), padding=(1, 0))
            self.last, self.head = conv(16, 16), nn.Linear(16, 3)

        def forward(self, x):
            x = self.first(x)
            y = (self.left(x) + self.right(x)).relu()
            return self.head((x + self.last(y)).relu().mean((2, 3)))

    return Branches()


class Standardised(nn.Module):
    """An affine map before the first layer, and a sum of a value and an activated branch of it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(conv(3, 16), nn.ReLU(), conv(16, 24), nn.MaxPool2d(2), nn.ReLU())
        self.branch = nn.Sequential(conv(24, 24), nn.ReLU())
        self.head = nn.Linear(24, 4)
        self.register_buffer("mean", torch.tensor([120.0, 110.0, 100.0])[:, None, None])

    def forward(self, x):
        x = self.first((x - self.mean) / 64)
        return self.head((x + self.branch(x)).mean((2, 3)))


NETWORKS = {
    "basic_cnn": (lambda: basic_cnn(10, (3, 12, 12)), (3, 12, 12), False),
    "keras": (lambda: basic_cnn(10, (3, 15, 17), padding="keras"), (3, 15, 17), False),
    "all_convolutions": (all_convolutions, (3, 19, 14), True),
    "small_head": (small_head, (1, 8, 12), True),
    "standardised": (Standardised, (3, 10, 7), True),
    "poolings": (poolings, (3, 18, 14), True),
    "residual": (residual, (3, 12, 10), True),
    "split": (split, (3, 9, 11), False),
    "two_readers": (two_readers, (3, 11, 8), True),
}
# Seconds on the emulation.
DEEP = {"resnet20": (resnet20, (3, 9, 8), True)}


def prepare(
    name: str,
    seed: int,
    images: int = 2,
    memory: SharedMemory = H200,
    gain: float = 1.0,
    device: str = "cpu",
    **options: object,
) -> tuple[OnChipTrajectory, Tensor, Program]:
    """A trajectory, its images and its program; on a CPU the kernel runs on the emulation.

    Args:
        name: in NETWORKS or DEEP.
        seed: of weights, images and the emulation's order of threads.
        images: how many.
        memory: the device's memory.
        gain: factor of the first layer's weights.
        device: where.
        **options: of SignTransform.
    """
    make, shape, whole = {**NETWORKS, **DEEP}[name]
    torch.manual_seed(seed % 2**31)
    model = make().eval()
    with torch.no_grad():
        model(torch.zeros(1, *shape))
        next(model.parameters()).mul_(gain)
    batch = (255 * torch.rand(images, *shape)).contiguous(memory_format=torch.channels_last)
    model, batch = model.to(device), batch.to(device)
    options = {"step_size": 20.0, "precision": "bfloat16", **options}
    sign = SignTransform(model, 3, **options)
    program = sign.program(batch)
    problem = sign._problem(batch, torch.float32)[0]
    momentum = bool(sign.settings.momentum)
    network = put_on_chip(program, memory, batch.device, momentum=momentum)
    trajectory = start_on_chip(problem, batch, network)
    if device == "cpu":
        trajectory._run = Emulated(seed % 1000)
    if memory is H200:
        assert trajectory.network.is_whole == whole
    return trajectory, batch, program


def distance(got, expected):
    return float((got.double() - expected).norm() / expected.norm())


def check_walk(trajectory: OnChipTrajectory, images: Tensor, steps: int = 3) -> None:
    """Steps of Algorithm 1, each with the δ of its definition at the iterate where it begins.

    Args:
        trajectory: of any settings.
        images: where it begins.
        steps: how many.
    """
    settings = trajectory.problem.settings
    low, high = settings.clamp or (-math.inf, math.inf)
    trajectory.start(images)
    walk = [trajectory.iterate.clone()]
    velocities = [torch.zeros_like(walk[0])]
    for _ in range(steps):
        trajectory.advance(1)
        walk.append(trajectory.iterate.clone())
        if trajectory.velocity is not None:
            velocities.append(trajectory.velocity.clone())
    seen = trajectory._watch.clone()
    assert trajectory.first_bad_step() == 0
    assert trajectory.moved()
    deltas, ends = [], []
    for k, (before, after) in enumerate(pairwise(walk)):
        assert find_mismatch(trajectory, before) == ""
        if trajectory.velocity is None:
            assert torch.equal(trajectory.observe(before).iterate, after)
            continue
        trajectory.observe(before)  # from rest, so that the velocity is δ
        deltas.append(trajectory.velocity.double())
        velocity = settings.momentum * velocities[k].double() + deltas[-1]
        close = {"rtol": 1e-6, "atol": 1e-6 * float(velocity.abs().max())}
        torch.testing.assert_close(velocities[k + 1].double(), velocity, **close)
        ends.append(before.double() + settings.step_size * velocity)
        close = {"rtol": 1e-6, "atol": 1e-6 * float(ends[-1].abs().max())}
        torch.testing.assert_close(after.double(), ends[-1].clamp(low, high), **close)
    if deltas:
        largest = [torch.stack(found).abs().max() for found in (deltas, ends)]
        torch.testing.assert_close(seen.double(), torch.stack(largest), rtol=1e-6, atol=0)
    trajectory.start(images)
    trajectory.advance(steps)
    assert torch.equal(trajectory.iterate, walk[-1])
