"""What the rules ask of an operation's operands."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.dense import Pair
from sign_ext.compiler.lower import Ref, constant
from sign_ext.errors import UnsupportedOperation


def pair(value: Any) -> Pair:
    """One or two numbers as two."""
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(second)


def need_image(ref: Any) -> None:
    """Refuse what is not a value (C, H, W)."""
    if not isinstance(ref, Ref) or len(ref.shape) != 3:
        raise UnsupportedOperation("only 2-d images (N, C, H, W) are supported here")


def need_constants(*tensors: Any) -> None:
    """Refuse weights that depend on the images."""
    if any(isinstance(tensor, Ref) for tensor in tensors):
        raise UnsupportedOperation("its weights depend on the images")


def channel_constant(value: Any, x: Ref) -> Tensor:
    """A constant operand as (C,) float64; UnsupportedOperation unless it is one a channel."""
    tensor = constant(value)
    assert tensor is not None
    tensor = tensor.double()
    channels, dims = x.shape[0], len(x.shape) + 1
    if tensor.dim() > dims:
        raise UnsupportedOperation(f"a constant of shape {tuple(tensor.shape)}")
    shape = (1,) * (dims - tensor.dim()) + tuple(tensor.shape)
    if math.prod(shape) not in (1, shape[1]) or shape[1] not in (1, channels):
        raise UnsupportedOperation(
            f"a constant of shape {tuple(tensor.shape)}, which is not one number a channel"
        )
    return tensor.reshape(-1).expand(channels)
