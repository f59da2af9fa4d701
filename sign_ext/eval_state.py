"""Hold a network still for a call, and hand it back exactly as it came."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

_lock = threading.Lock()


@dataclass
class _Hold:
    training: list[nn.Module] = field(default_factory=list)
    trainable: list[nn.Parameter] = field(default_factory=list)
    holders: int = 0


_holds: dict[int, _Hold] = {}


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, without torch.compile's, DataParallel's or DDP's wrapper.

    Hooks reach the layers of the network only, and the wrappers add nothing to its values.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block; afterwards all as before.

    Restored, also after an exception: every module's training flag, every parameter's
    requires_grad and the random number generators of the CPU and of the model's devices.
    Gradients and the caller's hooks are not touched. Threads may hold the same model together.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        with _lock:
            hold = _holds.setdefault(id(model), _Hold())
            if hold.holders == 0:
                # Flags are set directly: a network's own train() may do more than set them.
                hold.training = [m for m in model.modules() if m.training]
                hold.trainable = [p for p in model.parameters() if p.requires_grad]
                for module in hold.training:
                    module.training = False
                for parameter in hold.trainable:
                    parameter.requires_grad_(False)
            hold.holders += 1
        try:
            yield
        finally:
            with _lock:
                hold.holders -= 1
                if hold.holders == 0:
                    for module in hold.training:
                        module.training = True
                    for parameter in hold.trainable:
                        parameter.requires_grad_(True)
                    del _holds[id(model)]
