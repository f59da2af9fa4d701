"""The state in which Φ is computed, entered and left as one, whatever state the caller is in.

`frozen` holds a network still: evaluation mode, no parameter gradients; its buffers and the random
states come back. `arithmetic` sets PyTorch's float32 switches, which belong to the process.
`passed_by` runs what wrappers inside the network wrap. `computing` is all three, outside of
inference mode. Each restores what it found, also after an exception.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sign_ext import module_tree

# Wrappers inside of a network: compiled, DataParallel and DDP modules run what they wrap.
#
# Around the whole network `eval_state.unwrap` takes them off. Further in they stay where they are,
# and are passed by while Φ is computed: a compiled module would be compiled anew for every hook and
# dtype, and DDP's forward pass exchanges buffers between processes and cannot be recorded. FSDP has
# to run, since it gathers the weights; only what it kept gathered is freed at the end.


_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_ABSENT = object()
_PLAIN_WEIGHTS = {nn.Parameter, Tensor}


@dataclass
class _Bypass:
    """What modules had in place of their detours, for the last holder to put back."""

    before: list[tuple[nn.Module, str, Any]] = field(default_factory=list)
    holders: int = 0


_bypasses: dict[int, _Bypass] = {}  # by the network's id; guarded by _bypasses_lock
_bypasses_lock = threading.Lock()


@contextmanager
def passed_by(model: nn.Module) -> Iterator[None]:
    """Run what wrappers inside of `model` wrap; all as before afterwards.

    Args:
        model: the network, without wrappers around it.
    """
    modules = module_tree.modules(model)
    kinds = _sharded_kinds(modules)
    sharded = [m for m in modules if type(m) in kinds and _has_sharded_weights(m)]
    with _bypasses_lock:
        hold = _bypasses.setdefault(id(model), _Bypass())
        hold.holders += 1
        if hold.holders == 1:
            for module, name, detour in _detours(modules):
                hold.before.append((module, name, vars(module).get(name, _ABSENT)))
                vars(module)[name] = detour
    try:
        yield
    finally:
        with _bypasses_lock:
            hold.holders -= 1
            if hold.holders == 0:
                for module, name, before in hold.before:
                    if before is _ABSENT:
                        del vars(module)[name]
                    else:
                        vars(module)[name] = before
                del _bypasses[id(model)]
        for module in sharded:  # a forward pass that ends at Φ frees nothing
            module.reshard()  # type: ignore[operator]


def _detours(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, str, Any]]:
    """The attributes that lead past each wrapper: module, name and value."""
    of_classes: dict[type, tuple[bool, Any]] = {}  # whether it is a wrapper; its compiled forward
    for module in modules:
        kind, held = type(module), vars(module)
        if kind not in of_classes:
            forward = getattr(kind, "forward", None)
            plain = getattr(forward, "_torchdynamo_orig_callable", None)
            of_classes[kind] = issubclass(kind, _PARALLEL), plain
        is_parallel, plain = of_classes[kind]
        own = held.get("forward")
        if own is not None:
            plain = getattr(own, "_torchdynamo_orig_callable", None)
        if is_parallel:
            yield module, "forward", module.module.__call__  # type: ignore[operator]
        elif isinstance(inner := _inside_compiled(module), nn.Module):
            yield module, "forward", inner.__call__
        elif plain is not None:
            if not isinstance(plain, MethodType) and own is None:
                plain = MethodType(plain, module)  # the class's forward was compiled
            yield module, "forward", plain
        if getattr(module, "_compiled_call_impl", None) is not None:
            yield module, "_compiled_call_impl", None


def _inside_compiled(module: nn.Module) -> object:
    """What a compiled module wraps, or None; `getattr` writes a message for each that has none."""
    inside = module._modules
    return inside["_orig_mod"] if "_orig_mod" in inside else vars(module).get("_orig_mod")


def _sharded_kinds(modules: Iterable[nn.Module]) -> set[type]:
    """The classes of those modules to which `fully_shard` was applied: it gives them another."""
    kinds = {type(module) for module in modules}
    return {kind for kind in kinds if any(base.__name__ == "FSDPModule" for base in kind.__mro__)}


def _has_sharded_weights(module: nn.Module, walked: Sequence[nn.Module] | None = None) -> bool:
    weights = module_tree.parameters(module, walked)
    # Most are plain, of which the classes say so faster.
    return not _PLAIN_WEIGHTS.issuperset(map(type, weights)) and any(
        is_traceable_wrapper_subclass(p) for p in weights
    )


def why_not_recorded(model: nn.Module) -> str | None:
    """Why a network's weights cannot be recorded or compiled in, or None where they can.

    Args:
        model: the network.
    """
    modules = module_tree.modules(model)
    sharded = _sharded_kinds(modules)
    for name, module in module_tree.named_modules(model) if sharded else ():
        if type(module) in sharded:
            where = repr(name) if name else "the model"
            return f"{where} is sharded by fully_shard, which gathers its weights in each pass"
    if not _has_sharded_weights(model, modules):
        return None
    for name, weight in model.named_parameters():
        if is_traceable_wrapper_subclass(weight):
            return f"{name!r} is a {type(weight.data).__name__}, not a plain tensor"
    return None


@contextmanager
def computing(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """Network frozen, arithmetic as asked for, no inference mode; all as before afterwards.

    A caller's autocast is switched off by the trajectory, for the images' device.

    Args:
        model: the network.
        precision: as in `arithmetic`.
    """
    with torch.inference_mode(False), frozen(model), passed_by(model), arithmetic(precision):
        yield


def unwrap(model: nn.Module) -> nn.Module:
    """The network itself, without torch.compile's, DataParallel's or DDP's wrapper.

    Hooks reach the layers of the network only, and the wrappers add nothing to its values.
    """
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        else:
            return model


@dataclass
class _Hold:
    """What the first holder of a network found, for the last one to put back."""

    training: list[nn.Module] = field(default_factory=list)
    trainable: list[nn.Parameter] = field(default_factory=list)
    buffers: list[BufferCopy] = field(default_factory=list)
    holders: int = 0


@dataclass
class BufferCopy:
    """A buffer as it was, which a forward pass may write (observers, statistics, counters).

    Attributes:
        module: that holds it.
        name: by which it does.
        tensor: itself.
        shape: that it had.
        joined: the values of all buffers of its dtype and device.
        start: where its own begin.
    """

    module: nn.Module
    name: str
    tensor: Tensor
    shape: torch.Size
    joined: Tensor
    start: int

    @property
    def copy(self) -> Tensor:
        """Its values as they were."""
        return self.joined[self.start : self.start + self.shape.numel()].view(self.shape)


_holds: dict[int, _Hold] = {}  # by the network's id; guarded by _holds_lock
_holds_lock = threading.Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradients inside the block; afterwards all as before.

    Restored, also after an exception: every module's training flag, every parameter's
    requires_grad, every buffer and its values, and the random number generators of Python, numpy,
    the CPU and the model's devices. Gradients and the caller's hooks are not touched. Several
    threads may hold one model at once; other threads see the flags of evaluation mode meanwhile.
    """
    modules = module_tree.modules(model)
    weights = module_tree.parameters(model, modules)
    devices = sorted({p.device.index or 0 for p in weights if p.is_cuda})
    with torch.random.fork_rng(devices=devices), _other_random_states():
        with _holds_lock:
            hold = _holds.setdefault(id(model), _Hold())
            if hold.holders == 0:
                # Flags are set directly: a network's own train() may do more than set them.
                hold.training = [m for m in modules if m.training]
                hold.trainable = [p for p in weights if p.requires_grad]
                hold.buffers = copies_of_buffers(model, modules)
                for module in hold.training:
                    module.training = False
                for parameter in hold.trainable:
                    parameter.requires_grad_(False)
            hold.holders += 1
        try:
            yield
        finally:
            with _holds_lock:
                hold.holders -= 1
                if hold.holders == 0:
                    for module in hold.training:
                        module.training = True
                    for parameter in hold.trainable:
                        parameter.requires_grad_(True)
                    del _holds[id(model)]
                    restore_buffers(hold.buffers)


@contextmanager
def _other_random_states() -> Iterator[None]:
    """Python's and numpy's global generators, put back if something was drawn from them."""
    # The global generator of numpy is what a network draws from, whoever wrote it.
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        if random.getstate() != python:
            random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def copies_of_buffers(
    model: nn.Module, walked: Sequence[nn.Module] | None = None
) -> list[BufferCopy]:
    """Every buffer that holds plain values, with a copy.

    Args:
        model: the network.
        walked: its modules, where they have just been listed.
    """
    found = [
        (module, name, tensor)
        for module in (walked or module_tree.modules(model))
        for name, tensor in module._buffers.items()
        if type(tensor) is Tensor
        and tensor.layout == torch.strided
        and not (tensor.is_quantized or tensor.is_meta)
    ]
    copies: dict[int, tuple[Tensor, int]] = {}
    for tensors in _by_kind(tensor for _, _, tensor in found):
        # All in one copy: one for each takes most of its time to call.
        joined = _joined(tensors)
        start = 0
        for tensor in tensors:
            copies[id(tensor)] = joined, start
            start += tensor.numel()
    return [BufferCopy(module, name, t, t.shape, *copies[id(t)]) for module, name, t in found]


def _by_kind(tensors: Iterable[Tensor]) -> Iterable[list[Tensor]]:
    """Tensors that can be joined: of one dtype and device."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return kinds.values()


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """Their values in one dimension, copied."""
    with torch.no_grad():
        return torch.cat([tensor.reshape(-1) for tensor in tensors])


def restore_buffers(buffers: list[BufferCopy]) -> None:
    """Put back the tensors that were replaced, and the values that were changed.

    What did not change is not written: its version counter, by which a change is noticed, stays.

    Args:
        buffers: from `copies_of_buffers`.
    """
    changed = []
    kinds: dict[tuple[torch.dtype, torch.device], list[BufferCopy]] = {}
    for buffer in buffers:
        held = buffer.module._buffers
        if buffer.name in held and held[buffer.name] is not buffer.tensor:
            held[buffer.name] = buffer.tensor
        if buffer.tensor.shape != buffer.shape:
            changed.append(buffer)
        elif buffer.tensor.numel():
            kinds.setdefault((buffer.tensor.dtype, buffer.tensor.device), []).append(buffer)
    for group in kinds.values():
        now, before = _joined([buffer.tensor for buffer in group]), group[0].joined
        # Of another size where some of them have another shape now: then each is compared.
        if not same_bits(now, before):
            changed += [b for b in group if not same_bits(b.tensor, b.copy)]
    with torch.no_grad():
        for buffer in changed:
            if buffer.tensor.shape != buffer.shape:
                buffer.tensor.resize_(buffer.shape)
            buffer.tensor.copy_(buffer.copy)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, a NaN to itself as well.

    Args:
        one: a dense tensor.
        other: of the same dtype.
    """
    return one.shape == other.shape and torch.equal(_bytes_of(one), _bytes_of(other))


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


# The per-operation switches, and the older two that they replace.
_Saved = tuple[list[str], tuple[str | None, bool | None]]


@dataclass
class _Held:
    """The switches while at least one thread computes under them; guarded by `_switches_free`."""

    precision: str | None = None  # None: nobody holds them
    holders: int = 0
    saved: _Saved | None = None


_held = _Held()
_switches_free = threading.Condition()


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Compute float32 as `precision` says until the block ends, then put every switch back.

    PyTorch lets cuDNN convolutions use TF32 by default, and global switches lower float32 matrix
    products: "float32" and "bfloat16" switch all of that off. Threads that ask for the same
    precision share the switches; a thread that asks for another one waits until they are free.

    Args:
        precision: "float32" (IEEE), "tf32" (TF32 on CUDA matrix units) or "bfloat16" (whose
            float32 parts are IEEE; the bfloat16 itself is autocast's work).
    """
    with _switches_free:
        while _held.precision not in (None, precision):
            _switches_free.wait()
        if _held.precision is None:
            saved = [switch.fp32_precision for switch, _ in _switches()], _legacy()
            _set(precision)
            _held.precision, _held.saved = precision, saved
        _held.holders += 1
    try:
        yield
    finally:
        with _switches_free:
            _held.holders -= 1
            if not _held.holders:
                assert _held.saved is not None
                _restore(_held.saved)
                _held.precision = _held.saved = None
                _switches_free.notify_all()


def _switches() -> list[tuple[Any, bool]]:
    """The per-operation float32 switches, and whether each belongs to CUDA."""
    backends: Any = torch.backends
    return [
        (backends.cudnn.conv, True),
        (backends.cudnn.rnn, True),
        (backends.cuda.matmul, True),
        (backends.mkldnn.conv, False),
        (backends.mkldnn.matmul, False),
        (backends.mkldnn.rnn, False),
    ]


def _legacy() -> tuple[str | None, bool | None]:
    """The older switches, or None where the caller mixed old and new, which makes reading raise."""
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul = None
    try:
        cudnn = torch.backends.cudnn.allow_tf32
    except RuntimeError:
        cudnn = None
    return matmul, cudnn


def _set(precision: str) -> None:
    tf32 = precision == "tf32"
    matmul, cudnn = _legacy()
    # The older switches first: code inside the model may read them, and they must agree.
    if matmul is not None:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = tf32
    for switch, is_cuda in _switches():
        switch.fp32_precision = "tf32" if tf32 and is_cuda else "ieee"


def _restore(saved: _Saved) -> None:
    values, (matmul, cudnn) = saved
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if cudnn is not None:
        torch.backends.cudnn.allow_tf32 = cudnn
    for (switch, _), value in zip(_switches(), values, strict=True):
        switch.fp32_precision = value
