"""Notice that a network's weights have changed, however that was done."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weights_digest(network: nn.Module) -> tuple[object, ...]:
    """Where the weights lie, how often PyTorch saw them change, and two sums over their values.

    The sums notice what PyTorch does not count, writes through `.data` for instance; one of them
    weights each value by its place. Waits for the device once.

    Args:
        network: the network.
    """
    tensors = [*network.parameters(), *network.buffers()]
    places = tuple((t.data_ptr(), t._version, t.shape, t.dtype) for t in tensors)
    sums: list[Tensor] = []
    with torch.no_grad():
        longest = max((t.numel() for t in tensors), default=0)
        for device in {t.device for t in tensors}:
            ramp = torch.linspace(0.5, 1.5, max(longest, 1), device=device)
            here = [t for t in tensors if t.device == device and t.is_floating_point()]
            for tensor in here:
                flat = tensor.detach().float().flatten()
                sums.append(torch.dot(flat, ramp[: flat.numel()]))
                sums.append(flat.sum())
    by_device: dict[torch.device, list[Tensor]] = {}
    for one in sums:
        by_device.setdefault(one.device, []).append(one)
    values = [v for group in by_device.values() for v in torch.stack(group).tolist()]
    return (places, tuple(map(repr, values)))  # repr: a NaN equals itself
