"""Which way an operator on activations runs: natively, or through its reference in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from sign_ext.ops.native import NATIVE

_DTYPES = (torch.float32, torch.bfloat16)


def runs_natively(tensor: Tensor) -> bool:
    """Whether the native operators take tensors like this one.

    Args:
        tensor: an activation or a cotangent.
    """
    return (
        NATIVE.loaded
        and tensor.dtype in _DTYPES
        and (tensor.is_cpu or (tensor.is_cuda and NATIVE.cuda))
    )


def route(tensor: Tensor) -> str:
    """Say how the operators on activations run for tensors like this one.

    Args:
        tensor: an activation or a cotangent.

    Returns:
        "native-cpu", "native-cuda", or "torch: " and the reason.
    """
    if runs_natively(tensor):
        return f"native-{tensor.device.type}"
    if not NATIVE.loaded:
        return f"torch: {NATIVE.why}"
    if tensor.dtype not in _DTYPES:
        return f"torch: activations are {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_cuda:
        return f"torch: no CUDA operator was built: {NATIVE.why}"
    return f"torch: there is no native operator for {tensor.device.type}"
