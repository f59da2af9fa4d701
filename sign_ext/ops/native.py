"""The library of native operators: loading it, what it was built with, and calling it.

Every operator is a function decorated with `operator`. Its docstring is the contract, its body the
reference in plain torch, its parameters those of the native kernel's schema.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import json
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, Protocol, get_origin, get_type_hints, overload

import torch
from torch import Tensor

_FOLDER = Path(__file__).resolve().parent.parent
_RECORD = _FOLDER / "_build_info.json"  # written by the build
_LIBRARY = "sign_ext_ops.dll" if sys.platform == "win32" else "libsign_ext_ops.so"
_MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"  # as it is called for this Python
_OLDEST_TORCH = (2, 11)
_REINSTALL = "run pip install --force-reinstall --no-deps . in the source folder of sign_ext"
_DTYPES = (torch.float32, torch.bfloat16)  # of the native operators' activations and cotangents

P = ParamSpec("P")


@dataclass(frozen=True)
class Facts:
    """How the library of native operators was built."""

    cuda: bool  # whether it has CUDA operators
    arches: str  # "9.0;12.0+PTX", as in TORCH_CUDA_ARCH_LIST; "" without CUDA
    toolkit: str  # nvcc's version; "" without CUDA
    compiler: str
    torch_built_with: str


@dataclass(frozen=True)
class Native:
    """The native operators as they were loaded, or why they were not."""

    facts: Facts | None  # of the library that is loaded, or None
    why: str  # why it was built, or why it is not loaded

    @property
    def loaded(self) -> bool:
        """Whether the native operators are registered."""
        return self.facts is not None

    @property
    def cuda(self) -> bool:
        """Whether they include CUDA operators."""
        return self.facts is not None and bool(self.facts.cuda)


def _load() -> Native:
    """Load the library of native operators, or find out why there is none.

    The library has no Python in it and registers the operators through torch's stable ABI, so one
    build serves every Python, and every torch from the oldest supported on.

    A deliberate pure-Python install is not reported. A library that should be here but cannot be
    used gives one warning with its cause and fix; everything then runs on plain torch.
    """
    record = _read_record()
    built_why = str(record.get("why", "built by hand, without a record of why"))
    if record.get("native") is False:
        return Native(None, f"pure Python was installed: {built_why}")
    version = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if version and (int(version[1]), int(version[2])) < _OLDEST_TORCH:
        return _give_up(
            f"torch {torch.__version__} is older than 2.11", "run pip install -U 'torch>=2.11'"
        )
    # Only look inside this package: an editable install elsewhere has its own.
    library = _FOLDER / _LIBRARY
    if not library.exists():
        if not record:
            return Native(None, "not built: this is a source tree, run pip install -e . in it")
        return _give_up(f"the library {_LIBRARY} that was built is missing", _REINSTALL)
    if obstacle := _cuda_obstacle(record):
        return _give_up(*obstacle)
    try:
        torch.ops.load_library(library)
    except Exception as error:  # whatever a broken library raises on loading, sign_ext still works
        return _give_up(f"the library {_LIBRARY} cannot be loaded ({error})", _REINSTALL)
    return Native(_facts(record), built_why)


def _read_record() -> dict[str, Any]:
    try:
        record = json.loads(_RECORD.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _cuda_obstacle(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Why a library with CUDA operators cannot be loaded with this torch, and the fix; or None."""
    if not record.get("cuda"):
        return None
    major = str(record.get("toolkit", "")).partition(".")[0]
    ours = (torch.version.cuda or "").partition(".")[0]
    if ours == major:
        return None
    here = f"is a CUDA {torch.version.cuda} build" if torch.version.cuda else "has no CUDA"
    return (
        f"its operators were built for CUDA {major}, and torch {torch.__version__} {here}",
        f"install sign_ext without CUDA operators, or a torch for CUDA {major}",
    )


def _module_of(record: Mapping[str, Any]) -> Path | None:
    """The file of sign_ext._C if it fits this Python and is of the recorded build, else None."""
    file = _FOLDER / _MODULE
    return file if record.get("module", _MODULE) == _MODULE and file.exists() else None


def _facts(record: Mapping[str, Any]) -> Facts:
    """How the library was built: as compiled into sign_ext._C if it fits this Python, or recorded.

    A module that the record does not name belongs to another build.
    """
    source: Any = record
    if _module_of(record):
        try:
            source = vars(importlib.import_module("sign_ext._C"))
        except Exception:  # whatever a broken module raises, the record says the same
            source = record
    return Facts(
        cuda=bool(source.get("cuda")),
        arches=str(source.get("arches") or ""),
        toolkit=str(source.get("toolkit") or ""),
        compiler=str(source.get("compiler") or ""),
        torch_built_with=str(source.get("torch_built_with") or ""),
    )


def _give_up(cause: str, fix: str) -> Native:
    warnings.warn(
        f"sign_ext runs on plain torch, which is slower: {cause}. To fix it, {fix}.",
        RuntimeWarning,
        stacklevel=3,
    )
    return Native(None, cause)


NATIVE = _load()  # once: importing this module is what registers the operators


def _answer(question: str) -> str:
    """What a C function of the loaded library returns; "" if the library is of an older build."""
    try:
        function = getattr(ctypes.CDLL(str(_FOLDER / _LIBRARY)), question)
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return bytes(function()).decode()


def build_config() -> dict[str, Any]:
    """Say what was built, with what, and why.

    Returns:
        A dict with `native` (bool: the operators are loaded), `cuda` (bool: with those for CUDA),
        `arches` (list of str, as in TORCH_CUDA_ARCH_LIST), `cpu_targets` (list of str: the vector
        instruction sets that the CPU kernels are compiled for), `cpu_target` (the one in use),
        `torch` (the version that runs), `torch_built_with`, `compiler` and `toolkit` (nvcc's
        version) of the build, `library` (str: the file that holds the operators), `module` (str:
        sign_ext._C's file), each None where there is none, and `why` (str).

    Example:
        >>> from sign_ext import build_config
        >>> sorted(build_config())  # doctest: +NORMALIZE_WHITESPACE
        ['arches', 'compiler', 'cpu_target', 'cpu_targets', 'cuda', 'library', 'module', 'native',
         'toolkit', 'torch', 'torch_built_with', 'why']
    """
    facts = NATIVE.facts
    module = _module_of(_read_record()) if facts else None
    return {
        "native": NATIVE.loaded,
        "cuda": NATIVE.cuda,
        "arches": facts.arches.split(";") if facts and facts.arches else [],
        "cpu_targets": _answer("sign_ext_cpu_targets").split() if facts else [],
        "cpu_target": (_answer("sign_ext_cpu_target") or None) if facts else None,
        "torch": str(torch.__version__),
        "torch_built_with": (facts.torch_built_with or None) if facts else None,
        "compiler": (facts.compiler or None) if facts else None,
        "toolkit": (facts.toolkit or None) if facts else None,
        "library": str(_FOLDER / _LIBRARY) if facts else None,
        "module": str(module) if module else None,
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
        if NATIVE.loaded:  # the schema is the library's
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
