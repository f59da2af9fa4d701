"""Small networks that tests share, in plain torch, independent of sign_ext."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sinc(nn.Module):
    """An activation that the compiler has no rule for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sinc(x)


class Scale(nn.Module):
    """Pixels 0–255 to 0–1."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 255


def basic_cnn(height: int = 32, width: int = 32, channels: int = 32) -> nn.Sequential:
    """The paper's BasicCNN (Section 3), written out here independently of sign_ext.models."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [
            nn.Conv2d(before, after, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.3),
        ]

    features = 2 * channels * (height // 4) * (width // 4)
    return nn.Sequential(
        Scale(),
        *block(3, channels),
        *block(channels, 2 * channels),
        nn.Flatten(),
        nn.Linear(features, 512),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(512, 10),
    )


def tiny_cnn(classes: int = 4) -> nn.Sequential:
    """A few convolutions with BatchNorm and dropout, for tests of behaviour."""
    return nn.Sequential(
        Scale(),
        nn.Conv2d(3, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(5, 7, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(28, classes),
    )


def lively(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give BatchNorms statistics and weights like trained ones, so that folding them matters."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.7, 1.3),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


def unsettled(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Give norms statistics, and redraw parameters that are constant: ones, zeros, scales of 1e-6.

    A new network's gates and scales hide what is behind them.
    """
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-0.2, 0.2, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            first = parameter.flatten()[:1]
            if not parameter.numel() or not bool((parameter == first).all()):
                continue
            low, high = (0.6, 1.4) if bool(first) else (-0.3, 0.3)
            parameter.uniform_(low, high, generator=generator)
    return model


def step_for(delta: Tensor, grey_levels: float = 5.0) -> float:
    """A step size that moves an image by `grey_levels` rms, well above p's rounding."""
    return grey_levels / float(delta.double().square().mean().sqrt())
