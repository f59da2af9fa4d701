"""Φ as a function: the network up to its source layer, and nothing after it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sign_ext.errors import SourceLayerError


@dataclass(frozen=True)
class SourceLayer:
    """Where Φ is read: at the input or the output of the module called `name`."""

    name: str
    side: str  # "input" (found automatically) or "output" (asked for by name)
    kind: str  # the module's class and size, for people

    def __str__(self) -> str:
        """One phrase for reports."""
        return f"the {self.side} of {self.name or 'the model'!r} ({self.kind})"


class _Reached(Exception):
    """Φ has been computed: leave the forward pass."""

    def __init__(self, value: Any) -> None:
        self.value = value


def in_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The same hook, silent in other threads: they may be running the same network."""
    owner = threading.get_ident()

    @functools.wraps(hook)
    def mine(*args: Any) -> None:
        if threading.get_ident() == owner:
            hook(*args)

    return mine


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


class Phi:
    """Φ as a function from images (N, ...) to its source layer's values; nothing after is computed.

    Args:
        model: the network.
        source: where to read Φ, from `find_source_layer` or by name.
    """

    def __init__(self, model: nn.Module, source: SourceLayer) -> None:
        """Remember where to stop; the network is hooked only while it runs."""
        self.model = model
        self.source = source
        self._module = model.get_submodule(source.name)

    def __call__(self, images: Tensor) -> Tensor:
        """Φ(images)."""

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
            self.model(images)
        except _Reached as reached:
            return _tensor(reached.value, str(self.source))
        finally:
            handle.remove()
        raise SourceLayerError(
            f"{self.source.name!r} did not run in a forward pass of this "
            f"{type(self.model).__name__}: pass layer=NAME of a module that does"
        )
