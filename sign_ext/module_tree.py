"""The modules and tensors of a network as lists, for the walks that every call takes.

They are those of `named_modules`, `parameters` and `buffers`, in the same order. PyTorch's are
generators inside each other, one for each level, and take ten times as long; where a class has its
own, that is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from torch import Tensor, nn

_Held = TypeVar("_Held", bound=Tensor)


def named_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """`list(network.named_modules())`.

    Args:
        network: the network.

    Example:
        >>> [name for name, _ in named_modules(nn.Sequential(nn.ReLU(), nn.Sequential(nn.ReLU())))]
        ['', '0', '1', '1.0']
    """
    found: list[tuple[str, nn.Module]] = []
    seen: set[nn.Module] = set()
    waiting: list[tuple[str, nn.Module]] = [("", network)]
    while waiting:
        name, module = waiting.pop()
        if module in seen:
            continue
        if type(module).named_modules is not nn.Module.named_modules:
            return list(network.named_modules())
        seen.add(module)
        found.append((name, module))
        inside = module._modules
        if inside:
            prefix = f"{name}." if name else ""
            children = [(prefix + key, child) for key, child in inside.items() if child is not None]
            waiting += reversed(children)
    return found


def modules(network: nn.Module) -> list[nn.Module]:
    """`list(network.modules())`."""
    found: dict[nn.Module, None] = {}
    waiting = [network]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        if type(module).named_modules is not nn.Module.named_modules:
            return list(network.modules())
        found[module] = None
        if inside := module._modules:
            waiting += [child for child in reversed(list(inside.values())) if child is not None]
    return list(found)


def parameters(network: nn.Module, walked: Sequence[nn.Module] | None = None) -> list[nn.Parameter]:
    """`list(network.parameters())`.

    Args:
        network: the network.
        walked: its modules, where they have just been listed.
    """
    if type(network).named_parameters is not nn.Module.named_parameters:
        return list(network.parameters())
    held = [module._parameters for module in (walked or modules(network))]
    return _different(tensor for each in held if each for tensor in each.values())


def buffers(network: nn.Module, walked: Sequence[nn.Module] | None = None) -> list[Tensor]:
    """`list(network.buffers())`; `walked` as for `parameters`."""
    if type(network).named_buffers is not nn.Module.named_buffers:
        return list(network.buffers())
    held = [module._buffers for module in (walked or modules(network))]
    return _different(tensor for each in held if each for tensor in each.values())


def tensors(network: nn.Module) -> list[Tensor]:
    """The parameters, then the buffers."""
    walked = modules(network)
    return [*parameters(network, walked), *buffers(network, walked)]


def _different(found: Iterable[_Held | None]) -> list[_Held]:
    """Each once, in the order in which they come first."""
    return list(dict.fromkeys(tensor for tensor in found if tensor is not None))
