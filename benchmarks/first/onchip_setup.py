"""Set up the onchip kernel on this device, or its emulation if there is no GPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.onchip.engine import shared_memory_of, start_on_chip
from sign_ext.engine.onchip.network import put_on_chip
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.engine.onchip.trajectory import OnChipTrajectory
from sign_ext.engine.trajectory import Problem
from sign_ext.models import build_model

H200 = SharedMemory(232_448, 233_472)
NETWORKS = ("basic_cnn", "resnet20")
STEP_SIZE = 20.0
STAGES = ((16, 1), (32, 2), (64, 2))  # channels and first stride


class _Residual(nn.Module):
    """Two 3×3 convolutions with a shortcut: identity, or a 1×1 convolution if sizes change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, after, 3, stride)
        self.second = _convolution(after, after, 3, 1)
        same = stride == 1 and before == after
        self.shortcut = nn.Identity() if same else _convolution(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.second(self.first(x).relu())).relu()


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Sequential:
    """A convolution followed by BatchNorm."""
    conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after))


def resnet20(blocks: int = 3) -> nn.Module:
    """He et al. 2015 (arXiv:1512.03385), Section 4.2, with convolutions on its two shortcuts.

    Args:
        blocks: Blocks per stage; ResNet-20 has 3.
    """
    layers: list[nn.Module] = [_convolution(3, 16, 3, 1), nn.ReLU()]
    before = 16
    for after, stride in STAGES:
        for i in range(blocks):
            layers.append(_Residual(before, after, stride if i == 0 else 1))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def network_of(name: str, size: int) -> nn.Module:
    """A network of NETWORKS for images 3×size×size, in evaluation mode, with random weights."""
    torch.manual_seed(0)
    if name == "basic_cnn":
        return build_model("basic_cnn", image_shape=(3, size, size)).eval()
    return resnet20(3 if size == 32 else 1).eval()


def random_batch(images: int, size: int, device: torch.device) -> Tensor:
    """Random pixels 0–255, (images, 3, size, size), channels_last."""
    generator = torch.Generator().manual_seed(1)
    batch = 255 * torch.rand(images, 3, size, size, generator=generator)
    return batch.to(device).contiguous(memory_format=torch.channels_last)


class OnChipSetup:
    """A network and images, from which onchip trajectories are created."""

    def __init__(
        self,
        name: str,
        images: int,
        size: int,
        device: torch.device,
        step_size: float = STEP_SIZE,
    ) -> None:
        """Compile the network."""
        self.model = network_of(name, size).to(device)
        self.images = random_batch(images, size, device)
        self.sign = SignTransform(
            self.model, 1, step_size=step_size, precision="bfloat16", backend="fused"
        )
        self.program: Program = self.sign.program(self.images)
        self.problem: Problem = self.sign._problem(self.images, torch.float32)[0]

    def on_chip(self, threads: int | None = None) -> OnChipTrajectory:
        """A trajectory started at the images, not recorded as a graph.

        Args:
            threads: Threads per block; None for the default rule.
        """
        device = self.images.device
        shared_memory = shared_memory_of(device) if device.type == "cuda" else H200
        options = {} if threads is None else {"threads": threads}
        network = put_on_chip(self.program, shared_memory, device, **options)
        trajectory = start_on_chip(self.problem, self.images, network)
        if device.type != "cuda":
            from emulated_onchip import Emulated

            trajectory._run = Emulated()
        trajectory.start(self.images)
        return trajectory
