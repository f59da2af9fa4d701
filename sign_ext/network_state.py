"""What a network is made of, so that a change to it is noticed between two calls.

What was recorded of a forward pass holds as long as nothing that the pass looked at has changed.
`StructureWatch` follows the structure: modules, hooks, and everything that their attributes hold.
`weights_digest` follows values. Neither sees a global variable or the inside of an extension; the
comparison with autograd in `engine/agreement.py` notices those by their effect.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext import module_tree

DEEPEST = 8  # containers and objects inside each other; what is deeper is not a network's option
MOST = 2000  # values in one attribute; a data set or a trainer is not looked through
ARRAY_BYTES = 1 << 16  # numpy arrays up to this size are compared by value, others by identity

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_PLAIN_CLASSES = {*_PLAIN, type(None)}
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
OWN_HOOK = "_of_sign_ext"  # an attribute of hooks that this package sets while it runs a network
SUMMED = 1024  # weights in one sum
JOINED = 1 << 16  # values at a time of tensors that are smaller than this
STRUCTURES_KEPT = 8  # of one network, so that it may be changed to and fro
_Path = tuple[str, str]  # a module's name and its attribute's


class _Same:
    """An object compared by identity, and not kept alive: it may refer to the network.

    An object that is gone is equal to no later one. What takes no weak reference is compared by
    class and address, which another object may take over that then holds the same.
    """

    __slots__ = ("address", "reference")

    def __init__(self, value: object) -> None:
        self.address = id(value)
        self.reference: weakref.ref[Any] | type
        try:
            self.reference = weakref.ref(value)
        except TypeError:
            self.reference = type(value)

    def __hash__(self) -> int:
        return self.address

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or self.address != other.address:
            return False
        if self.reference is other.reference:
            return True
        if isinstance(self.reference, type) or isinstance(other.reference, type):
            return False
        value = self.reference()
        return value is not None and value is other.reference()


def _tensor(value: Tensor) -> Hashable:
    return (_Same(value), value.shape, value.dtype, value.device)


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
            return _tensor(value)
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
_TABLES = {
    name for name, held in vars(nn.Module()).items() if isinstance(held, Mapping | set)
} - _NOT_LOOKED_AT


def structure_of(network: nn.Module) -> dict[_Path, Hashable]:
    """Everything that a recorded graph depends on, except the weights' values.

    That is the same modules with the same attributes, what these hold in containers, objects,
    functions and closures, the same hooks, and the same tensors, whatever their values.

    Args:
        network: the network.
    """
    found: dict[_Path, Hashable] = {}
    kinds: dict[type, Hashable] = {}
    tables_and_rest: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for name, module in module_tree.named_modules(network):
        kind = type(module)
        if kind not in kinds:
            kinds[kind] = (_Same(kind), _described(getattr(kind, "forward", None)))
        found[name, "class"] = kinds[kind]
        held_by = vars(module)
        names = tuple(held_by)
        if names not in tables_and_rest:  # most modules of a class have the same
            looked_at = [each for each in names if each not in _NOT_LOOKED_AT]
            tables = [each for each in looked_at if each in _TABLES]
            tables_and_rest[names] = tables, [each for each in looked_at if each not in _TABLES]
        tables, rest = tables_and_rest[names]
        waiting: list[tuple[str, Any]] = []
        for attribute in rest:
            value: Any = held_by.get(attribute)
            held = type(value)
            if held in _PLAIN_CLASSES or (held is tuple and _is_plain(value)):
                found[name, attribute] = value
            elif held is list and _is_plain(value):
                found[name, attribute] = (list, *value)
            else:
                waiting.append((attribute, value))
        for attribute in tables:
            # No hooks, no tensors: most of what a module holds.
            if (value := held_by.get(attribute)) or value is None:
                waiting.append((attribute, value))
        for attribute, value in waiting:
            if attribute in ("_parameters", "_buffers") and value is not None:
                for key, tensor in list(value.items()):
                    plain = isinstance(tensor, Tensor)
                    found[name, key] = _tensor(tensor) if plain else _described(tensor)
            elif attribute.endswith(_HOOKS):
                if value and (others := _hooks_of_others(held_by, attribute, value)):
                    found[name, attribute] = _described(others)
            else:
                found[name, attribute] = _described(value)
    return found


def _is_plain(values: Iterable[Any]) -> bool:
    return _PLAIN_CLASSES.issuperset(map(type, values))


def _hooks_of_others(held_by: Mapping[str, Any], attribute: str, value: Any) -> Any:
    """A module's hooks without those of this package, which other threads may have set just now."""
    if not isinstance(value, Mapping):
        return value
    # Beside the hooks are kept the numbers of those that take keyword arguments, and the like.
    table = attribute.removesuffix("_with_kwargs").removesuffix("_always_called")
    own = {
        number
        for number, hook in list((held_by.get(table) or {}).items())
        if getattr(hook, OWN_HOOK, False)
    }
    return {number: hook for number, hook in list(value.items()) if number not in own}


class StructureWatch:
    """One network's structure, without what its own forward pass writes.

    A forward pass that keeps its last features, or counts its calls, changes attributes each time
    that it runs. What is seen to change while it runs is not a change by the caller.

    Several threads may use it. It does not keep the network alive, nor what the network holds.
    """

    def __init__(self, network: nn.Module) -> None:
        """Look at nothing yet."""
        self._network = weakref.ref(network)
        self._free = threading.RLock()
        self._written: set[_Path] = set()
        self._now: dict[_Path, Hashable] = {}  # as it was looked at last
        self._looked = False  # whether `_now` was looked at after a forward pass of this call
        # Whether a forward pass left everything as the one before: then one look after it suffices.
        self._settled = False
        self._call: weakref.ref[Any] | None = None
        # Those seen lately, each with its number, the last one last.
        self._seen: OrderedDict[int, dict[_Path, Hashable]] = OrderedDict()
        self._numbers = 0

    def _look(self) -> dict[_Path, Hashable]:
        network = self._network()
        assert network is not None, "the network is gone"
        found = structure_of(network)
        for path in self._written:
            found.pop(path, None)
        return found

    @contextmanager
    def running(self) -> Iterator[None]:
        """Around a forward pass: what changes inside is what the network writes itself."""
        with self._free:
            settled = self._settled
            before = self._now if settled else self._look()
        try:
            yield
        finally:
            with self._free:
                now = self._look()
                if settled:
                    # A difference is taken for the caller's change. If it was the network's after
                    # all, the next call, which looks before its forward pass as well, will see.
                    self._settled = now == before
                else:
                    self._ignore({p for p in before.keys() | now.keys() if _differ(before, now, p)})
                    self._settled = True
                self._now, self._looked, self._call = now, True, None
                for path in self._written:
                    now.pop(path, None)

    def _ignore(self, paths: set[_Path]) -> None:
        """Take paths out of all that was seen: the network writes them itself."""
        self._written |= paths
        for structure in self._seen.values():
            for path in paths:
                structure.pop(path, None)

    def key(self, call: object = None) -> Hashable:
        """Equal as long as the structure is.

        Args:
            call: what stands for the call of the caller, during which the network does not change:
                it is looked at once for each, or not at all where `running` has just done so. None
                looks now.
        """
        with self._free:
            if call is None or self._call is None or call is not self._call():
                if call is None or not self._looked:
                    self._now = self._look()
                self._looked = False
                self._call = None if call is None else weakref.ref(call)
            return self._number_of_now()

    def _number_of_now(self) -> int:
        now = self._now
        for number in reversed(self._seen):
            if self._seen[number] is now or self._seen[number] == now:
                self._now = self._seen[number]  # so that it is not compared again
                self._seen.move_to_end(number)
                return number
        self._numbers += 1
        self._seen[self._numbers] = now
        while len(self._seen) > STRUCTURES_KEPT:
            self._seen.popitem(last=False)
        return self._numbers


def _differ(one: Mapping[_Path, Hashable], other: Mapping[_Path, Hashable], path: _Path) -> bool:
    return path not in one or path not in other or one[path] != other[path]


def weights_versions(network: nn.Module) -> Hashable:
    """The identities and version counters of a network's parameters; no value is read."""
    return tuple((id(p), p._version) for p in module_tree.parameters(network))


def weights_digest(network: nn.Module, constants: Sequence[Tensor] = ()) -> tuple[object, ...]:
    """The weights' addresses and version counters, and a sum over each thousand of their values.

    The sums notice writes that PyTorch does not count, through `.data` for instance. Each value has
    a random weight of its own in its sum, so that neither permutations nor changes that cancel in
    a plain sum are missed. All is read once. It synchronises with the device once.

    Args:
        network: the network.
        constants: tensors that are no parameters or buffers of it, but that its forward pass reads.
    """
    tensors = [*module_tree.tensors(network), *constants]
    identities = tuple((t.data_ptr(), t._version, t.shape, t.dtype) for t in tensors)
    kinds: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            kinds.setdefault((tensor.device, tensor.dtype), []).append(tensor)
    by_device: dict[torch.device, list[Tensor]] = {}
    with torch.no_grad():
        for (device, _), group in kinds.items():
            weights = _weights_of_sums().to(device)
            for part in _in_parts(group):
                by_device.setdefault(device, []).extend(_sums(part, weights))
        values = [torch.cat(sums).cpu().numpy().tobytes() for sums in by_device.values()]
    return (identities, *values)  # as bytes, so that a NaN equals itself


def _in_parts(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """All values in one dimension, small tensors joined: a call for each takes longer than it."""
    joined: list[Tensor] = []
    waiting = 0
    for tensor in tensors:
        size = tensor.numel()
        if size >= JOINED:
            yield tensor.reshape(-1)
            continue
        joined.append(tensor.reshape(-1))
        waiting += size
        if waiting >= JOINED:
            yield torch.cat(joined)
            joined, waiting = [], 0
    if joined:
        yield torch.cat(joined)


@functools.cache
def _weights_of_sums() -> Tensor:
    """(SUMMED,) from 0.5 to 1.5, float32; the same in every process."""
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        return torch.rand(SUMMED, generator=generator, dtype=torch.float32) + 0.5


def _sums(values: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """Of each `SUMMED` values the weighted sum; float32."""
    whole = len(values) // SUMMED * SUMMED
    for part in (values[:whole].view(-1, SUMMED), values[None, whole:]):
        if part.numel():
            part, own = part.float(), weights[: part.shape[1]]
            # A matrix product on CUDA may take TF32, in which small changes are lost.
            yield (part * own).sum(1) if part.is_cuda else part @ own


def constants_of(recorded: nn.Module, network: nn.Module) -> list[Tensor]:
    """The tensors that a recording met and that are not the network's parameters or buffers.

    Args:
        recorded: the recorded graph, which holds every tensor that it reads.
        network: the network.
    """
    own = {id(t) for t in _tensors_of(network)}
    return [t for t in _tensors_of(recorded) if id(t) not in own]


def release_weights(recorded: nn.Module, network: nn.Module) -> dict[str, str]:
    """Take the network's parameters and buffers out of a recording, which is to be kept.

    A parameter's hooks may refer to the network, or to its optimiser.

    Args:
        recorded: the recorded graph; its attributes are deleted.
        network: the network.

    Returns:
        From the name of each deleted attribute to that of the network's tensor.
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    names = {id(tensor): name for name, tensor in named}
    held = [*recorded.named_parameters(), *recorded.named_buffers()]
    released = {name: names[id(tensor)] for name, tensor in held if id(tensor) in names}
    for name in released:
        delattr(recorded, name)
    return released


@contextmanager
def with_weights(
    recorded: nn.Module, network: nn.Module, released: Mapping[str, str]
) -> Iterator[None]:
    """A recording with the network's tensors as they are now, inside the block.

    Args:
        recorded: the recorded graph, after `release_weights`.
        network: the network.
        released: what that returned.
    """
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, of_network in released.items():
        setattr(recorded, name, tensors[of_network])
    try:
        yield
    finally:
        for name in released:
            delattr(recorded, name)


def _tensors_of(module: nn.Module) -> Iterable[Tensor]:
    return [*module.parameters(), *module.buffers()]
