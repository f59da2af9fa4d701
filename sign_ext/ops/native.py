"""The native extension `sign_ext._C`: loading it, what it was built with, and calling it.

Every operator is a function decorated with `operator`. Its docstring is the contract, its body the
reference in plain torch, its parameters those of the native kernel's schema.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, get_origin, get_type_hints, overload

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
    """

    __name__: str
    reference: Callable[P, None]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Run the operator."""

    def register_fake(self, kernel: Callable[..., None]) -> Callable[..., None]:
        """Decorate the FakeTensor kernel, which takes the arguments of the operator's schema."""


@overload
def operator(reference: Callable[P, None], /) -> Operator[P]: ...
@overload
def operator(
    *,
    reason: Callable[..., str | None] = ...,
    flatten: Mapping[str, str] = ...,
    changed: Sequence[str] = ...,
) -> Callable[[Callable[P, None]], Operator[P]]: ...
def operator(
    reference: Callable[..., None] | None = None,
    /,
    *,
    reason: Callable[..., str | None] = fallback_reason,
    flatten: Mapping[str, str] = MappingProxyType({}),
    changed: Sequence[str] = (),
) -> Any:
    """Make an operator of its definition in plain torch.

    The native operator is `torch.ops.sign_ext.NAME`, NAME being the definition's. Its schema takes
    the definition's parameters in their order, a pair as two numbers and an activation as three.

    Args:
        reference: the definition; its docstring is the operator's contract.
        reason: why the definition runs for some arguments, or None where the native kernel does. It
            takes the first arguments, as many as it has parameters.
        flatten: of a parameter that the schema takes as several: which attribute holds them.
        changed: parameters whose version the native kernel must count up, so that autograd notices
            that a saved tensor has changed. A C++ operator does not.

    Example:
        >>> @operator
        ... def pack_mask(y: Tensor, mask: Tensor, activation: tuple[float, float, float]) -> None:
        ...     print("the schema has", (y, mask, *activation)[2:])
        >>> y, mask = torch.ones(1, 1), torch.zeros(1, 1, dtype=torch.uint8)
        >>> pack_mask(y.double(), mask, activation=(0.0, 6.0, 0.0))
        the schema has (0.0, 6.0, 0.0)
    """
    if reference is None:
        return functools.partial(operator, reason=reason, flatten=flatten, changed=changed)
    name = reference.__name__
    native = getattr(torch.ops.sign_ext, name).default if NATIVE.loaded else None
    source = _routing_source(reference, len(inspect.signature(reason).parameters), flatten, changed)
    scope: dict[str, Any] = {}
    exec(compile(source, f"<operator {name}>", "exec"), scope)
    run = scope["make"](reason, native, _count_up)
    run.__defaults__, run.__kwdefaults__ = reference.__defaults__, reference.__kwdefaults__

    def register_fake(kernel: Callable[..., None]) -> Callable[..., None]:
        if NATIVE.loaded:  # the schema is the extension's
            torch.library.register_fake(f"sign_ext::{name}", kernel)
        return kernel

    vars(run).update(reference=reference, register_fake=register_fake)
    return functools.update_wrapper(run, reference)


def _routing_source(
    reference: Callable[..., None],
    decisive: int,
    flatten: Mapping[str, str],
    changed: Sequence[str],
) -> str:
    """Source of the function that chooses the route; it costs as little as one written by hand.

    For `pack_mask` in the example of `operator`:

        def make(reason, native, count_up):
            def pack_mask(y, mask, activation):
                if reason(y) is None:
                    native(y, mask, *activation)
                else:
                    pack_mask.reference(y, mask, activation)
            return pack_mask
    """
    parameters = inspect.signature(reference).parameters.values()
    hints = get_type_hints(reference)
    names = [parameter.name for parameter in parameters]
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    positional = names[: len(names) - len(keywords)]

    def in_schema(name: str) -> str:
        if name in flatten:
            return f"*{name}.{flatten[name]}"
        hint = get_origin(hints.get(name)) or hints.get(name)
        return f"*{name}" if isinstance(hint, type) and issubclass(hint, tuple) else name

    signature = [*positional, *(["*", *keywords] if keywords else [])]
    same = [*positional, *(f"{name}={name}" for name in keywords)]
    lines = [
        "def make(reason, native, count_up):",
        f" def {reference.__name__}({', '.join(signature)}):",
        f"  if reason({', '.join(names[:decisive])}) is None:",
        f"   native({', '.join(map(in_schema, names))})",
        *([f"   count_up({', '.join(changed)})"] if changed else []),
        "  else:",
        f"   {reference.__name__}.reference({', '.join(same)})",
        f" return {reference.__name__}",
    ]
    return "\n".join(lines)


def _count_up(*tensors: Tensor | None) -> None:
    """Count up the versions of tensors that a native kernel has changed."""
    if torch.compiler.is_compiling():
        return  # the compiler sees the mutation in the operator's schema
    for tensor in tensors:
        if tensor is not None and not tensor.is_inference():
            torch.autograd.graph.increment_version(tensor)
