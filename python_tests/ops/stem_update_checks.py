"""Checks of stem_update_ that hold on any device, against autograd and the reference in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tensors import assert_native_route, random_mask
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import unpack_bits
from sign_ext.ops.stem_update import stem_update_
from sign_ext.ops.watch import NEVER


@dataclass(frozen=True)
class Stem:
    """A first convolution and the images that it sees."""

    images: int = 2
    size: tuple[int, int] = (9, 11)
    channels: tuple[int, int] = (3, 32)
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @property
    def geometry(self) -> dict[str, tuple[int, int]]:
        return {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}

    @property
    def out(self) -> tuple[int, int]:
        height, width = (
            (size + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1
            for size, pad, kernel, dilation, stride in zip(
                self.size, self.padding, self.kernel, self.dilation, self.stride, strict=True
            )
        )
        return height, width


STEMS = [
    Stem(),
    Stem(channels=(3, 64), size=(32, 32)),
    Stem(channels=(1, 6), kernel=(5, 5), padding=(2, 2)),
    Stem(channels=(3, 32), stride=(2, 2), size=(13, 24)),
    Stem(channels=(3, 64), kernel=(7, 7), stride=(2, 2), padding=(3, 3), size=(20, 33)),
    Stem(channels=(3, 48), kernel=(4, 4), stride=(4, 4), padding=(0, 0), size=(9, 17)),
    Stem(channels=(4, 33), dilation=(2, 2), padding=(2, 2)),
    Stem(channels=(16, 24), kernel=(3, 5), stride=(2, 1), padding=(1, 2)),
    Stem(channels=(5, 7), kernel=(1, 2), stride=(1, 3), padding=(0, 1), dilation=(1, 3)),
    Stem(images=1, size=(1, 1), channels=(2, 8)),
]


def problem(
    stem: Stem, device: str, dtype: torch.dtype, generator: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything at once: images of some grey levels, a mask, a velocity and a watch."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    last = torch.channels_last
    shape = (stem.images, stem.channels[0], *stem.size)
    g = normal(stem.images, stem.channels[1], *stem.out)
    tensors = {
        "p": (torch.rand(shape, generator=generator) * 255).to(device, memory_format=last),
        "g": g.to(device, dtype, memory_format=last),
        "weight": normal(*stem.kernel, *stem.channels).to(device),
        "velocity": (normal(*shape) * 20).to(device, memory_format=last),
        "mask": random_mask(generator, tuple(g.shape), device),
        "watch": torch.zeros(2, device=device),
        "counts": torch.tensor([3, NEVER, 0], dtype=torch.int32, device=device),
    }
    return tensors, {
        **stem.geometry,
        "slope": 0.2,
        "step_size": 0.7,
        "momentum": 0.9,
        "clamp_min": 10.0,
        "clamp_max": 240.0,
    }


def wide(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in float64 on the CPU; the mask stays as it is."""
    return {
        name: tensor.cpu().clone() if name in ("mask", "counts") else tensor.cpu().double()
        for name, tensor in tensors.items()
    }


def check_against_the_reference(
    stem: Stem, device: str, dtype: torch.dtype, generator: torch.Generator, left_out: set[str]
) -> None:
    """The native operator and the reference in float64 move everything alike."""
    tensors, options = problem(stem, device, dtype, generator)
    tensors = {name: tensor for name, tensor in tensors.items() if name not in left_out}
    options = {name: value for name, value in options.items() if name not in left_out}
    expected = wide(tensors)
    read = {name: tensors[name].clone() for name in ("g", "weight", "mask") if name in tensors}
    assert_native_route(tensors["g"], device)
    stem_update_(**tensors, **options)
    stem_update_.reference(**expected, **options)
    for name in ("p", "velocity", "watch"):
        if name in tensors:
            torch.testing.assert_close(
                tensors[name].cpu().double(), expected[name], rtol=2e-6, atol=3e-4
            )
    for name, before in read.items():
        assert torch.equal(tensors[name], before)
    if "counts" in tensors:
        assert tensors["counts"].tolist() == expected["counts"].tolist() == [4, NEVER, 0]


def check_the_same_bits_every_time(
    stem: Stem, device: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Two calls, and calls of single images, give the same bits."""
    tensors, options = problem(stem, device, dtype, generator)
    rows = stem.out[0] * stem.out[1]

    def clones(images: slice) -> dict[str, Tensor]:
        of = {}
        for name, tensor in tensors.items():
            if name == "mask":
                of[name] = tensor[images.start * rows : images.stop * rows].clone()
            else:
                of[name] = (
                    tensor.clone()
                    if name in ("weight", "watch", "counts")
                    else tensor[images].clone()
                )
        return of

    first, second = clones(slice(0, stem.images)), clones(slice(0, stem.images))
    stem_update_(**first, **options)
    stem_update_(**second, **options)
    singly = [clones(slice(image, image + 1)) for image in range(stem.images)]
    for one in singly:
        stem_update_(**one, **options)
    for name in ("p", "velocity"):
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], torch.cat([one[name] for one in singly]))
    assert torch.equal(first["watch"], second["watch"])
    assert torch.equal(first["watch"], torch.stack([one["watch"] for one in singly]).amax(0))


def check_against_autograd(update: Any, stem: Stem, device: str, slope: float) -> None:
    """δ is what autograd sends back through a convolution and its activation."""
    generator = torch.Generator().manual_seed(5)
    tensors, _ = problem(stem, device, torch.float32, generator)
    x = tensors["p"].double().requires_grad_()
    kernel = tensors["weight"].double().permute(3, 2, 0, 1)
    y = F.conv2d(x, kernel, None, stem.stride, stem.padding, stem.dilation)
    bits = unpack_bits(tensors["mask"], y.shape)
    y = torch.where(bits, y, y * slope)
    (expected,) = torch.autograd.grad(y, x, tensors["g"].double())
    p = torch.zeros_like(tensors["p"])
    update(p, tensors["g"], tensors["weight"], mask=tensors["mask"], slope=slope, **stem.geometry)
    torch.testing.assert_close(p.double(), expected, rtol=2e-6, atol=2e-4)


def check_the_watch(update: Any, device: str) -> None:
    """It keeps what is larger, sees values before the clamp, and never loses a NaN.

    Steps are counted, and the first one named after which it is not finite.
    """
    stem = Stem(images=1, size=(2, 2), channels=(1, 1), kernel=(1, 1), padding=(0, 0))
    assert stem.out == (2, 2)

    def watched(values: list[float], before: list[float]) -> list[float]:
        g = torch.tensor(values, device=device).view(1, 1, 2, 2)
        watch = torch.tensor(before, device=device)
        p = torch.ones_like(g)
        weight = torch.ones(1, 1, 1, 1, device=device)
        counts = torch.tensor([5, NEVER, 0], dtype=torch.int32, device=device)
        options = {"step_size": 2.0, "clamp_min": 0.0, "clamp_max": 3.0}
        update(p, g, weight, watch=watch, counts=counts, **options)
        finite = bool(watch.isfinite().all())
        assert counts.tolist() == [6, NEVER if finite else 6, 0]
        update(p, torch.zeros_like(g), weight, watch=watch, counts=counts, **options)
        assert counts.tolist() == [7, NEVER if finite else 6, 0]
        return watch.tolist()

    nan, inf = float("nan"), float("inf")
    assert watched([1.0, -5.0, 2.0, 0.0], [0.0, 0.0]) == [5.0, 9.0]
    assert watched([1.0, -5.0, 2.0, 0.0], [7.0, 8.0]) == [7.0, 9.0]
    assert watched([1.0, -inf, 2.0, 0.0], [7.0, 8.0]) == [inf, inf]
    for first, second in (
        watched([1.0, nan, 2.0, inf], [0.0, 0.0]),
        watched([0.0, 0.0, 0.0, 0.0], [nan, nan]),
    ):
        assert first != first
        assert second != second
