"""A plan and a network's constants as the kernel takes them: csrc/onchip/onchip.h, word by word."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.engine.onchip.partition import (
    MOST_LAYERS,
    STEP,
    OnChipLayer,
    Trunk,
    adder_of,
    cotangent_of,
    padded,
    readers_of,
)
from sign_ext.engine.onchip.plan import OnChipPlan
from sign_ext.engine.onchip.shared_memory import residue_bytes


@dataclass(frozen=True, eq=False)
class Constants:
    """What a network's launches read.

    Attributes:
        weights: bfloat16, one layer after another, each (KH · KW · C_in, C_out), its
            rows rounded up to whole steps.
        floats: float32: scale and shift of the image, biases, the seed.
        weight_at: the first element of each layer's weights.
        bias_at: the first element of each layer's bias.
        scale_at: that of the scale.
        shift_at: that of the shift.
        seed_at: that of the seed.
    """

    weights: Tensor
    floats: Tensor
    weight_at: tuple[int, ...]
    bias_at: tuple[int, ...]
    scale_at: int
    shift_at: int
    seed_at: int


def shift_for(channels: int, apart: int) -> int:
    """The shift with which an array's chunks change places: csrc/onchip/onchip_layout.h.

    Args:
        channels: of a row.
        apart: how far the rows lie from each other that are read together: 1, or 2 with pooling.
    """
    lines = channels * apart // 64
    return max(lines, 1).bit_length() - 1


def value_shift(layers: tuple[OnChipLayer, ...], i: int, channels: int) -> int:
    """The shift of a value: for windows if a layer that pools reads it.

    Args:
        layers: the network.
        i: the layer whose output it is, or -1 for the image.
        channels: in shared memory.
    """
    pooled = any(layers[n].pooled for n in readers_of(layers, i))
    return shift_for(channels, 2 if pooled else 1)


def pack_constants(trunk: Trunk, seed: Tensor | None, device: torch.device) -> Constants:
    """Weights and constants in the kernel's order, channels padded with zeros.

    Args:
        trunk: the network.
        seed: the cotangent of the last value, (C, H, W) or (F,), or None where each image brings
            its own.
        device: where to.
    """
    floats: list[Tensor] = []
    weights: list[Tensor] = []

    def add(to: list[Tensor], tensor: Tensor) -> int:
        at = sum(part.numel() for part in to)
        to.append(tensor.flatten())
        return at

    def row(constant: Tensor | None, channels: int, size: int, default: float) -> Tensor:
        given = torch.full((channels,), default) if constant is None else constant
        return F.pad(given.float().cpu(), (0, size - channels))

    channels, size = trunk.layers[0].in_shape[0], trunk.layers[0].in_channels
    scale_at = add(floats, row(trunk.scale, channels, size, 1.0))
    shift_at = add(floats, row(trunk.shift, channels, size, 0.0))
    weight_at, bias_at = [], []
    for layer in trunk.layers:
        out_c, in_c, _, _ = layer.weight.shape
        weight = layer.weight.float().cpu().permute(2, 3, 1, 0)
        weight = F.pad(weight, (0, padded(out_c) - out_c, 0, layer.in_channels - in_c))
        rows = weight.flatten(0, 2)
        weight_at.append(add(weights, F.pad(rows, (0, 0, 0, -len(rows) % STEP))))
        bias_at.append(add(floats, row(layer.bias, out_c, padded(out_c), 0.0)))
    seed_at = 0
    if seed is not None:
        last = trunk.layers[-1].shape
        rows = seed.float().cpu().reshape(last).permute(1, 2, 0)
        seed_at = add(floats, F.pad(rows, (0, padded(last[0]) - last[0])))
    return Constants(
        torch.cat(weights).to(device, torch.bfloat16),
        torch.cat(floats).to(device),
        tuple(weight_at),
        tuple(bias_at),
        scale_at,
        shift_at,
        seed_at,
    )


def _backward_words(layers: tuple[OnChipLayer, ...], i: int, plan: OnChipPlan) -> list[int]:
    """partial_at, added_at, hands: what becomes of the cotangent of layer i's input."""
    source = layers[i].reads
    if source < 0 or not plan.mode.backward:
        return [-1, -1, 0]
    readers = readers_of(layers, source)
    partial = plan.at.get(("partial", source), -1)
    if i != readers[0]:
        return [partial, -1, 0]
    adder = adder_of(layers, source)
    added = -1 if adder is None else plan.at["g", cotangent_of(layers, adder)]
    return [partial, added, 1]


def _layer_words(
    layers: tuple[OnChipLayer, ...], i: int, plan: OnChipPlan, constants: Constants, residue_at: int
) -> list[int | float]:
    layer = layers[i]
    out_c, _, kernel_h, kernel_w = layer.weight.shape
    activation = layer.activation
    return [
        *(layer.in_shape[1], layer.in_shape[2], layer.in_channels),
        *(layer.conv_shape[1], layer.conv_shape[2], padded(out_c)),
        *(kernel_h, kernel_w, *layer.stride, *layer.padding),
        *(layer.reads, -1 if layer.adds is None else layer.adds),
        *(int(layer.pooled), layer.kept),
        *(float(activation.low), float(activation.high), float(activation.slope)),
        *(constants.weight_at[i], constants.bias_at[i]),
        *(plan.at.get(("value", i), -1), residue_at),
        plan.at.get(("g", cotangent_of(layers, i)), -1),
        *_backward_words(layers, i, plan),
        value_shift(layers, layer.reads, layer.in_channels),
        value_shift(layers, i, padded(out_c)),
        *(shift_for(padded(out_c), 1), shift_for(padded(out_c), 1)),
        int(i in plan.keeps),
        plan.at["forward weights", i],
        int(plan.loads.get((i, False), 0)),
        plan.at["backward weights", i],
        int(plan.loads.get((i, True), 0)),
    ]


def plan_words(layers: tuple[OnChipLayer, ...], plan: OnChipPlan, constants: Constants) -> Tensor:
    """The kernel's `Plan` struct.

    Args:
        layers: the network.
        plan: of one launch.
        constants: its weights and constants.

    Returns:
        int32, on the CPU; floats by their bits.
    """
    channels, height, width = layers[0].in_shape
    per_layer: list[list[int | float]] = []
    residue_at = 0
    for i, layer in enumerate(layers):
        per_layer.append(_layer_words(layers, i, plan, constants, residue_at))
        residue_at += residue_bytes(layer)
    head: list[int | float] = [
        *(len(layers), int(plan.mode.forward), int(plan.mode.backward)),
        *(height, width, channels),
        *(plan.bytes, plan.threads),
        *(plan.at["p", -1], plan.at.get(("velocity", -1), -1), plan.at.get(("x", -1), -1)),
        *(plan.at["residues", -1], plan.residue_bytes, plan.at["zeros", -1]),
        *(constants.scale_at, constants.shift_at, constants.seed_at, layers[-1].shape[0]),
    ]
    nothing: list[int | float] = [0] * len(per_layer[0])
    rows = per_layer + [nothing] * (MOST_LAYERS - len(layers))
    words = head + [word for row in rows for word in row]
    packed = struct.pack("<i", len(words) + 1)
    packed += b"".join(struct.pack("<f" if isinstance(w, float) else "<i", w) for w in words)
    return torch.frombuffer(bytearray(packed), dtype=torch.int32)
