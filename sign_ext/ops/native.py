"""Loads the extension `sign_ext._C`, once, and says what was built and what runs."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_RECORD = Path(__file__).resolve().parent.parent / "_build_info.json"  # written by the build
_OLDEST_TORCH = (2, 11)
_REINSTALL = "run pip install --force-reinstall --no-deps . in the source folder of sign_ext"


@dataclass(frozen=True)
class Native:
    """The extension as it was loaded, or why it was not."""

    module: Any  # sign_ext._C, or None
    why: str  # of the build where it loaded, of the fallback where it did not

    @property
    def loaded(self) -> bool:
        """Whether the native operators are registered."""
        return self.module is not None

    @property
    def cuda(self) -> bool:
        """Whether they include CUDA operators."""
        return self.module is not None and bool(self.module.cuda)


def _load() -> Native:
    """Load the extension, or find out why there is none.

    One that was left out on purpose is no news. One that should be here and cannot be used is told
    in one warning with its cause and cure; everything then runs on plain torch.
    """
    record = _read_record()
    built_why = str(record.get("why", "built by hand, without a record of why"))
    if record.get("native") is False:
        return Native(None, f"pure Python was installed: {built_why}")
    expected = bool(record)
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and (int(version[1]), int(version[2])) < _OLDEST_TORCH:
        return _give_up(
            f"torch {torch.__version__} is older than 2.11", "run pip install -U 'torch>=2.11'"
        )
    # Beside this package only: an editable install elsewhere would offer its own extension.
    if PathFinder.find_spec("sign_ext._C", [str(_RECORD.parent)]) is None:
        if not expected:
            return Native(None, "not built: this is a source tree, run pip install -e . in it")
        return _give_up("the extension sign_ext._C that was built is not here", _REINSTALL)
    try:
        module = importlib.import_module("sign_ext._C")
    except Exception as error:  # whatever a broken library does on loading, sign_ext still works
        return _give_up(f"the extension sign_ext._C cannot be loaded ({error})", _REINSTALL)
    return Native(module, built_why)


def _read_record() -> dict[str, Any]:
    try:
        record = json.loads(_RECORD.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _give_up(cause: str, cure: str) -> Native:
    warnings.warn(
        f"sign_ext runs on plain torch, which is slower: {cause}. To mend it, {cure}.",
        RuntimeWarning,
        stacklevel=3,
    )
    return Native(None, cause)


NATIVE = _load()  # once: importing this module is what registers the operators


def build_config() -> dict[str, Any]:
    """Say what was built, with what, and why.

    Returns:
        A dict with `native` (bool: the extension is loaded), `cuda` (bool: it has CUDA operators),
        `arches` (list of str, as in TORCH_CUDA_ARCH_LIST), `torch` (the version that runs),
        `torch_built_with`, `compiler` and `toolkit` (nvcc's version) of the build, each None where
        there is none, and `why` (str).

    Example:
        >>> from sign_ext import build_config
        >>> sorted(build_config())
        ['arches', 'compiler', 'cuda', 'native', 'toolkit', 'torch', 'torch_built_with', 'why']
    """
    module = NATIVE.module
    return {
        "native": NATIVE.loaded,
        "cuda": NATIVE.cuda,
        "arches": module.arches.split(";") if module and module.arches else [],
        "torch": str(torch.__version__),
        "torch_built_with": module.torch_built_with if module else None,
        "compiler": module.compiler if module else None,
        "toolkit": (module.toolkit or None) if module else None,
        "why": NATIVE.why,
    }


# Which way an operator on activations runs: natively, or through its reference in plain torch.


_DTYPES = (torch.float32, torch.bfloat16)


def runs_natively(tensor: Tensor) -> bool:
    """Whether the native operators take tensors like this one.

    Args:
        tensor: an activation or a cotangent.
    """
    return (
        NATIVE.loaded
        and tensor.dtype in _DTYPES
        and (tensor.is_cpu or (tensor.is_cuda and NATIVE.cuda))
    )


def route(tensor: Tensor) -> str:
    """Say how the operators on activations run for tensors like this one.

    Args:
        tensor: an activation or a cotangent.

    Returns:
        "native-cpu", "native-cuda", or "torch: " and the reason.
    """
    if runs_natively(tensor):
        return f"native-{tensor.device.type}"
    if not NATIVE.loaded:
        return f"torch: {NATIVE.why}"
    if tensor.dtype not in _DTYPES:
        return f"torch: activations are {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_cuda:
        return f"torch: no CUDA operator was built: {NATIVE.why}"
    return f"torch: there is no native operator for {tensor.device.type}"
