"""What operators ask about a tensor's memory layout before they write, and about sizes."""

from __future__ import annotations

import torch
from torch import Tensor

Pair = tuple[int, int]


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one contiguous range of memory, each address once.

    True for contiguous and channels_last tensors and any permutation of such.

    Args:
        tensor: any strided tensor.
    """
    if tensor.is_contiguous():
        return True
    stride, size = tensor.stride(), tensor.shape
    remaining = [d for d in range(tensor.dim()) if size[d] != 1]
    expected = 1
    # Innermost first. A search, not a sort: torch.compile cannot sort symbolic sizes.
    while remaining:
        inner = [d for d in remaining if stride[d] == expected]
        if len(inner) != 1:
            return False
        remaining = [d for d in remaining if d != inner[0]]
        expected *= size[inner[0]]
    return True


def same_layout(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape keep their elements in the same order.

    Args:
        a: any strided tensor.
        b: a tensor of the same shape.
    """
    layouts = zip(a.shape, a.stride(), b.stride(), strict=True)
    return all(size <= 1 or first == second for size, first, second in layouts)


def may_overlap_itself(tensor: Tensor) -> bool:
    """Whether two elements may share an address, as in an expanded tensor.

    Args:
        tensor: any strided tensor. Interleaved strides that happen not to collide count as
            overlapping.
    """
    if tensor.numel() == 0 or is_dense(tensor):
        return False
    reach = 1
    dimensions = zip(tensor.stride(), tensor.shape, strict=True)
    for stride, size in sorted((stride, size) for stride, size in dimensions if size != 1):
        if stride < reach:
            return True
        reach = stride * (size - 1) + reach
    return False


def share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the ranges of memory that two tensors span overlap.

    Args:
        a: any strided tensor.
        b: any strided tensor.
    """
    if torch.compiler.is_compiling():
        return False  # traced tensors have no memory; the operator checks again when it runs
    if a.numel() == 0 or b.numel() == 0:
        return False
    # Comparing storages by identity also works for tensors without data.
    if a.untyped_storage()._cdata != b.untyped_storage()._cdata:
        return False
    (a_begin, a_end), (b_begin, b_end) = _span(a), _span(b)
    return bool(a_begin < b_end and b_begin < a_end)


def _span(tensor: Tensor) -> tuple[int | torch.SymInt, int | torch.SymInt]:
    """First byte and one past the last, counted from the start of the storage."""
    last = sum(
        stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    begin = tensor.storage_offset() * tensor.element_size()
    return begin, begin + (last + 1) * tensor.element_size()


def rounded_up(n: int, multiple: int) -> int:
    """The smallest multiple of a number that is at least n.

    Args:
        n: a count.
        multiple: the number.

    Example:
        >>> rounded_up(33, 16)
        48
    """
    return -(-n // multiple) * multiple


def padding_end(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Zeros that windows see after the end of an axis, negative where they stop short of it.

    Args:
        size: of the axis.
        out: number of windows.
        kernel: positions of a window.
        stride: between windows.
        padding: zeros before the axis.
        dilation: between positions.
    """
    return (out - 1) * stride + dilation * (kernel - 1) + 1 - size - padding
