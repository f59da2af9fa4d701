"""Wrappers inside of a network: compiled, DataParallel and DDP modules run what they wrap.

Around the whole network `eval_state.unwrap` takes them off. Further in they stay where they are,
and are passed by while Φ is computed: a compiled module would be compiled anew for every hook and
dtype, and DDP's forward pass exchanges buffers between processes and cannot be recorded. FSDP has
to run, since it gathers the weights; only what it kept gathered is freed at the end.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


@dataclass
class _Held:
    """Who holds what; guarded by `_lock`."""

    forwards: dict[int, int] = field(default_factory=dict)  # by the module's id: holders
    compilers: int = 0
    stance: ExitStack | None = None


_held = _Held()
_lock = threading.Lock()


@contextmanager
def passed_by(model: nn.Module) -> Iterator[None]:
    """Run what wrappers inside of `model` wrap; all as before afterwards.

    Args:
        model: the network, without wrappers around it.
    """
    parallel = [m for m in model.modules() if isinstance(m, _PARALLEL)]
    compiled = _is_compiled(model)
    sharded = [m for m in model.modules() if _is_sharded(m) and _has_sharded_weights(m)]
    with _lock:
        for module in parallel:
            _held.forwards[id(module)] = _held.forwards.get(id(module), 0) + 1
            module.__dict__["forward"] = module.module.__call__
        if compiled:
            _held.compilers += 1
            if _held.stance is None:
                # The stance is the process's: it changes no values, only speed elsewhere.
                _held.stance = ExitStack()
                _held.stance.enter_context(torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _lock:
            for module in parallel:
                _held.forwards[id(module)] -= 1
                if not _held.forwards[id(module)]:
                    del _held.forwards[id(module)]
                    module.__dict__.pop("forward", None)
            if compiled:
                _held.compilers -= 1
                if not _held.compilers and _held.stance is not None:
                    _held.stance.close()
                    _held.stance = None
        for module in sharded:  # a forward pass that ends at Φ frees nothing
            module.reshard()  # type: ignore[operator]


def _is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile has wrapped a module, its forward, or calls of it."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(
        isinstance(getattr(module, "_orig_mod", None), nn.Module)
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(getattr(module, "forward", None), "_torchdynamo_orig_callable")
        for module in model.modules()
    )


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
