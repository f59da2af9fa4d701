"""How much memory a step takes for a further image, and how much autograd saves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sign_ext.benchmarking.measure import step_bytes


def step_rows(build: Callable[[], Callable[[Tensor], Tensor]], images: Tensor) -> dict[str, float]:
    """Peak extra memory of a step, at all images and at half of them.

    Args:
        build: makes the way of computing anew, with whatever weights it needs; its own
            allocations are not counted.
        images: (N, C, H, W), N ≥ 2.

    Returns:
        "peak" bytes; "per_image", the peak over N; "per_further_image", what grew from half the
        images to all.
    """
    half = len(images) // 2
    some, peak = (step_bytes(build(), images[:count]) for count in (half, len(images)))
    return {
        "peak": peak,
        "per_image": peak / len(images),
        "per_further_image": (peak - some) / (len(images) - half),
    }


def saved_bytes(phi: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps from the forward pass for the backward pass.

    Each storage counts once, however many operations save it; parameters, buffers and the images
    do not count.

    Args:
        phi: the network; what its parameters want (requires_grad) decides what is saved.
        images: (N, C, H, W).
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in phi.state_dict().values()}
    x = images.detach().requires_grad_()
    known.add(x.untyped_storage().data_ptr())
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used again

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
    """Bytes that autograd keeps for each further image; see `saved_bytes`.

    Args:
        build: makes the network.
        images: (N, C, H, W), N ≥ 2.
    """
    half = len(images) // 2
    phi = build()
    return (saved_bytes(phi, images) - saved_bytes(phi, images[:half])) / (len(images) - half)
