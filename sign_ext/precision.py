"""The arithmetic that was asked for: PyTorch's float32 switches, set for a call and put back.

PyTorch lets cuDNN convolutions use TF32 by default and lets a process lower float32 matrix
products with global switches. Inside `arithmetic("float32")` all of them are off.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn

from sign_ext.eval_state import frozen

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)

_lock = threading.Condition()
_held: list[Any] = []  # [precision, number of holders, saved switches] while somebody holds


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


def _restore(saved: tuple[list[str], tuple[str | None, bool | None]]) -> None:
    values, (matmul, cudnn) = saved
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn
    for (switch, _), value in zip(_switches(), values, strict=True):
        switch.fp32_precision = value


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Compute float32 as `precision` says until the block ends, then put every switch back.

    The switches belong to the process. Threads that ask for the same precision share them; a
    thread that asks for another one waits until they are free.

    Args:
        precision: "float32" (IEEE), "tf32" (TF32 on CUDA matrix units) or "bfloat16" (whose
            float32 parts are IEEE; the bfloat16 itself is autocast's work).
    """
    with _lock:
        while _held and _held[0] != precision:
            _lock.wait()
        if not _held:
            saved = [switch.fp32_precision for switch, _ in _switches()], _legacy()
            _set(precision)
            _held.extend([precision, 0, saved])
        _held[1] += 1
    try:
        yield
    finally:
        with _lock:
            _held[1] -= 1
            if not _held[1]:
                saved = _held[2]
                _held.clear()
                _restore(saved)
                _lock.notify_all()


# The state in which Φ is computed, whatever state the caller is in, entered and left as one.


@contextmanager
def computing(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """Network frozen, arithmetic as asked for, no inference mode; all as before afterwards.

    A caller's autocast is switched off by the trajectory, for the images' device.
    """
    with torch.inference_mode(False), frozen(model), arithmetic(precision):
        yield
