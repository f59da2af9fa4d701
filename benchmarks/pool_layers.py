"""The pooling layers that the pooling benchmarks run, taken from the networks."""

from __future__ import annotations

from typing import NamedTuple

import torch

Pair = tuple[int, int]


class Pool(NamedTuple):
    """One pooling layer, with a batch that suits a CPU's cache and one for a GPU's memory."""

    channels: int
    size: int
    kernel: int
    stride: int
    padding: int
    images: dict[str, int]

    @property
    def out(self) -> int:
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def options(self) -> dict[str, Pair]:
        """The options of the operators."""
        return {
            "kernel": (self.kernel, self.kernel),
            "stride": (self.stride, self.stride),
            "padding": (self.padding, self.padding),
        }

    def input_shape(self, device: torch.device) -> tuple[int, int, int, int]:
        return self.images[device.type], self.channels, self.size, self.size

    def output_shape(self, device: torch.device) -> tuple[int, int, int, int]:
        return self.images[device.type], self.channels, self.out, self.out


MAX_POOLS = {
    "BasicCNN 2x2 32x32": Pool(32, 32, 2, 2, 0, {"cpu": 4, "cuda": 4096}),
    "BasicCNN 2x2 16x16": Pool(64, 16, 2, 2, 0, {"cpu": 8, "cuda": 8192}),
    "ResNet 3x3/2 112x112": Pool(64, 112, 3, 2, 1, {"cpu": 1, "cuda": 128}),
    "Inception 3x3/2 35x35": Pool(320, 35, 3, 2, 0, {"cpu": 1, "cuda": 256}),
}
AVERAGE_POOLS = {
    "NASNet 3x3 11x11": Pool(1056, 11, 3, 1, 1, {"cpu": 2, "cuda": 512}),
    "Inception 3x3 35x35": Pool(192, 35, 3, 1, 1, {"cpu": 1, "cuda": 256}),
    "global 8x8": Pool(1536, 8, 8, 8, 0, {"cpu": 4, "cuda": 1024}),
}
CALLS = {"cpu": 20, "cuda": 20}
NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def channels_last(
    shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Draw a normally distributed tensor in channels_last.

    Args:
        shape: (N, C, H, W).
        generator: Random generator; its device is used.
        dtype: Type of the values.
    """
    drawn = torch.randn(shape, device=generator.device, generator=generator)
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)
