"""Random small networks over the compiler's operations, drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F


class Network(nn.Module):
    """A sequence of layers, each a function of earlier values, and a linear classifier."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shapes = [shape]
        self.steps: list[tuple[Callable[..., Tensor], tuple[int, ...]]] = []
        self.layers = nn.ModuleList()

    def add(self, function: Callable[..., Tensor], *reads: int) -> None:
        """Append a layer that reads values by their numbers."""
        if isinstance(function, nn.Module):
            self.layers.append(function)
        sample = [torch.zeros(2, *self.shapes[n]) for n in reads]
        with torch.no_grad():
            self.shapes.append(tuple(function(*sample).shape[1:]))
        self.steps.append((function, reads))

    def close(self) -> None:
        """Append the classifier."""
        features = torch.Size(self.shapes[-1]).numel()
        self.classifier = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for function, reads in self.steps:
            values.append(function(*[values[n] for n in reads]))
        return self.classifier(values[-1].flatten(1))


def pad_mode(left: int, right: int, top: int, bottom: int) -> Callable[[Tensor], Tensor]:
    return lambda x: F.pad(x, (left, right, top, bottom))


ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(-0.5, 0.7),
    nn.LeakyReLU(0.2),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU(approximate="tanh"),
    nn.Sigmoid(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Tanh(),
    nn.ELU(),
    nn.Softplus(),
    nn.Mish(),
]


def _convolution(draw, network: Network, at: int) -> bool:
    channels, height, width = network.shapes[at]
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = draw(st.integers(1, 2))
    padding = (draw(st.integers(0, 2)), draw(st.integers(0, 2)))
    for size, k, p in zip((height, width), kernel, padding, strict=True):
        if size + 2 * p < dilation * (k - 1) + 1:
            return False
    groups = draw(st.sampled_from([1, channels] + [2] * (channels % 2 == 0)))
    out = groups * draw(st.integers(1, 5)) if groups < channels else channels
    network.add(
        nn.Conv2d(
            channels,
            out,
            kernel,
            stride=draw(st.integers(1, 2)),
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=draw(st.booleans()),
        ),
        at,
    )
    return True


def _pooling(draw, network: Network, at: int) -> bool:
    _, height, width = network.shapes[at]
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    if height + 2 * padding[0] < kernel[0] or width + 2 * padding[1] < kernel[1]:
        return False
    options = {
        "stride": draw(st.integers(1, 3)),
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    if draw(st.booleans()):
        network.add(nn.MaxPool2d(kernel, **options), at)
    else:
        count_include_pad = draw(st.booleans())
        network.add(nn.AvgPool2d(kernel, count_include_pad=count_include_pad, **options), at)
    return True


def _branches(draw, network: Network, at: int) -> bool:
    """A value joined with its 1×1 convolution: sum, difference, concatenation; or a gate."""
    channels = network.shapes[at][0]
    kind = draw(st.sampled_from(["sum", "difference", "scaled", "concat", "gate", "twice"]))
    if kind == "gate":
        network.add(nn.AdaptiveAvgPool2d(1), at)
        network.add(nn.Conv2d(channels, channels, 1), len(network.steps))
        network.add(nn.Sigmoid(), len(network.steps))
        network.add(lambda x, gate: gate * x, at, len(network.steps))
        return True
    if kind == "twice":
        network.add(lambda x: x + x * 0.5, at)
        return True
    network.add(nn.Conv2d(channels, channels, 1), at)
    other = len(network.steps)
    functions = {
        "sum": lambda a, b: a + b,
        "difference": lambda a, b: a - b,
        "scaled": lambda a, b: a + b * 0.17,
        "concat": lambda a, b: torch.cat([a, b], 1),
    }
    network.add(functions[kind], at, other)
    return True


def _small(draw, network: Network, at: int) -> bool:
    channels, height, width = network.shapes[at]
    kind = draw(st.sampled_from(["norm", "dropout", "pad", "crop", "scale", "half", "adaptive"]))
    if kind == "norm":
        network.add(nn.BatchNorm2d(channels), at)
    elif kind == "dropout":
        network.add(nn.Dropout(0.5), at)
    elif kind == "pad":
        network.add(pad_mode(*[draw(st.integers(0, 2)) for _ in range(4)]), at)
    elif kind == "crop" and min(height, width) > 1:
        network.add(lambda x: x[:, :, 1:, 1:], at)
    elif kind == "scale":
        network.add(lambda x: (x - 0.5) / 0.25, at)
    elif kind == "half" and channels > 1:
        network.add(lambda x: x.chunk(2, 1)[0], at)
    elif kind == "adaptive":
        network.add(nn.AdaptiveAvgPool2d((min(height, 2), min(width, 3))), at)
    else:
        return False
    return True


@st.composite
def networks(draw) -> tuple[Network, Tensor]:
    """A network in evaluation mode with non-trivial statistics, and a batch of images for it."""
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    network = Network(shape)
    for _ in range(draw(st.integers(1, 7))):
        made = len(network.steps)
        at = made if draw(st.integers(0, 4)) else draw(st.integers(0, made))
        layer = draw(st.sampled_from([_convolution, _pooling, _branches, _small, "activation"]))
        if layer == "activation":
            network.add(draw(st.sampled_from(ACTIVATIONS)), at)
        else:
            layer(draw, network, at)
    network.close()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(-1.5, 1.5)
            module.bias.data.uniform_(-0.5, 0.5)
    images = torch.randn(draw(st.integers(1, 3)), *shape)
    return network.eval().requires_grad_(False), images
