"""The native extension `sign_ext._C`: loading it, what it was built with, and calling it.

Every operator is a function decorated with `operator`. Its docstring is the contract, its body the
reference in plain torch; the call of the native kernel and the FakeTensor kernel are registered
with it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast

import torch
from torch import Tensor

_RECORD = Path(__file__).resolve().parent.parent / "_build_info.json"  # written by the build
_OLDEST_TORCH = (2, 11)
_REINSTALL = "run pip install --force-reinstall --no-deps . in the source folder of sign_ext"
_DTYPES = (torch.float32, torch.bfloat16)  # of the native operators' activations and cotangents

P = ParamSpec("P")


@dataclass(frozen=True)
class Native:
    """The extension as it was loaded, or why it was not."""

    module: Any  # sign_ext._C, or None
    why: str  # why it was built, or why it is not loaded

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

    A deliberate pure-Python install is not reported. An extension that should be here but cannot
    be used gives one warning with its cause and fix; everything then runs on plain torch.
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
    # Only look next to this package: an editable install elsewhere would offer its own extension.
    if PathFinder.find_spec("sign_ext._C", [str(_RECORD.parent)]) is None:
        if not expected:
            return Native(None, "not built: this is a source tree, run pip install -e . in it")
        return _give_up("the extension sign_ext._C that was built is missing", _REINSTALL)
    try:
        module = importlib.import_module("sign_ext._C")
    except Exception as error:  # whatever a broken library raises on loading, sign_ext still works
        return _give_up(f"the extension sign_ext._C cannot be loaded ({error})", _REINSTALL)
    return Native(module, built_why)


def _read_record() -> dict[str, Any]:
    try:
        record = json.loads(_RECORD.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _give_up(cause: str, fix: str) -> Native:
    warnings.warn(
        f"sign_ext runs on plain torch, which is slower: {cause}. To fix it, {fix}.",
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


def fallback_reason(tensor: Tensor) -> str | None:
    """Why operators on activations run on plain torch for tensors like this one.

    Args:
        tensor: an activation or a cotangent.

    Returns:
        The reason, or None where the native kernels run.
    """
    if not NATIVE.loaded:
        return NATIVE.why
    if tensor.dtype not in _DTYPES:
        return f"activations are {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_cpu or (tensor.is_cuda and NATIVE.cuda):
        return None
    if tensor.is_cuda:
        return f"no CUDA operator was built: {NATIVE.why}"
    return f"there is no native operator for {tensor.device.type}"


def runs_natively(tensor: Tensor) -> bool:
    """Whether the native operators take tensors like this one.

    Args:
        tensor: an activation or a cotangent.
    """
    return fallback_reason(tensor) is None


def route(tensor: Tensor) -> str:
    """Say how the operators on activations run for tensors like this one.

    Args:
        tensor: an activation or a cotangent.

    Returns:
        "native-cpu", "native-cuda", or "torch: " and the reason.
    """
    return describe_route(tensor, fallback_reason(tensor))


def describe_route(tensor: Tensor, reason: str | None) -> str:
    """The description of a route.

    Args:
        tensor: on the device that the operator runs on.
        reason: why plain torch runs, or None where the native kernel does.

    Returns:
        "native-cpu", "native-cuda", or "torch: " and the reason.
    """
    return f"native-{tensor.device.type}" if reason is None else f"torch: {reason}"


class Operator(Protocol[P]):
    """A function that runs an operator's native kernel, or its reference in plain torch.

    Attributes:
        reference: the definition, in plain torch.
        kernel: calls the native kernel with the same arguments.
        reason: why the reference runs for some arguments, or None where the kernel does.
    """

    __name__: str
    reference: Callable[P, None]
    kernel: Callable[P, None]
    reason: Callable[P, str | None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run the operator."""

    def register_native(self, kernel: Callable[P, None]) -> Callable[P, None]:
        """Decorate the function that calls the native kernel."""

    def register_fake(self, kernel: Callable[..., None]) -> Callable[..., None]:
        """Decorate the FakeTensor kernel, which takes the arguments of the operator's schema."""

    def register_reason(self, reason: Callable[..., str | None]) -> Callable[..., str | None]:
        """Decorate the function that decides the route.

        Without one it is `fallback_reason` of the first argument.
        """


def operator(reference: Callable[P, None]) -> Operator[P]:
    """Make an operator of its definition.

    It is `torch.ops.sign_ext.NAME`, NAME being that of the function. Register the call of its
    native kernel, its FakeTensor kernel and, where another tensor than the first argument decides,
    its choice of route.

    Args:
        reference: the definition in plain torch; its docstring is the operator's contract.

    Example:
        >>> @operator
        ... def twice(x: Tensor, out: Tensor) -> None:
        ...     out.copy_(2 * x)
        >>> @twice.register_native
        ... def twice_native(x: Tensor, out: Tensor) -> None:
        ...     torch.ops.sign_ext.twice(x, out)
        >>> x = torch.ones(2, dtype=torch.float64)
        >>> twice(x, x)
        >>> x.tolist()
        [2.0, 2.0]
    """
    first = next(iter(inspect.signature(reference).parameters))

    @functools.wraps(reference)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if op.reason(*args, **kwargs) is None:
            op.kernel(*args, **kwargs)
        else:
            op.reference(*args, **kwargs)

    def first_arguments_reason(*args: P.args, **kwargs: P.kwargs) -> str | None:
        return fallback_reason(cast(Tensor, args[0] if args else kwargs[first]))

    def register_native(kernel: Callable[P, None]) -> Callable[P, None]:
        op.kernel = kernel
        return kernel

    def register_fake(kernel: Callable[..., None]) -> Callable[..., None]:
        if NATIVE.loaded:  # the schema is the extension's
            torch.library.register_fake(f"sign_ext::{reference.__name__}", kernel)
        return kernel

    def register_reason(reason: Callable[..., str | None]) -> Callable[..., str | None]:
        op.reason = reason
        return reason

    op = cast(Operator[P], run)
    op.reference = reference
    op.reason = first_arguments_reason
    vars(op).update(
        register_native=register_native,
        register_fake=register_fake,
        register_reason=register_reason,
    )
    return op
