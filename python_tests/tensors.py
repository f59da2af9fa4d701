"""Tensors and checks that the operators' tests share, on any device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sign_ext.ops import native
from sign_ext.ops.activation import mask_shape, unpack_bits

needs_native = pytest.mark.skipif(
    not native.NATIVE.loaded, reason=f"no extension: {native.NATIVE.why}"
)
DTYPES = [torch.float32, torch.bfloat16]  # that the native operators take
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}


def assert_native_route(tensor: Tensor, device: str) -> None:
    """The native operators take this tensor, where they are built and it is not float64."""
    if native.NATIVE.loaded and tensor.dtype != torch.float64:
        assert native.route(tensor) == f"native-{device}"


def channels_last(tensor: Tensor) -> Tensor:
    """The same values with channels innermost, the layout that the operators take."""
    if tensor.dim() != 4:
        return tensor.contiguous()
    return tensor.contiguous(memory_format=torch.channels_last)


def normal(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> Tensor:
    """Normal values, drawn on the CPU."""
    return channels_last(torch.randn(shape, generator=generator).to(device, dtype))


def pixels(generator: torch.Generator, shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Contiguous float32 images of 0–255, drawn on the CPU."""
    return (torch.rand(shape, generator=generator) * 255).to(device)


def around_bounds(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> Tensor:
    """Values around the activations' bounds, some of them on a bound, some NaN."""
    values = torch.randn(shape, generator=generator) * 3
    values[torch.rand(shape, generator=generator) < 0.1] = 0.0
    values[torch.rand(shape, generator=generator) < 0.05] = 6.0
    values[torch.rand(shape, generator=generator) < 0.02] = math.nan
    return channels_last(values.to(device, dtype))


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """A tensor to be written, filled with a value that is wrong everywhere."""
    return channels_last(torch.full(shape, 123, dtype=dtype, device=device))


def random_bytes(generator: torch.Generator, shape: tuple[int, ...], device: str) -> Tensor:
    """Random bits, eight in an element."""
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)


def random_mask(generator: torch.Generator, shape: tuple[int, ...], device: str) -> Tensor:
    """A random bit mask of a tensor of this shape.

    Bits after the last channel are random too: nothing may depend on them.
    """
    return random_bytes(generator, mask_shape(shape), device)


def times_derivative(cotangent: Tensor, mask: Tensor | None, slope: float) -> Tensor:
    """A cotangent on the CPU times the derivative that a bit mask stands for."""
    if mask is None:
        return cotangent
    bits = unpack_bits(mask.cpu(), cotangent.shape)
    return cotangent * torch.where(bits, 1.0, slope)
