"""Roofline model: the machine's peak rates, a step's work, and the floor that follows.

A step is a forward pass and a backward pass to the input, so it takes twice the operations of the
forward pass. Additional work (gradients of weights, copies) does not count as useful.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sign_ext.benchmarking.loops import precision_context
from sign_ext.engine.timing import clock

# rows × inner × columns: convolutions of the networks as matrix products, and square products.
SHAPES = {
    "cpu": [(16384, 288, 64), (4096, 576, 64), (4096, 384, 256), (1024, 1024, 1024)],
    "cuda": [(65536, 576, 128), (32768, 1152, 256), (8192, 8192, 8192), (4096, 4096, 4096)],
}
COPIED = 2**30  # bytes read, and the same number written
# Each reads its input and writes its output once; pointwise layers can be fused into a neighbour.
PASSES = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Layer:
    """The work of one layer in a step, for all images.

    Attributes:
        flop: Floating-point operations, forward and backward to the input.
        moved: Bytes of input, output and weights, forward and backward, each once.
    """

    flop: int
    moved: int


@dataclass(frozen=True)
class Machine:
    """The machine's measured peak rates.

    Attributes:
        flop_per_s: Rate of the fastest matrix product at the race's precision.
        bytes_per_s: Rate of a copy, bytes read plus bytes written; None if not measured.
    """

    flop_per_s: float
    bytes_per_s: float | None = None


def layers_of(phi: nn.Module, images: Tensor, precision: str) -> list[Layer]:
    """The minimum work of each layer of a step, if layers are computed one after another.

    Args:
        phi: The network without its classifier, in evaluation mode.
        images: (N, C, H, W).
        precision: "float32", "tf32" or "bfloat16" (two-byte activations).

    Returns:
        One entry per convolution, linear layer and pooling; the rest is one entry without bytes.
    """
    size = 2 if precision == "bfloat16" else 4
    found: list[Layer] = []
    counter = FlopCounterMode(display=False)
    begun: dict[nn.Module, int] = {}

    def before(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        begun[module] = counter.get_total_flops()

    def after(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        flop = counter.get_total_flops() - begun[module]
        weights = sum(p.numel() for p in module.parameters())
        values = arguments[0].numel() + output.numel() + weights
        found.append(Layer(2 * flop, 2 * values * size))

    hooks = []
    for module in phi.modules():
        if isinstance(module, PASSES):
            hooks += [module.register_forward_pre_hook(before)]
            hooks += [module.register_forward_hook(after)]
    try:
        with torch.no_grad(), counter:
            phi(images)
    finally:
        for hook in hooks:
            hook.remove()
    rest = 2 * counter.get_total_flops() - sum(layer.flop for layer in found)
    return [*found, Layer(rest, 0)]


def flop_of(layers: list[Layer]) -> int:
    """Floating-point operations of a step."""
    return sum(layer.flop for layer in layers)


def floor(layers: list[Layer], machine: Machine) -> float:
    """Lower bound in seconds for any engine that computes layer by layer.

    Args:
        layers: A step, from `layers_of`.
        machine: The machine's rates; without a copy rate only the operations count.
    """
    rate = machine.bytes_per_s or float("inf")
    return sum(max(each.flop / machine.flop_per_s, each.moved / rate) for each in layers)


def _best(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest time of a call, of at least three calls and as many as fit in `seconds`."""
    work()
    times = [clock(work, 1, device) for _ in range(3)]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        times.append(clock(work, 1, device))
    return min(times)


def matmul_rate(precision: str, device: torch.device, seconds: float = 0.2) -> float:
    """Operations per second of the fastest matrix product, at a race's precision.

    Args:
        precision: "float32", "tf32" or "bfloat16".
        device: Where to multiply.
        seconds: Time spent on each shape.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    rates = []
    with precision_context(precision, device), torch.no_grad():
        for rows, inner, columns in SHAPES[device.type]:
            a = torch.randn(rows, inner, device=device, dtype=dtype)
            b = torch.randn(inner, columns, device=device, dtype=dtype)
            out = torch.empty(rows, columns, device=device, dtype=dtype)
            taken = _best(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, seconds)
            rates.append(2 * rows * inner * columns / taken)
    return max(rates)


def copy_rate(device: torch.device, count: int = COPIED, seconds: float = 0.2) -> float:
    """Bytes per second of a copy of `count` bytes, read plus written."""
    source, target = (torch.empty(count, dtype=torch.uint8, device=device) for _ in range(2))
    source.fill_(1)
    return 2 * count / _best(lambda: target.copy_(source), device, seconds)


def measure(precision: str, device: torch.device) -> Machine:
    """Measure the machine's rates: matrix products, and on a GPU also a copy."""
    # On a CPU the activations of a batch stay in caches, so a copy's rate is no bound there.
    copied = copy_rate(device) if device.type == "cuda" else None
    return Machine(matmul_rate(precision, device), copied)
