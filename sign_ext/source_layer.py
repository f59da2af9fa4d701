"""Φ, "the output of the last layer (before the logits)" of the paper's Section 3: found and called.

By default Φ is the *input* of the network's final classifier (a Linear, or a convolution with a
1×1 kernel). `layer=NAME` makes Φ that module's *output*. What comes after Φ is not computed.
"""

from __future__ import annotations

import difflib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import SourceLayerError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Parts of the names of autograd's nodes that only change a shape: what made Φ comes before them.
_SHAPE_ONLY = ("View", "Reshape", "UnsafeView", "Clone", "Alias", "Squeeze", "Unsqueeze", "Select")


@dataclass(frozen=True)
class SourceLayer:
    """Where Φ is read: at the input or the output of the module called `name`."""

    name: str
    side: str  # "input" (found automatically) or "output" (asked for by name)
    kind: str  # the module's class and size, to be printed

    def __str__(self) -> str:
        """One phrase for reports."""
        return f"the {self.side} of {self.name or 'the model'!r} ({self.kind})"


class Phi:
    """Φ as a function from images (N, ...) to its source layer's values; nothing after is computed.

    Args:
        model: the network.
        source: where to read Φ, from `find_source_layer` or by name.
    """

    def __init__(self, model: nn.Module, source: SourceLayer) -> None:
        """Hook nothing yet: the network is hooked only while it runs."""
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


def find_source_layer(model: nn.Module, images: Tensor) -> SourceLayer:
    """The input of the final classifier, the last layer with weights before the output.

    One forward pass runs with hooks on every module that owns parameters. Autograd's graph, walked
    back from the output, then shows which of them comes first. Dropout, pooling, activations and
    reshapes have no parameters and may come before or after the classifier. Several heads on the
    same features count as one classifier.

    Args:
        model: the network, frozen and in evaluation mode.
        images: a small batch (N, ...) to run it on.

    Returns:
        The layer, with `side` "input".

    Raises:
        SourceLayerError: the last layer with weights is not a classifier, or there are several
            that read different features; the message names them and asks for `layer`.
    """
    produced: dict[Any, str] = {}
    inputs: dict[str, Any] = {}
    calls: dict[str, int] = {}
    handles = []

    def watch(name: str) -> Callable[..., None]:
        @in_this_thread
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            inputs.setdefault(name, args[0] if args else next(iter(kwargs.values()), None))
            for tensor in _tensors(output):
                if tensor.grad_fn is not None:
                    produced.setdefault(tensor.grad_fn, name)

        return hook

    for name, module in model.named_modules():
        if is_classifier(module) or next(module.parameters(recurse=False), None) is not None:
            handles.append(module.register_forward_hook(watch(name), with_kwargs=True))
    try:
        with torch.enable_grad():
            output = model(images.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()

    last_of_each = [found for t in _tensors(output) if (found := _last_weighted(t, produced))]
    heads = [
        found for found in last_of_each if all(is_classifier(model.get_submodule(n)) for n in found)
    ]
    names = [name for name in inputs if any(name in found for found in heads)]
    ask = "pass layer=NAME to make Φ that module's output"
    if not names:
        last = sorted({name for found in last_of_each for name in found})
        shown = ", ".join(f"{n or 'the model'!r} ({_kind(model.get_submodule(n))})" for n in last)
        raise SourceLayerError(
            "no final classifier (a Linear or a 1×1 convolution) ends this "
            f"{type(model).__name__}; its last layer with weights is {shown or 'not there'}: {ask}"
        )
    if any(calls[name] > 1 for name in names) or any(
        inputs[name] is not inputs[names[0]] for name in names
    ):
        raise SourceLayerError(
            f"several classifiers read different features ({', '.join(map(repr, names))}): {ask}"
        )
    return SourceLayer(names[0], "input", _kind(model.get_submodule(names[0])))


def named_source_layer(model: nn.Module, layer: str) -> SourceLayer:
    """The output of the module called `layer`; ValueError if there is none."""
    check_layer_name(model, layer)
    return SourceLayer(layer, "output", _kind(model.get_submodule(layer)))


def guess_source_layer(model: nn.Module) -> SourceLayer | None:
    """The last registered classifier, without running the model: to be shown, never to be used."""
    names = [name for name, module in model.named_modules() if is_classifier(module)]
    return SourceLayer(names[-1], "input", _kind(model.get_submodule(names[-1]))) if names else None


def check_source(model: nn.Module, source: SourceLayer, images: Tensor) -> bool:
    """Refuse a Φ that SIGN cannot use, and say whether its sum varies at all.

    Args:
        model: the network, frozen and in evaluation mode.
        source: the layer to check.
        images: a small batch (N, ...).

    Returns:
        False if Σ_a ∂Φ^a/∂x is negligible next to the gradients of single outputs, as after a
        final LayerNorm, whose outputs have a constant sum.

    Raises:
        SourceLayerError: Φ is a (log-)softmax, is computed several times in a forward pass, or
            has no gradient to the images.
    """
    if source.side == "output" and (calls := _calls_of(model, source.name, images)) > 1:
        raise SourceLayerError(
            f"layer {source.name!r} runs {calls} times in a forward pass, so its output is not one "
            "Φ: name a module that runs once, its parent for instance"
        )
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        value = Phi(model, source)(x)
        if "Softmax" in _producer(value):
            raise SourceLayerError(
                f"{source} is a softmax: its outputs are normalised to a constant total, so their "
                "sum says nothing about the image. Name the layer before it"
            )
        if value.grad_fn is None or not value.is_floating_point():
            raise SourceLayerError(f"{source} has no gradient to the images: name another layer")
        # A sum with random signs shows how large gradients are where they do not cancel.
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
        (mixed,) = torch.autograd.grad(value, x, signs, retain_graph=True, allow_unused=True)
        if mixed is None:
            raise SourceLayerError(f"{source} has no gradient to the images: name another layer")
        (ones,) = torch.autograd.grad(value, x, torch.ones_like(value))
    return bool(ones.double().norm() > 1e-5 * mixed.double().norm()) or not bool(mixed.any())


def check_layer_name(model: nn.Module, layer: str) -> None:
    """Raise ValueError, with the closest names, unless `model` has a module called `layer`."""
    names = [name for name, _ in model.named_modules() if name]
    if layer in names:
        return
    close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4)
    hint = f"; the closest are {', '.join(map(repr, close))}" if close else ""
    raise ValueError(
        f"layer {layer!r} is not a module of this {type(model).__name__}{hint}. "
        f"model.named_modules() lists all {len(names)} names"
    )


def is_classifier(module: nn.Module) -> bool:
    """Whether a module can be the final classifier: a Linear, or a convolution of kernel 1."""
    if isinstance(module, _CONVOLUTIONS):
        return all(k == 1 for k in module.kernel_size)
    return isinstance(module, nn.Linear)


def in_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, skipped in other threads, which may be running the same network."""
    owner = threading.get_ident()

    @functools.wraps(hook)
    def own_thread_only(*args: Any) -> None:
        if threading.get_ident() == owner:
            hook(*args)

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


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _kind(module: nn.Module) -> str:
    sizes = {
        ("in_features", "out_features"),
        ("in_channels", "out_channels"),
    }
    for before, after in sizes:
        if hasattr(module, before) and hasattr(module, after):
            name = type(module).__name__.removeprefix("Parametrized")
            return f"{name} {getattr(module, before)} → {getattr(module, after)}"
    return type(module).__name__


def _last_weighted(output: Tensor, produced: dict[Any, str]) -> set[str]:
    """The modules that come first on the way back from `output` through autograd's graph.

    Args:
        output: of the network.
        produced: autograd's node of a module's output → the module's name.
    """
    found: set[str] = set()
    seen: set[Any] = set()
    todo = [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in produced:
            found.add(produced[node])
        else:
            todo.extend(parent for parent, _ in node.next_functions)
    return found


def _producer(phi: Tensor) -> str:
    """The operation that made Φ, reshapes left out."""
    node = phi.grad_fn
    while node is not None and any(word in type(node).__name__ for word in _SHAPE_ONLY):
        node = node.next_functions[0][0]
    return type(node).__name__


def _calls_of(model: nn.Module, name: str, images: Tensor) -> int:
    calls = 0

    @in_this_thread
    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = model.get_submodule(name).register_forward_hook(count)
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return calls
