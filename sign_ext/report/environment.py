"""What a result was made with: versions of the packages that matter, and the machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "numpy", "torchvision", "torchmetrics", "safetensors")


def versions() -> dict[str, str]:
    """Return sign-ext's, Python's and the installed packages' versions.

    Example:
        >>> "torch" in versions()
        True
    """
    found = {"sign-ext": _version("sign-ext") or "checkout, not installed"}
    found["python"] = platform.python_version()
    for name in PACKAGES:
        installed = _version(name)
        if installed is not None:
            found[name] = installed
    return found


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe what computed: the device, processor type, cores in use and operating system.

    Args:
        device: "cpu" or a CUDA device's name such as "cuda:0".
    """
    import torch

    described: dict[str, Any] = {
        "device": device,
        "processor": platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    if device.startswith("cuda"):
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
    return described


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
