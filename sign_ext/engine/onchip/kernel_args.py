"""A launch's plan and a network's constants as the kernel takes them: csrc/onchip/onchip.h.

`PLAN_FIELDS` and `LAYER_FIELDS` are the fields of the header's structs `Plan` and `Layer`, in
order; a test compares them with the header itself.
"""

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
from sign_ext.engine.onchip.shared_memory import residue_begins

PLAN_FIELDS = (
    *("words", "layers", "forward", "backward"),
    *("height", "width", "channels"),
    *("shared_bytes", "threads"),
    *("p_at", "velocity_at", "x_at"),
    *("residues_at", "residue_bytes", "zeros_at"),
    *("scale_element", "shift_element", "seed_element", "last_channels"),
)  # then MOST_LAYERS times LAYER_FIELDS
LAYER_FIELDS = (
    *("in_h", "in_w", "in_c"),
    *("out_h", "out_w", "out_c"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_top", "pad_left"),
    *("reads", "adds", "pooled", "kept"),
    *("low", "high", "slope"),
    *("weight_element", "bias_element"),
    *("value_at", "residue_at", "g_at", "partial_at", "added_at", "hands"),
    *("in_shift", "value_shift", "g_shift", "weight_shift"),
    *("keeps", "forward_weights_at", "forward_load", "backward_weights_at", "backward_load"),
)
FLOAT_FIELDS = frozenset({"low", "high", "slope"})  # all others are int32


@dataclass(frozen=True, eq=False)
class Constants:
    """The weights and constants that a network's launches read.

    Attributes:
        weights: bfloat16, one layer after another, each (KH · KW · C_in, C_out), its rows rounded
            up to whole steps of the matrix unit.
        floats: float32: scale and shift of the image, biases, the seed.
        weight_at: the first element of each layer's weights.
        bias_at: the first element of each layer's bias.
        scale_at: the first element of the scale.
        shift_at: the first element of the shift.
        seed_at: the first element of the seed.
    """

    weights: Tensor
    floats: Tensor
    weight_at: tuple[int, ...]
    bias_at: tuple[int, ...]
    scale_at: int
    shift_at: int
    seed_at: int


def shift_for(channels: int, apart: int) -> int:
    """The shift with which an array's chunks are swizzled: csrc/onchip/onchip_layout.h.

    Args:
        channels: of a row.
        apart: distance in rows of those that are read together: 1, or 2 with pooling.
    """
    lines = channels * apart // 64
    return max(lines, 1).bit_length() - 1


def value_shift(layers: tuple[OnChipLayer, ...], i: int, channels: int) -> int:
    """The shift of a value: that for windows if a layer that pools reads it.

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
        seed: the cotangent of the last value, (C, H, W) or (F,), or None where each image has its
            own.
        device: where they go.
    """
    floats: list[Tensor] = []
    weights: list[Tensor] = []

    def add(to: list[Tensor], tensor: Tensor) -> int:
        at = sum(part.numel() for part in to)
        to.append(tensor.flatten())
        return at

    def row(constant: Tensor | None, channels: int, size: int, default: float) -> Tensor:
        values = (
            torch.full((channels,), default, dtype=torch.float32) if constant is None else constant
        )
        return F.pad(values.float().cpu(), (0, size - channels))

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


def plan_args(layers: tuple[OnChipLayer, ...], plan: OnChipPlan, constants: Constants) -> Tensor:
    """The kernel's struct `Plan`.

    Args:
        layers: the network.
        plan: of one launch.
        constants: its weights and constants.

    Returns:
        int32, on the CPU; floats by their bits.
    """
    channels, height, width = layers[0].in_shape
    size = len(PLAN_FIELDS) + MOST_LAYERS * len(LAYER_FIELDS)
    head: dict[str, int | float] = {
        "words": size,
        "layers": len(layers),
        "forward": int(plan.mode.forward),
        "backward": int(plan.mode.backward),
        "height": height,
        "width": width,
        "channels": channels,
        "shared_bytes": plan.bytes,
        "threads": plan.threads,
        "p_at": plan.at["p", -1],
        "velocity_at": plan.at.get(("velocity", -1), -1),
        "x_at": plan.at.get(("x", -1), -1),
        "residues_at": plan.at["residues", -1],
        "residue_bytes": plan.residue_bytes,
        "zeros_at": plan.at["zeros", -1],
        "scale_element": constants.scale_at,
        "shift_element": constants.shift_at,
        "seed_element": constants.seed_at,
        "last_channels": layers[-1].shape[0],
    }
    packed = _packed(PLAN_FIELDS, head)
    begins = residue_begins(layers)
    for i in range(len(layers)):
        args = _layer_args(layers, i, plan, constants)
        packed += _packed(LAYER_FIELDS, {**args, "residue_at": begins[i]})
    packed += bytes(4 * size - len(packed))  # the layers that there are not
    return torch.frombuffer(bytearray(packed), dtype=torch.int32)


def _layer_args(
    layers: tuple[OnChipLayer, ...], i: int, plan: OnChipPlan, constants: Constants
) -> dict[str, int | float]:
    """The fields of layer i, but for its place among the residues."""
    layer = layers[i]
    out_c, _, kernel_h, kernel_w = layer.weight.shape
    activation = layer.activation
    return {
        "in_h": layer.in_shape[1],
        "in_w": layer.in_shape[2],
        "in_c": layer.in_channels,
        "out_h": layer.conv_shape[1],
        "out_w": layer.conv_shape[2],
        "out_c": padded(out_c),
        "kernel_h": kernel_h,
        "kernel_w": kernel_w,
        "stride_h": layer.stride[0],
        "stride_w": layer.stride[1],
        "pad_top": layer.padding[0],
        "pad_left": layer.padding[1],
        "reads": layer.reads,
        "adds": -1 if layer.adds is None else layer.adds,
        "pooled": int(layer.pooled),
        "kept": layer.kept,
        "low": activation.low,
        "high": activation.high,
        "slope": activation.slope,
        "weight_element": constants.weight_at[i],
        "bias_element": constants.bias_at[i],
        "value_at": plan.at.get(("value", i), -1),
        "g_at": plan.at.get(("g", cotangent_of(layers, i)), -1),
        **_input_cotangent_args(layers, i, plan),
        "in_shift": value_shift(layers, layer.reads, layer.in_channels),
        "value_shift": value_shift(layers, i, padded(out_c)),
        "g_shift": shift_for(padded(out_c), 1),
        "weight_shift": shift_for(padded(out_c), 1),
        "keeps": int(i in plan.keeps),
        "forward_weights_at": plan.at["forward weights", i],
        "forward_load": int(plan.loads.get((i, False), 0)),
        "backward_weights_at": plan.at["backward weights", i],
        "backward_load": int(plan.loads.get((i, True), 0)),
    }


def _input_cotangent_args(
    layers: tuple[OnChipLayer, ...], i: int, plan: OnChipPlan
) -> dict[str, int | float]:
    """What is added to the cotangent of layer i's input, and whether it is complete then.

    Of the layers that read one value, the first is the last in the backward pass: it completes the
    sum, and adds the cotangent of a layer that adds the value. The others store a partial sum.
    """
    source = layers[i].reads
    if source < 0 or not plan.mode.backward:
        return {"partial_at": -1, "added_at": -1, "hands": 0}
    partial = plan.at.get(("partial", source), -1)
    if i != readers_of(layers, source)[0]:
        return {"partial_at": partial, "added_at": -1, "hands": 0}
    adder = adder_of(layers, source)
    added = -1 if adder is None else plan.at["g", cotangent_of(layers, adder)]
    return {"partial_at": partial, "added_at": added, "hands": 1}


def _packed(fields: tuple[str, ...], values: dict[str, int | float]) -> bytes:
    """The values in the fields' order, 4 bytes each."""
    assert values.keys() == set(fields)
    form = "".join("f" if name in FLOAT_FIELDS else "i" for name in fields)
    return struct.pack(f"<{form}", *(values[name] for name in fields))
