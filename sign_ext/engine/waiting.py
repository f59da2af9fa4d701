"""Find out that a step waits for the device before it is captured as a CUDA graph.

A capture that fails half-way leaves PyTorch's random generator and allocator in the middle of it,
so the usual cause, a forward pass that reads a value back, is looked for in a warm-up step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sign_ext.errors import BackendError

_aten = torch.ops.aten
# A value, or a shape that depends on values, has to come back before Python can go on.
_WAITING = {
    _aten._local_scalar_dense.default: "reads a value back (.item(), or a branch on a tensor)",
    _aten.equal.default: "compares tensors and branches on it",
    _aten.nonzero.default: "makes a tensor whose size depends on values (nonzero)",
    _aten.masked_select.default: "makes a tensor whose size depends on values (masked_select)",
    _aten._unique2.default: "makes a tensor whose size depends on values (unique)",
    _aten.repeat_interleave.Tensor: "makes a tensor whose size depends on values",
}


class _RefuseWaiting(TorchDispatchMode):
    """Raises at the first operation that makes the host wait; of this thread only."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        reason = _WAITING.get(func)
        if func is _aten._to_copy.default and _leaves_the_device(args[0], kwargs or {}):
            reason = "copies a tensor to the host"
        if reason is not None:
            raise BackendError(
                f"a step of this network cannot be captured as a CUDA graph: it {reason}. "
                'backend="autograd" runs it'
            )
        return func(*args, **(kwargs or {}))


def _leaves_the_device(tensor: Tensor, options: Mapping[str, Any]) -> bool:
    target = options.get("device")
    return tensor.is_cuda and target is not None and torch.device(target).type == "cpu"


def refuse_waiting(step: Callable[[], object]) -> None:
    """Run `step`, and raise BackendError at the first operation that waits for the device.

    Args:
        step: what is to be captured later.
    """
    with _RefuseWaiting():
        step()
