"""The machine behind a measured time: everything that the time depends on, but not its name."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def facts(device: torch.device | None = None) -> dict[str, Any]:
    """Describe processor, GPU, driver, libraries and PyTorch's TF32 switches.

    Args:
        device: whose name to take as the GPU's; None takes the current one where there is one.
    """
    on_gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "driver": _driver(),
        "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        "tf32_matmuls": torch.backends.cuda.matmul.allow_tf32,
    }


def _cpu_model() -> str:
    """The processor's name as the kernel tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """The NVIDIA driver's version, or None where nvidia-smi does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.split("\n")[0].strip() or None
