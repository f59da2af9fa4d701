"""Whether a device has instructions for bfloat16: without, PyTorch emulates it, slowly."""

from __future__ import annotations

import warnings
from functools import cache

import torch

from sign_ext.errors import SlowPrecisionWarning, level_of_the_caller


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether PyTorch has to emulate products in bfloat16 on a device.

    On a processor without AVX-512 (or Arm's equivalent), oneDNN has no kernels for them, and
    PyTorch's own take ten times as long as float32 and more. On a GPU, they need compute
    capability 8.0. False where PyTorch does not say.

    Example:
        >>> isinstance(emulates_bfloat16(torch.device("cpu")), bool)
        True
    """
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else 0
    return _emulates(device.type, index if device.index is None else device.index)


@cache
def _emulates(kind: str, index: int) -> bool:
    if kind == "cuda":
        return torch.cuda.get_device_capability(index) < (8, 0)
    if kind != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return asked is not None and not asked()


def warn_of_slow_precision(
    precision: str, device: torch.device, dtype: torch.dtype = torch.float32
) -> None:
    """Give a SlowPrecisionWarning if a computation in bfloat16 would be slower than in float32.

    Args:
        precision: as `SignTransform` and `TrainSettings` take it.
        device: where it runs.
        dtype: of the network, which may be bfloat16 itself.
    """
    if "bfloat16" not in (precision, str(dtype).removeprefix("torch.")):
        return
    if emulates_bfloat16(device):
        kind = "this processor" if device.type == "cpu" else "this GPU"
        instead = "model.float()"
        if dtype == torch.float32:
            instead = "precision='float32' (--precision float32 on the command line)"
        warnings.warn(
            f"{kind} has no instructions for bfloat16, so PyTorch emulates it, which takes many "
            f"times as long as float32. Use {instead}.",
            SlowPrecisionWarning,
            stacklevel=level_of_the_caller(),
        )
