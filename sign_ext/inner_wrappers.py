"""Wrappers inside of a network: compiled, DataParallel and DDP modules run what they wrap.

Around the whole network `eval_state.unwrap` takes them off. Further in they stay where they are,
and are passed by while Φ is computed: a compiled module would be compiled anew for every hook and
dtype, and DDP's forward pass exchanges buffers between processes and cannot be recorded. FSDP has
to run, since it gathers the weights; only what it kept gathered is freed at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_ABSENT = object()


@dataclass
class _Hold:
    """What modules had in place of their detours, for the last holder to put back."""

    before: list[tuple[nn.Module, str, Any]] = field(default_factory=list)
    holders: int = 0


_holds: dict[int, _Hold] = {}  # by the network's id; guarded by _lock
_lock = threading.Lock()


@contextmanager
def passed_by(model: nn.Module) -> Iterator[None]:
    """Run what wrappers inside of `model` wrap; all as before afterwards.

    Args:
        model: the network, without wrappers around it.
    """
    sharded = [m for m in model.modules() if _is_sharded(m) and _has_sharded_weights(m)]
    with _lock:
        hold = _holds.setdefault(id(model), _Hold())
        hold.holders += 1
        if hold.holders == 1:
            for module, name, detour in _detours(model):
                hold.before.append((module, name, vars(module).get(name, _ABSENT)))
                vars(module)[name] = detour
    try:
        yield
    finally:
        with _lock:
            hold.holders -= 1
            if hold.holders == 0:
                for module, name, before in hold.before:
                    if before is _ABSENT:
                        del vars(module)[name]
                    else:
                        vars(module)[name] = before
                del _holds[id(model)]
        for module in sharded:  # a forward pass that ends at Φ frees nothing
            module.reshard()  # type: ignore[operator]


def _detours(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """The attributes that lead past each wrapper: module, name and value."""
    for module in model.modules():
        if isinstance(module, _PARALLEL):
            yield module, "forward", module.module.__call__
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            yield module, "forward", inner.__call__
        elif (plain := getattr(module.forward, "_torchdynamo_orig_callable", None)) is not None:
            if not isinstance(plain, MethodType) and "forward" not in vars(module):
                plain = MethodType(plain, module)  # the class's forward was compiled
            yield module, "forward", plain
        if getattr(module, "_compiled_call_impl", None) is not None:
            yield module, "_compiled_call_impl", None


def _is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` was applied to a module."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


def _has_sharded_weights(module: nn.Module) -> bool:
    return any(is_traceable_wrapper_subclass(p) for p in module.parameters())


def why_not_recorded(model: nn.Module) -> str | None:
    """Why a network's weights cannot be recorded or compiled in, or None where they can.

    Args:
        model: the network.
    """
    for name, module in model.named_modules():
        if _is_sharded(module):
            where = repr(name) if name else "the model"
            return f"{where} is sharded by fully_shard, which gathers its weights in each pass"
    for name, weight in model.named_parameters():
        if is_traceable_wrapper_subclass(weight):
            return f"{name!r} is a {type(weight.data).__name__}, not a plain tensor"
    return None
