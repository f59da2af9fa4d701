"""What the update operators report about their steps without synchronising with the device.

csrc/common/watch.h is the contract. `watch` holds two values: the largest |δ| and the largest
|p + step_size · v| before the clamp. `counts` holds three int32: the steps taken, the first step
(from 1) after which a value of the watch was not finite, or NEVER, and a scratch value of
the CUDA kernels, 0 between calls.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = 2**31 - 1  # in place of the first step that was not finite, while there is none


def new_watch(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The watch before the first step.

    Args:
        dtype: the iterate's.
        device: the iterate's.

    Returns:
        (2,) zeros.
    """
    return torch.zeros(2, dtype=dtype, device=device)


def new_counts(device: torch.device) -> Tensor:
    """The counts before the first step.

    Args:
        device: the iterate's.

    Returns:
        (3,) int32: 0, NEVER, 0.
    """
    counts = torch.empty(3, dtype=torch.int32, device=device)
    reset_counts(counts)
    return counts


def reset_counts(counts: Tensor) -> None:
    """Reset to before the first step, without a copy from the host.

    Args:
        counts: as `new_counts` made them.
    """
    counts.zero_()
    counts[1].fill_(NEVER)


def check_watch(watch: Tensor | None, counts: Tensor | None) -> None:
    """Refuse a watch or counts that no route can write.

    Args:
        watch: 2 values, or None.
        counts: 3 int32, or None; they need a watch.

    Raises:
        ValueError: either has another size or dtype, or there are counts alone.
    """
    if watch is not None and watch.numel() != 2:
        raise ValueError("watch must have 2 elements")
    if counts is not None and watch is None:
        raise ValueError("counts need a watch")
    if counts is not None and (counts.numel() != 3 or counts.dtype != torch.int32):
        raise ValueError("counts must be 3 int32: see sign_ext.ops.watch.new_counts")


def raise_watch(watch: Tensor, delta: Tensor, moved: Tensor, counts: Tensor | None) -> None:
    """Report one step in plain torch, as the native operators do.

    Args:
        watch: (2,), raised in place; NaN stays.
        delta: δ, any shape, not empty.
        moved: p + step_size · v before the clamp, any shape, not empty.
        counts: (3,) int32, or None to count no step.

    Example:
        >>> watch, counts = new_watch(torch.float32, "cpu"), new_counts("cpu")
        >>> raise_watch(watch, torch.tensor([-3.0]), torch.tensor([torch.inf]), counts)
        >>> watch.tolist(), counts.tolist()
        ([3.0, inf], [1, 1, 0])
    """
    largest = torch.stack([_largest_magnitude(x).to(watch.dtype) for x in (delta, moved)])
    watch.copy_(torch.maximum(watch, largest))
    if counts is not None:
        counts[0] += 1
        first = torch.minimum(counts[0], counts[1])
        counts[1].copy_(torch.where(watch.isfinite().all(), counts[1], first))


def _largest_magnitude(tensor: Tensor) -> Tensor:
    """max |x|, NaN if any x is: one pass that writes nothing of the tensor's size."""
    low, high = torch.aminmax(tensor)
    return torch.maximum(-low, high)
