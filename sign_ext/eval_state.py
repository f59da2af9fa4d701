"""The state in which Φ is computed, entered and left as one, whatever state the caller is in.

`frozen` holds a network still: evaluation mode, no parameter gradients. `arithmetic` sets PyTorch's
float32 switches, which belong to the process. `computing` is both, outside of inference mode. Each
puts back what it found, also after an exception.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sign_ext.inner_wrappers import passed_by


@contextmanager
def computing(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """Network frozen, arithmetic as asked for, no inference mode; all as before afterwards.

    A caller's autocast is switched off by the trajectory, for the images' device.

    Args:
        model: the network.
        precision: as in `arithmetic`.
    """
    with torch.inference_mode(False), frozen(model), passed_by(model), arithmetic(precision):
        yield


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


@dataclass
class _Hold:
    """What the first holder of a network found, for the last one to put back."""

    training: list[nn.Module] = field(default_factory=list)
    trainable: list[nn.Parameter] = field(default_factory=list)
    holders: int = 0


_holds: dict[int, _Hold] = {}  # by the network's id; guarded by _holds_lock
_holds_lock = threading.Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block; afterwards all as before.

    Restored, also after an exception: every module's training flag, every parameter's
    requires_grad and the random number generators of the CPU and of the model's devices.
    Gradients and the caller's hooks are not touched. Several threads may hold one model at once.
    """
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.is_cuda})
    with torch.random.fork_rng(devices=devices):
        with _holds_lock:
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
            with _holds_lock:
                hold.holders -= 1
                if hold.holders == 0:
                    for module in hold.training:
                        module.training = True
                    for parameter in hold.trainable:
                        parameter.requires_grad_(True)
                    del _holds[id(model)]


# The per-operation switches, and the older two that they replace.
_Saved = tuple[list[str], tuple[str | None, bool | None]]


@dataclass
class _Held:
    """The switches while at least one thread computes under them; guarded by `_switches_free`."""

    precision: str | None = None  # None: nobody holds them
    holders: int = 0
    saved: _Saved | None = None


_held = _Held()
_switches_free = threading.Condition()


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Compute float32 as `precision` says until the block ends, then put every switch back.

    PyTorch lets cuDNN convolutions use TF32 by default, and global switches lower float32 matrix
    products: "float32" and "bfloat16" switch all of that off. Threads that ask for the same
    precision share the switches; a thread that asks for another one waits until they are free.

    Args:
        precision: "float32" (IEEE), "tf32" (TF32 on CUDA matrix units) or "bfloat16" (whose
            float32 parts are IEEE; the bfloat16 itself is autocast's work).
    """
    with _switches_free:
        while _held.precision not in (None, precision):
            _switches_free.wait()
        if _held.precision is None:
            saved = [switch.fp32_precision for switch, _ in _switches()], _legacy()
            _set(precision)
            _held.precision, _held.saved = precision, saved
        _held.holders += 1
    try:
        yield
    finally:
        with _switches_free:
            _held.holders -= 1
            if not _held.holders:
                assert _held.saved is not None
                _restore(_held.saved)
                _held.precision = _held.saved = None
                _switches_free.notify_all()


def _switches() -> list[tuple[Any, bool]]:
    """The per-operation float32 switches, and whether each belongs to CUDA."""
    backends: Any = torch.backends
    return [
        (backends.cudnn.conv, True),
        (backends.cudnn.rnn, True),
        (backends.cuda.matmul, True),
        (backends.mkldnn.conv, False),
        (backends.mkldnn.matmul, False),
        (backends.mkldnn.rnn, False),
    ]


def _legacy() -> tuple[str | None, bool | None]:
    """The older switches, or None where the caller mixed old and new, which makes reading raise."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = None
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        cudnn = None
    return matmul, cudnn


def _set(precision: str) -> None:
    tf32 = precision == "tf32"
    matmul, cudnn = _legacy()
    # The older switches first: code inside the model may read them, and they must agree.
    if matmul is not None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = tf32
    for switch, is_cuda in _switches():
        switch.fp32_precision = "tf32" if tf32 and is_cuda else "ieee"


def _restore(saved: _Saved) -> None:
    values, (matmul, cudnn) = saved
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn
    for (switch, _), value in zip(_switches(), values, strict=True):
        switch.fp32_precision = value
