"""What a result was made with: the versions, the commit and the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import torch

PACKAGES = ("torch", "numpy", "torchvision", "torchmetrics", "safetensors")
ROOT = Path(__file__).resolve().parents[1]  # of the checkout, where this is one


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


@cache  # reading a package's metadata takes milliseconds, and each stage and run records them
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def installation() -> dict[str, Any]:
    """Say where the package that runs came from.

    Returns:
        A dict with `source` (a wheel, a folder that was built, or a source tree that is not
        installed) and `platforms` (list of str: the tags of the installed wheel, such as
        "manylinux_2_28_x86_64"; "any" has no native operators).

    Example:
        >>> sorted(installation())
        ['platforms', 'source']
    """
    folder = Path(__file__).resolve().parent
    try:
        installed = distribution("sign-ext")
        origin = json.loads(installed.read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return _not_installed(folder)
    url = str(origin.get("url", ""))
    path = Path(unquote(urlsplit(url).path))
    if origin.get("dir_info", {}).get("editable"):
        if path.resolve() != folder.parent:
            return _not_installed(folder)
        source = f"built in {path}, an editable install"
    elif Path(str(installed.locate_file("sign_ext"))).resolve() != folder:
        return _not_installed(folder)
    elif "dir_info" in origin:
        source = f"built from the folder {path}"
    elif path.suffix == ".whl":
        source = f"the wheel {path.name}"
    elif url:
        source = f"built from {url}"
    else:
        source = "a package index"
    return {"source": source, "platforms": _platforms(installed)}


def _not_installed(folder: Path) -> dict[str, Any]:
    """The answer for a package that is imported from its source tree."""
    return {"source": f"the source tree {folder.parent}, not installed", "platforms": []}


def _platforms(installed: Distribution) -> list[str]:
    """The platforms of a distribution's wheel: the last part of each of its tags."""
    lines = (installed.read_text("WHEEL") or "").splitlines()
    return [line.rpartition("-")[2] for line in lines if line.startswith("Tag: ")]


@cache
def commit() -> str:
    """Return the checkout's commit, with "+changes" where files differ from it; "" outside one."""
    if not (ROOT / ".git").exists():
        return ""
    try:
        changed = _git("status", "--porcelain", "-uno")
        return _git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describe what computed a result: device, processor type, cores, threads, system.

    Args:
        device: "cpu" or a CUDA device's name such as "cuda:0".
    """
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


def machine_details(device: torch.device | None = None) -> dict[str, Any]:
    """Describe all that a measured time depends on: models, driver, libraries, TF32 switches.

    The machine's own name is left out.

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
    """The processor's model as Linux reports it, else its architecture."""
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
