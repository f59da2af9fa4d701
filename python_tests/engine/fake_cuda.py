"""A CUDA device without data: what an operation of a step would run there, and what it must not.

`FakeTensorMode` knows shapes, strides and devices only, so what reads a value raises. `Captured`
looks at each operation as a CUDA graph does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.program import Program
from sign_ext.engine.graphed import forbid_host_sync
from sign_ext.ops import native

CUDA = torch.device("cuda", 0)
CSRC = Path(__file__).resolve().parent.parent.parent / "csrc"
_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
# An operation that has one of these runs on CUDA, by itself or by other operations.
_KEYS = ("CUDA", "CompositeExplicitAutograd", "CompositeImplicitAutograd",
         "CompositeExplicitAutogradNonFunctional")  # fmt: skip
_CPU_ONLY = ("mkldnn", "_for_cpu", "quantized", "nnpack", "xnnpack")


class NotForCapture(AssertionError):
    """An operation that a graph of a step on CUDA may not hold."""


class Captured(TorchDispatchMode):
    """Refuses what cannot run on CUDA inside a captured graph, or would not replay alike.

    What waits for the device is refused by the engine's own `forbid_host_sync`.

    Attributes:
        names: the operations that ran, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        if name.startswith("prim::"):  # asks for a device or a layout
            return func(*args, **(kwargs or {}))
        self.names.append(name)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if any(t.device.type == "cuda" for t in given):
            self._require_kernel(func, name)
        result = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if any(t.device.type == "cuda" for t in (*given, *made)):
            # A number in a 0-d tensor goes into the launch; anything larger is copied from memory
            # that the graph does not hold.
            if any(t.device.type == "cpu" and t.dim() for t in given):
                raise NotForCapture(f"{name} reads a tensor of the host")
            random = torch.Tag.nondeterministic_seeded in func.tags
            if random and not _without_randomness(func, args, kwargs or {}):
                raise NotForCapture(f"{name} draws random numbers")
        return result

    @staticmethod
    def _require_kernel(func: Any, name: str) -> None:
        namespace, _, plain = name.partition("::")
        if namespace == "sign_ext":
            if plain.removesuffix("_").removesuffix("_backward") not in _cuda_sources():
                raise NotForCapture(f"{name} has no CUDA kernel in csrc/*/*_cuda.cu")
            return
        whole = f"{name}.{func._overloadname}".removesuffix(".default")
        if any(part in name for part in _CPU_ONLY) or not any(_has_kernel(whole, k) for k in _KEYS):
            raise NotForCapture(f"{whole} runs on a CPU only")


@cache
def _cuda_sources() -> str:
    return "".join(file.read_text(encoding="utf-8") for file in sorted(CSRC.glob("*/*_cuda.cu")))


def _without_randomness(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether its probability is 0."""
    arguments = func._schema.arguments
    given = {a.name: a.default_value for a in arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in arguments), args, strict=False)) | kwargs
    return any(given.get(name) in (0, False) for name in ("dropout_p", "p", "train", "training"))


def gradients_by_hand(
    root: Tensor, leaf: Tensor, allow_unused: bool = False
) -> tuple[Tensor | None]:
    """`torch.autograd.grad`, whose own engine asks the driver for the device's streams.

    The graph's functions are called here, each when all that read its outputs have been.
    """
    functions, todo = {}, [root.grad_fn]
    while todo:
        function = todo.pop()
        if function is not None and function not in functions:
            functions[function] = [f for f, _ in function.next_functions if f is not None]
            todo += functions[function]
    waits: dict[Any, int] = dict.fromkeys(functions, 0)
    for following in functions.values():
        for function in following:
            waits[function] += 1
    sums: dict[Any, dict[int, Tensor]] = {root.grad_fn: {0: torch.ones_like(root)}}
    ready, found = [root.grad_fn], None
    while ready:
        function = ready.pop()
        given = sums.pop(function, {})
        if hasattr(function, "variable"):
            found = given.get(0) if function.variable is leaf else found
            continue
        outputs = _called(function, given)
        for (following, place), gradient in zip(function.next_functions, outputs, strict=True):
            if following is None:
                continue
            if gradient is not None:
                like = following._input_metadata[place]  # what was broadcast comes back summed
                gradient = gradient.sum_to_size(tuple(like.shape)).to(like.dtype)
                to = sums.setdefault(following, {})
                to[place] = gradient if place not in to else to[place] + gradient
            waits[following] -= 1
            if not waits[following]:
                ready.append(following)
    assert allow_unused or found is not None
    return (found,)


def _called(function: Any, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """One function of a graph; zeros stand for cotangents that nothing sent."""
    if not given:
        return (None,) * len(function.next_functions)
    metadata = function._input_metadata
    gradients = [
        given[i] if i in given else torch.zeros(m.shape, dtype=m.dtype, device=m.device)
        for i, m in enumerate(metadata)
    ]
    if hasattr(function, "apply"):  # in Python: None for each argument that is no tensor, too
        outputs = function.apply(*gradients)
        return outputs[-len(function.next_functions) :]
    outputs = function(*gradients)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def on_cuda(value: Any) -> Any:
    """A constant, or an operation with its constants, on the fake device; inside a fake mode."""
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=CUDA)
    if isinstance(value, tuple) and any(isinstance(each, Tensor | Op) for each in value):
        return type(value)(map(on_cuda, value))
    if isinstance(value, Op):
        changed = {f.name: on_cuda(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **changed)
    return value


def program_on_cuda(program: Program) -> Program:
    """A program with all constants on the fake device; inside a fake mode."""
    ops = tuple(on_cuda(op) for op in program.ops)
    return replace(program, ops=ops, seed=on_cuda(program.seed))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """A CUDA device without data, with our operators' CUDA kernels as if they were built."""
    with ExitStack() as stack:
        pretended = native.Native(mock.Mock(wraps=native.NATIVE.facts, cuda=True), "")
        stack.enter_context(mock.patch.object(native, "NATIVE", pretended))
        stack.enter_context(
            mock.patch("sign_ext.compiler.ir.island.torch.autograd.grad", gradients_by_hand)
        )
        available = "torch.cuda.amp.common.amp_definitely_not_available"
        stack.enter_context(mock.patch(available, return_value=False))
        stack.enter_context(mock.patch("torch.cuda.is_bf16_supported", return_value=True))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        yield


@contextmanager
def constants_without_values() -> Iterator[None]:
    """While a step is bound: it may look at its constants, and here finds nothing special."""
    with mock.patch.object(FakeTensor, "__bool__", return_value=False):
        yield


def looked_at(work: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What some work gives, under the rules of a captured graph, and the operations that ran."""
    mode, found = Captured(), []

    def step() -> None:
        with mode:
            found.append(work())

    forbid_host_sync(step)
    return found[0], mode.names
