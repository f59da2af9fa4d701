"""What a result was made with: versions of the packages that matter, and the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
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


@cache
def commit() -> str:
    """Return the checkout's commit, with "+changes" where files differ from it; "" outside one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return ""
    try:
        found = _git(here, "rev-parse", "--short=12", "HEAD")
        return found + ("+changes" if _git(here, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
