"""Φ as a function of the images, and the layer of the network that it is read at."""

from __future__ import annotations

import difflib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import SourceLayerError
from sign_ext.network_state import OWN_HOOK

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DEEPEST = 5  # containers in containers, in the output of a network
LAST_NAMES = 5  # that a message lists: Φ is near the end of a network


@dataclass(frozen=True)
class SourceLayer:
    """Where Φ is read: at the input or the output of the module called `name`.

    `side` "logits" is the output of a module, by default the whole network, whose cotangent an
    objective makes.
    """

    name: str
    side: str  # "input" (found automatically), "output" (asked for by name) or "logits"
    kind: str  # the module's class and size, to be printed

    @property
    def by_objective(self) -> bool:
        """Whether the cotangent there is made in each step, by an objective, instead of ones."""
        return self.side == "logits"

    def __str__(self) -> str:
        """One phrase for reports."""
        return f"the {self.side} of {self.name or 'the model'!r} ({self.kind})"


class Phi:
    """Φ as a function from images (N, ...) to its source layer's values; nothing after is computed.

    Args:
        model: the network.
        source: where to read Φ, from `find_source_layer` or by name.
        kwargs: what else the network is given, for the images that Φ will be called with.
    """

    def __init__(
        self, model: nn.Module, source: SourceLayer, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Hook nothing yet: the network is hooked only while it runs."""
        self.model = model
        self.source = source
        self.kwargs = dict(kwargs or {})
        self._module = model.get_submodule(source.name)

    def __call__(self, images: Tensor) -> Tensor:
        """Φ(images)."""
        if self.source.by_objective and not self.source.name:
            return _logits(self.model(images, **self.kwargs), str(self.source))

        @in_this_thread
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _Reached(args[0] if args else next(iter(kwargs.values()), None))

        @in_this_thread
        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            raise _Reached(output)

        if self.source.side == "input":
            handle = self._module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = self._module.register_forward_hook(after)
        try:
            self.model(images, **self.kwargs)
        except _Reached as reached:
            found = _logits if self.source.by_objective else _tensor
            return found(reached.value, str(self.source))
        finally:
            handle.remove()
        raise SourceLayerError(
            f"{self.source.name!r} did not run in a forward pass of this "
            f"{type(self.model).__name__}: pass layer=NAME of a module that does"
        )


def output_layer(model: nn.Module, layer: str | None = None) -> SourceLayer:
    """The output that an objective reads: that of the module called `layer`, or the network's.

    Args:
        model: the network.
        layer: a module's name, or None.

    Raises:
        ValueError: there is no such module.
    """
    if layer is not None:
        check_layer_name(model, layer)
    name = layer or ""
    return SourceLayer(name, "logits", kind_of(model.get_submodule(name)))


def named_source_layer(model: nn.Module, layer: str) -> SourceLayer:
    """The output of the module called `layer`; ValueError if there is none."""
    check_layer_name(model, layer)
    return SourceLayer(layer, "output", kind_of(model.get_submodule(layer)))


def guess_source_layer(model: nn.Module) -> SourceLayer | None:
    """The last registered classifier, without running the model: to be shown, never to be used."""
    names = [name for name, module in model.named_modules() if is_classifier(module)]
    if not names:
        return None
    return SourceLayer(names[-1], "input", kind_of(model.get_submodule(names[-1])))


def is_classifier(module: nn.Module) -> bool:
    """Whether a module can be the final classifier: a Linear, or a convolution of kernel 1."""
    if isinstance(module, CONVOLUTIONS):
        return all(k == 1 for k in module.kernel_size)
    return isinstance(module, nn.Linear)


def check_layer_name(model: nn.Module, layer: str) -> None:
    """Raise ValueError, with the closest names, unless `model` has a module called `layer`."""
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return
    close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4)
    hint = f"; the closest are {', '.join(map(repr, close))}" if close else ""
    raise ValueError(
        f"layer {layer!r} is not a module of this {type(model).__name__}{hint}. "
        f"Its {len(names)} names end with {', '.join(names[-LAST_NAMES:])}; "
        "model.named_modules() gives all in Python"
    )


def in_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, skipped in other threads, which may be running the same network."""
    owner = threading.get_ident()

    @functools.wraps(hook)
    def own_thread_only(*args: Any) -> None:
        if threading.get_ident() == owner:
            hook(*args)

    setattr(own_thread_only, OWN_HOOK, True)
    return own_thread_only


class _Reached(Exception):
    """Raised by a hook once Φ is computed, to leave the forward pass."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _tensor(value: Any, where: str) -> Tensor:
    """The one tensor of a layer's input or output."""
    while isinstance(value, tuple | list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Tensor):
        raise SourceLayerError(
            f"{where} is a {type(value).__name__}, not one tensor: pass layer=NAME of a module "
            "whose output is a single tensor"
        )
    return value


def _logits(value: Any, where: str) -> Tensor:
    """A network's output that an objective reads: its one tensor, or what it calls logits."""
    if isinstance(value, Tensor):
        return value
    logits = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    tensors = [tensor for tensor in tensors_in(value) if tensor.is_floating_point()]
    if len(tensors) == 1:
        return tensors[0]
    raise SourceLayerError(
        f"{where} are a {type(value).__name__} with {len(tensors)} tensors, and an objective reads "
        "one: pass layer=NAME of the module whose output it is to read"
    )


def tensors_in(value: Any, depth: int = 0) -> list[Tensor]:
    """The tensors in an output: in containers, dataclasses and plain objects."""
    if isinstance(value, Tensor):
        return [value]
    if depth == _DEEPEST or isinstance(value, str | bytes | type | nn.Module) or callable(value):
        return []
    items: list[Any] = []
    if isinstance(value, Mapping):
        items = list(value.values())
    elif isinstance(value, Sequence | Set):
        items = list(value)
    elif not isinstance(value, torch.dtype | torch.device | torch.Size):
        slots = [slot for kind in type(value).__mro__ for slot in getattr(kind, "__slots__", ())]
        items = [*getattr(value, "__dict__", {}).values()]
        items += [getattr(value, slot, None) for slot in slots]
    return [tensor for item in items for tensor in tensors_in(item, depth + 1)]


def kind_of(module: nn.Module) -> str:
    """A module's class and size, to be printed."""
    for before, after in (("in_features", "out_features"), ("in_channels", "out_channels")):
        if hasattr(module, before) and hasattr(module, after):
            name = type(module).__name__.removeprefix("Parametrized")
            return f"{name} {getattr(module, before)} → {getattr(module, after)}"
    return type(module).__name__
