"""Record a network up to its source layer as a graph of ATen operations, and notice changes to it.

The network runs once, in evaluation mode. The graph holds what ran: the branches that were taken,
what hooks did, and nothing after the source layer. `structure_key` and `weights_digest` say later
whether the graph, and the constants folded from it, still hold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from sign_ext.errors import UnsupportedOperation

TRACED_IMAGES = 2  # a batch of one would hide operations that mix images

# make_fx patches nn.Module.__call__ for the whole process and restores what it found. Two calls
# that overlap restore each other's patch, which then stays for good.
_TRACING = threading.RLock()  # reentrant: a forward pass may itself use SIGN


def trace(phi: Callable[[Tensor], Tensor], image: Tensor) -> GraphModule:
    """Record Φ on one image, repeated to a batch.

    Args:
        phi: Φ, its network frozen and in evaluation mode.
        image: (1, C, H, W), of the network's dtype and device.

    Returns:
        A graph with one placeholder and one output; weights are the network's own tensors.

    Raises:
        UnsupportedOperation: the forward pass reads values back, or cannot be recorded.
    """
    batch = image.repeat(TRACED_IMAGES, *[1] * (image.dim() - 1))
    with torch.no_grad(), _TRACING:
        try:
            return make_fx(phi, tracing_mode="real", pre_dispatch=True)(batch)
        except UnsupportedOperation:
            raise
        except Exception as error:  # whatever user code raises when its tensors are proxies
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UnsupportedOperation(
                f"the forward pass cannot be recorded as a graph: {reason}"
            ) from error


def structure_key(network: nn.Module) -> Hashable:
    """Everything that a recorded graph depends on, except the weights' values.

    Two equal keys mean the same modules with the same plain attributes, the same hooks and the
    same tensors, whatever their values.

    Args:
        network: the network.
    """
    parts: list[Hashable] = []
    for name, module in network.named_modules():
        parts.append((name, id(type(module)), *_plain(vars(module))))
    return tuple(parts)


def _plain(attributes: dict[str, Any]) -> list[Hashable]:
    """Attributes that a forward pass may branch on, and identities of tensors and hooks."""
    found: list[Hashable] = []
    for name, value in attributes.items():
        if value is None or isinstance(value, bool | int | float | str | FunctionType):
            found.append((name, value))
        elif isinstance(value, Tensor):
            found.append((name, id(value), value.shape, value.dtype, value.device))
        elif isinstance(value, dict) and name in ("_parameters", "_buffers"):
            found.extend(_plain(value))
        elif isinstance(value, dict) and name.endswith("_hooks"):
            found.append((name, tuple((key, id(hook)) for key, hook in value.items())))
        elif isinstance(value, tuple | list) and all(
            item is None or isinstance(item, bool | int | float | str) for item in value
        ):
            found.append((name, tuple(value)))
    return found


def weights_digest(network: nn.Module) -> tuple[object, ...]:
    """The weights' addresses and version counters, and two sums over their values.

    The sums notice writes that PyTorch does not count, through `.data` for instance. One of them
    weights each value by its position, so that a permutation shows. It synchronises with the device
    once.

    Args:
        network: the network.
    """
    tensors = [*network.parameters(), *network.buffers()]
    identities = tuple((t.data_ptr(), t._version, t.shape, t.dtype) for t in tensors)
    sums: list[Tensor] = []
    with torch.no_grad():
        longest = max((t.numel() for t in tensors), default=0)
        for device in {t.device for t in tensors}:
            ramp = torch.linspace(0.5, 1.5, max(longest, 1), dtype=torch.float32, device=device)
            for tensor in (t for t in tensors if t.device == device and t.is_floating_point()):
                flat = tensor.detach().float().flatten()
                sums.append(torch.dot(flat, ramp[: flat.numel()]))
                sums.append(flat.sum())
    by_device: dict[torch.device, list[Tensor]] = {}
    for value in sums:
        by_device.setdefault(value.device, []).append(value)
    values = [v for group in by_device.values() for v in torch.stack(group).tolist()]
    return (identities, tuple(map(repr, values)))  # repr: a NaN equals itself
