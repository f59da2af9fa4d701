"""What a network is made of, so that a change to it is noticed between two calls.

What was recorded of a forward pass holds as long as nothing that the pass looked at has changed.
`StructureWatch` follows the structure: modules, hooks, and everything that their attributes hold.
`weights_digest` follows values. Neither sees a global variable or the inside of an extension; the
comparison with autograd in `engine/agreement.py` notices those by their effect.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

DEEPEST = 8  # containers and objects inside each other; what is deeper is not a network's option
MOST = 2000  # values in one attribute; a data set or a trainer is not looked through
ARRAY_BYTES = 1 << 16  # numpy arrays up to this size are compared by value, others by identity

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_Path = tuple[str, str]  # a module's name and its attribute's


class _Same:
    """An object compared by identity, and kept alive so that its identity stays its own."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


class _TooLarge(Exception):
    """What an attribute holds is too deep or too large to be a network's option."""


class _Attribute:
    """Turns what one attribute holds into something that is equal as long as nothing changed."""

    def __init__(self) -> None:
        self._values = 0
        self._inside: set[int] = set()  # objects on the way to this one: they may refer back

    def describe(self, value: Any) -> Hashable:
        """The value, or what stands for it."""
        if value is None or isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor):
            return (_Same(value), value.shape, value.dtype, value.device)
        if isinstance(value, type | ModuleType):
            return _Same(value)
        self._values += 1
        if id(value) in self._inside:
            return "itself"
        if len(self._inside) >= DEEPEST or self._values > MOST:
            raise _TooLarge
        self._inside.add(id(value))
        try:
            return self._parts(value)
        finally:
            self._inside.discard(id(value))

    def _parts(self, value: Any) -> Hashable:
        if isinstance(value, Mapping | list | tuple | deque | set | frozenset):
            self._values += len(value)
        if isinstance(value, Mapping):
            return (type(value), *((self.describe(k), self.describe(v)) for k, v in value.items()))
        if isinstance(value, list | tuple | deque):
            return (type(value), *map(self.describe, value))
        if isinstance(value, set | frozenset):
            return frozenset(map(self.describe, value))
        if isinstance(value, FunctionType):
            held = [_contents(cell) for cell in value.__closure__ or ()]
            others = (value.__defaults__, value.__kwdefaults__, held)
            return (_Same(value), _Same(value.__code__), *map(self.describe, others))
        if isinstance(value, MethodType):
            return (self.describe(value.__func__), _Same(value.__self__))
        if isinstance(value, functools.partial):
            return tuple(map(self.describe, (value.func, value.args, value.keywords)))
        if isinstance(value, np.ndarray) and value.nbytes <= ARRAY_BYTES:
            return (value.shape, str(value.dtype), value.tobytes())
        return (_Same(value), *self._attributes(value))

    def _attributes(self, value: object) -> Iterator[Hashable]:
        """A plain object's own attributes, those of a module that is no submodule, for instance."""
        for name, held in getattr(value, "__dict__", {}).items():
            yield (name, self.describe(held))
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if not name.startswith("__") and hasattr(value, name):
                    yield (name, self.describe(getattr(value, name)))


def _contents(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is not bound yet
        return None


def _described(value: Any) -> Hashable:
    if value is None or isinstance(value, _PLAIN):
        return value
    try:
        return _Attribute().describe(value)
    except Exception:  # an object of somebody's own may refuse to be looked at
        return _Same(value)


# What `named_modules` goes through itself, and what says how a module is saved.
_NOT_LOOKED_AT = {"_modules", "_non_persistent_buffers_set"}


def structure_of(network: nn.Module) -> dict[_Path, Hashable]:
    """Everything that a recorded graph depends on, except the weights' values.

    That is the same modules with the same attributes, what these hold in containers, objects,
    functions and closures, the same hooks, and the same tensors, whatever their values.

    Args:
        network: the network.
    """
    found: dict[_Path, Hashable] = {}
    for name, module in network.named_modules():
        kind = type(module)
        found[name, "class"] = (_Same(kind), _described(getattr(kind, "forward", None)))
        for attribute, value in vars(module).items():
            if attribute in ("_parameters", "_buffers"):
                for held, tensor in value.items():
                    found[name, held] = _described(tensor)
            elif attribute not in _NOT_LOOKED_AT and not _no_hooks(attribute, value):
                found[name, attribute] = _described(value)
    return found


def _no_hooks(attribute: str, value: Any) -> bool:
    """Whether these are hooks that nobody registered, as nearly all are."""
    return attribute.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and (
        not value
    )


class StructureWatch:
    """One network's structure, without what its own forward pass writes.

    A forward pass that keeps its last features, or counts its calls, changes attributes each time
    that it runs. What is seen to change while it runs is not a change by the caller.
    """

    def __init__(self, network: nn.Module) -> None:
        """Look at nothing yet."""
        self._network = network
        self._written: set[_Path] = set()
        self._call: object = None
        self._now: dict[_Path, Hashable] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a forward pass: what changes inside is what the network writes itself."""
        before = structure_of(self._network)
        try:
            yield
        finally:
            self._now = structure_of(self._network)
            self._call = None
            paths = before.keys() | self._now.keys()
            self._written |= {p for p in paths if before.get(p) != self._now.get(p)}

    def key(self, call: object = None) -> Hashable:
        """Equal as long as the structure is.

        Args:
            call: what stands for the call of the caller, during which the network does not change:
                it is looked at once for each. None looks now.
        """
        if call is None or call is not self._call:
            self._now = structure_of(self._network)
            self._call = call
        return tuple(item for item in self._now.items() if item[0] not in self._written)


def weights_versions(network: nn.Module) -> Hashable:
    """The identities and version counters of a network's parameters; no value is read."""
    return tuple((id(p), p._version) for p in network.parameters())


def weights_digest(network: nn.Module, constants: Sequence[Tensor] = ()) -> tuple[object, ...]:
    """The weights' addresses and version counters, and two sums over their values.

    The sums notice writes that PyTorch does not count, through `.data` for instance. One of them
    weights each value by its position, so that a permutation shows. It synchronises with the device
    once.

    Args:
        network: the network.
        constants: tensors that are no parameters or buffers of it, but that its forward pass reads.
    """
    tensors = [*network.parameters(), *network.buffers(), *constants]
    identities = tuple((t.data_ptr(), t._version, t.shape, t.dtype) for t in tensors)
    sums: list[Tensor] = []
    with torch.no_grad():
        longest = max((t.numel() for t in tensors), default=0)
        for device in {t.device for t in tensors}:
            ramp = torch.linspace(0.5, 1.5, max(longest, 1), device=device)
            for tensor in (t for t in tensors if t.device == device and t.is_floating_point()):
                flat = tensor.detach().float().flatten()
                sums.append(torch.dot(flat, ramp[: flat.numel()]))
                sums.append(flat.sum())
    by_device: dict[torch.device, list[Tensor]] = {}
    for value in sums:
        by_device.setdefault(value.device, []).append(value)
    values = [v for group in by_device.values() for v in torch.stack(group).tolist()]
    return (identities, tuple(map(repr, values)))  # repr: a NaN equals itself


def constants_of(recorded: nn.Module, network: nn.Module) -> list[Tensor]:
    """The tensors that a recording met and that are not the network's parameters or buffers.

    Args:
        recorded: the recorded graph, which holds every tensor that it reads.
        network: the network.
    """
    own = {id(t) for t in _tensors_of(network)}
    return [t for t in _tensors_of(recorded) if id(t) not in own]


def _tensors_of(module: nn.Module) -> Iterable[Tensor]:
    return [*module.parameters(), *module.buffers()]
