"""How much memory a call takes beyond what was there before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Usage:
    """What a call allocated, in bytes beyond what was there before it.

    Attributes:
        most: at once, during the call.
        kept: still there after it.
    """

    most: int
    kept: int


def usage(work: Callable[[], object], device: torch.device) -> Usage:
    """What a call allocates.

    Counts what torch's allocators give: on a GPU their own statistics; on a CPU each allocation
    and release that torch's profiler saw, added up. What a library takes from the system by itself
    (oneDNN's scratch memory) is not seen.

    Args:
        work: the call; what it returns is released before this returns.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        torch.cuda.synchronize(device)
        most = torch.cuda.max_memory_allocated(device)
        return Usage(most - before, torch.cuda.memory_allocated(device) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results  # type: ignore[union-attr]
    events = [event for event in results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return Usage(most, held)


def step_bytes(run: Callable[[Tensor], Tensor], images: Tensor) -> int:
    """Peak bytes of a step beyond weights, images and the result.

    A second call is measured, and what the first one left (buffers, packed copies of weights)
    counts in full. On a GPU the first call's own peak counts too: what a recorded graph works in
    shows only while it is recorded.

    Args:
        run: from images to a new tensor of as many float32; not called before.
        images: (N, C, H, W).
    """
    first = usage(lambda: run(images), images.device)
    second = usage(lambda: run(images), images.device)
    most = first.kept + second.most
    if images.is_cuda:
        most = max(most, first.most)
    return most - images.numel() * 4


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
