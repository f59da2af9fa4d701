"""Measure the memory of a step per image, and the bytes that autograd saves for backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sign_ext.benchmarking.measure import step_bytes


def step_rows(build: Callable[[], Callable[[Tensor], Tensor]], images: Tensor) -> dict[str, float]:
    """Peak extra memory of a step, with all images and with half of them.

    Args:
        build: Builds the contender; its own allocations (weights) are not counted.
        images: (N, C, H, W), N ≥ 2.

    Returns:
        "peak" in bytes; "per_image", the peak divided by N; "per_further_image", the growth per
        image from half of the images to all.
    """
    half = len(images) // 2
    half_peak, peak = (step_bytes(build(), images[:count]) for count in (half, len(images)))
    return {
        "peak": peak,
        "per_image": peak / len(images),
        "per_further_image": (peak - half_peak) / (len(images) - half),
    }


def saved_bytes(phi: nn.Module, images: Tensor) -> int:
    """Bytes that autograd saves in the forward pass for the backward pass.

    Each storage counts once, even if several operations save it. Parameters, buffers and the images
    do not count.

    Args:
        phi: The network; requires_grad of its parameters determines what is saved.
        images: (N, C, H, W).
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in phi.state_dict().values()}
    x = images.detach().requires_grad_()
    known.add(x.untyped_storage().data_ptr())
    kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is reused

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = phi(x)
    total = sum(storage.nbytes() for storage in kept.values())
    del output
    return total


def saved_per_image(build: Callable[[], nn.Module], images: Tensor) -> float:
    """Bytes that autograd saves per additional image; see `saved_bytes`.

    Args:
        build: Builds the network.
        images: (N, C, H, W), N ≥ 2.
    """
    half = len(images) // 2
    phi = build()
    return (saved_bytes(phi, images) - saved_bytes(phi, images[:half])) / (len(images) - half)
