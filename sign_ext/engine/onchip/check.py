"""Checks a step on chip against its definition, through the mask bits that the kernel kept.

Rounding decides the sign of a pre-activation near zero, and one flipped mask bit changes δ by far
more than rounding itself does: in an untrained ResNet-20 δ is up to 5% off by flipped bits alone.
So there are two comparisons. Each bit of the kernel must be that of the definition's
pre-activation, unless rounding can move that across zero (or across a clamp's bound, or a tie in a
pooling window). And δ must be that of the definition's backward pass through the kernel's own bits,
where no sign is left for rounding to decide.

How much rounding can do follows from the network and the images: forward, from the variance of
independent roundings, propagated through the layers; backward, from the definition's own error,
with rounding against without.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.engine.onchip.partition import OnChipLayer
from sign_ext.engine.onchip.reference import (
    Bits,
    LayerRun,
    backward_reference,
    exact,
    forward_reference,
    rounded,
)
from sign_ext.engine.onchip.shared_memory import residue_begins, residue_bytes
from sign_ext.engine.onchip.trajectory import ObservedStep, OnChipTrajectory
from sign_ext.errors import BackendError
from sign_ext.ops.activation import Piecewise, unpack_bits

CHECKED = 8  # images

# How far rounding may move a pre-activation, in standard deviations of the effect of independent
# roundings to bfloat16 (each up to 2^-8 of a value). The definition rounds the same values as the
# kernel, and to the other neighbour only where float32 sums, truncated in the matrix unit, cross a
# tie. Such a sum of n products has up to n / 8 additions, each off by up to 2^-23 of the terms: at
# most 2^-13 for n = 8,192, and the next tie is 2^-9 away on average. So few values differ in the
# first layers; each of them changes sums of the next layer, so that more and more differ. If all
# did, the difference would be that of two independent roundings: sqrt(2) deviations. Observed in
# the 21 layers of ResNet-20: 0.4 deviations in the last ones and 3.1 at most, also for flat images,
# where the roundings of pixels are not independent.
BIT_REACH = 6.0
# How many times the error of the definition with rounding the kernel's error of δ may be. They
# round the same values to the same type, so the ratio is near 1 whatever the network is.
DELTA_RATIO = 1.5
SUM_ERROR = 2.0**-13  # the bound of float32 sums above, for a δ of which nothing is rounded
BFLOAT16_ULP = 2.0**-7  # a unit in the last place, relative to the value


def examples_of(images: Tensor) -> Tensor:
    """A few images to check a step on, from one or more: the first, and their mirror images.

    Args:
        images: (N, C, H, W), N ≥ 1.
    """
    mirrored = [images.flip(3), images.flip(2), images.flip((2, 3))]
    few = torch.cat([images[:CHECKED], *(image[:CHECKED] for image in mirrored)])[:CHECKED]
    return few.contiguous(memory_format=torch.channels_last)


def residues_of(layers: tuple[OnChipLayer, ...], residues: Tensor) -> list[Tensor]:
    """The bytes of each layer's bits, without the padding between layers.

    Args:
        layers: those on chip.
        residues: uint8, (N, bytes of an image).
    """
    begins = residue_begins(layers)
    return [
        residues[:, begin : begin + residue_bytes(layer)]
        for layer, begin in zip(layers, begins, strict=False)
    ]


def bits_of(layers: tuple[OnChipLayer, ...], residues: Tensor) -> list[Bits]:
    """The bits of each layer, from the bytes that the kernel wrote (csrc/onchip/onchip_layout.h).

    Args:
        layers: those on chip.
        residues: uint8, (N, bytes of an image).
    """
    found = []
    for layer, own in zip(layers, residues_of(layers, residues), strict=True):
        shape = (len(residues), *layer.shape)
        if layer.kept == 0:
            found.append(Bits(torch.ones(shape, dtype=torch.bool, device=residues.device), None))
            continue
        pixels = len(residues) * layer.shape[1] * layer.shape[2]
        rows = own.reshape(pixels, layer.kept, -1)
        planes = [unpack_bits(rows[:, i], shape) for i in range(layer.kept)]
        winners = None
        if layer.pooled:
            _, height, width = layer.shape
            whole_width = layer.conv_shape[2]
            y = 2 * torch.arange(height, device=residues.device)[:, None] + planes[2].long()
            x = 2 * torch.arange(width, device=residues.device) + planes[1].long()
            winners = y * whole_width + x
        found.append(Bits(planes[0], winners))
    return found


def _edge_distance(activation: Piecewise, y: Tensor) -> Tensor:
    """Distance of an activation's input from where its derivative changes."""
    if activation.slope:
        return y.abs()
    return torch.minimum((y - activation.low).abs(), (y - activation.high).abs())


def _wrong_bits(
    layer: OnChipLayer, kernel: Bits, run: LayerRun, reach: Tensor
) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
    """For each kind of bits: its name, which are wrong, distance from the tie, rounding's reach."""
    y, near = run.sums, reach
    if layer.pooled:
        assert kernel.winners is not None
        y, near = F.max_pool2d(y, 2), F.max_pool2d(near, 2)
        won = run.sums.flatten(2).gather(2, kernel.winners.flatten(2)).reshape(y.shape)
        yield "pooling positions", ~(y - won <= 2 * near), y - won, 2 * near
    if not layer.activation.is_identity:
        off = _edge_distance(layer.activation, y)
        differ = kernel.passes != layer.activation.passes(y)
        yield "mask bits", differ & ~(off <= near), off, near


def _forward_mismatch(
    layers: tuple[OnChipLayer, ...], step: ObservedStep, kernel: list[Bits], runs: list[LayerRun]
) -> str:
    """How the bits or the last value differ from the definition's, or ""."""
    for i, layer in enumerate(layers):
        run = runs[i]
        reach = BIT_REACH * run.variance.sqrt()
        for name, wrong, off, near in _wrong_bits(layer, kernel[i], run, reach):
            if bool(wrong.any()):
                worst = (torch.where(wrong, off, 0) / near.clamp_min(1e-300)).argmax()
                return (
                    f"layer {i + 1} of {len(layers)} on chip has {int(wrong.sum()):,} of "
                    f"{wrong.numel():,} {name} wrong: the definition is up to "
                    f"{float(off.flatten()[worst]):.2g} from a tie, rounding explains "
                    f"{float(near.flatten()[worst]):.2g}"
                )
    if step.features is not None:
        value = runs[-1].value
        near = F.max_pool2d(reach, 2) if layers[-1].pooled else reach
        off = (step.features.double() - value).abs()
        wrong = ~(off <= near + BFLOAT16_ULP * value.abs())
        if bool(wrong.any()):
            return (
                f"{int(wrong.sum()):,} of {wrong.numel():,} elements of the last value on chip are "
                f"wrong, by up to {float(off.max()):.2g}"
            )
    return ""


def _relative_error(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance of each image, as root mean square over the images."""
    error = (got - expected).flatten(1).norm(dim=1)
    return float((error / expected.flatten(1).norm(dim=1).clamp_min(1e-300)).square().mean().sqrt())


@torch.no_grad()
def check_step(trajectory: OnChipTrajectory, images: Tensor) -> None:
    """Compare the first step on chip with its definition.

    The kernel runs whatever plan it is given, on devices that it was not tested on: an error there
    must not go unnoticed.

    Args:
        trajectory: of any iterate; afterwards it is one step after `images`.
        images: the batch.

    Raises:
        BackendError: they differ by more than rounding; the message says how.
    """
    if why := find_mismatch(trajectory, images):
        raise BackendError(
            f'the first step on chip does not match its definition: {why}; backend="fused" runs it'
        )


def find_mismatch(trajectory: OnChipTrajectory, images: Tensor) -> str:
    """How the first step differs from its definition by more than rounding, or "".

    Args:
        trajectory: of any iterate; afterwards it is one step after `images`.
        images: the batch.
    """
    trunk, settings = trajectory.network.trunk, trajectory.problem.settings
    layers, scale = trunk.layers, trunk.scale
    step = trajectory.observe(images)
    kernel = bits_of(layers, step.residues)
    runs = forward_reference(layers, images, scale, trunk.shift)
    if why := _forward_mismatch(layers, step, kernel, runs):
        return why
    expected, with_rounding = (
        backward_reference(layers, kernel, step.cotangent, scale, how) for how in (exact, rounded)
    )
    # δ itself: a step so long that the rounding of p does not matter, without a clamp.
    p = images.double()
    size = float(p.abs().max().clamp_min(1e-30) / expected.abs().max().clamp_min(1e-30))
    step_size = 2.0 ** (8 + (round(math.log2(size)) if math.isfinite(size) else 0))
    again = trajectory.observe(images, step_size=step_size, clamp=None)
    both = (residues_of(layers, one.residues) for one in (again, step))
    if not all(map(torch.equal, *both)):
        return "the same launch gave different mask bits the second time"
    delta = (again.iterate.double() - p) / step_size
    error, allowed = (_relative_error(d, expected) for d in (delta, with_rounding))
    if not error <= DELTA_RATIO * allowed + SUM_ERROR:
        return (
            f"δ is {error:.2%} from the definition's through the same mask bits (relative L2), "
            f"where rounding alone makes {allowed:.2%}"
        )
    moved = settings.step_size * delta
    after = p + moved
    if settings.clamp is not None:
        after = after.clamp(*settings.clamp)
    last_places = 4 * torch.finfo(torch.float32).eps * (p.abs() + moved.abs())
    off = (step.iterate.double() - after).abs()
    if bool((~(off <= last_places)).any()):
        return f"p is not p + step_size · δ after the step, by up to {float(off.max()):.2g}"
    return ""
