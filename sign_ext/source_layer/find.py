"""The final classifier, found in one forward pass: its input is Φ unless the user names a layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction

from sign_ext.errors import SourceLayerError
from sign_ext.source_layer.phi import (
    CONVOLUTIONS,
    SourceLayer,
    in_this_thread,
    is_classifier,
    kind_of,
    tensors_in,
)
from sign_ext.source_layer.refusals import REENTRANT, batched

# The beginnings of the names of autograd's nodes of products: layers, wherever they are called.
_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Convolution", "Linear")
_NO_CLASSIFIERS = (
    *CONVOLUTIONS,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)
_LONGEST_TRAIL = 64  # operations between Φ and the network's output
# The names of the nodes that PyTorch derives for its own operations. What writes into a view is not
# among them: its node hides another one.
_OF_PYTORCH = re.compile(r"[A-Z]\w*Backward\d+|torch::autograd::AccumulateGrad")


def find_source_layer(
    model: nn.Module, images: Tensor, kwargs: Mapping[str, Any] | None = None
) -> SourceLayer:
    """The input of the final classifier, the last layer with weights before the output.

    One forward pass runs with hooks on every module that owns parameters. Autograd's graph, walked
    back from the output, then shows which of them comes first. Dropout, pooling, activations and
    reshapes have no parameters and may come before or after the classifier. Several heads on the
    same features count as one classifier.

    Args:
        model: the network, frozen and in evaluation mode.
        images: a small batch (N, ...) to run it on.
        kwargs: what else the network is given for these images.

    Returns:
        The layer, with `side` "input".

    Raises:
        SourceLayerError: the last layer with weights is not a classifier, or there are several
            that read different features; the message names them and asks for `layer`.
    """
    return find_with_trail(model, images, kwargs)[0]


def find_with_trail(
    model: nn.Module, images: Tensor, kwargs: Mapping[str, Any] | None = None
) -> tuple[SourceLayer, tuple[str, ...] | None]:
    """The same layer, and the trail that leads to it from the network's output.

    Args:
        model: as for `find_source_layer`.
        images: as for `find_source_layer`.
        kwargs: as for `find_source_layer`.

    Returns:
        The layer, and what `trail_to` gives for it.

    Raises:
        SourceLayerError: as `find_source_layer`.
    """
    ran = _Run(model)
    with ran.watching(), torch.enable_grad(), batched(model, images):
        output = model(images.detach().requires_grad_(), **(kwargs or {}))
    tensors = [t for t in tensors_in(output) if t.is_floating_point()]
    last_of_each = [found for t in tensors if (found := ran.last_weighted(t))]
    heads = [head for found in last_of_each if (head := ran.classifiers(found))]
    names = [name for name in ran.inputs if any(name in head for head in heads)]
    ask = "pass layer=NAME to make Φ that module's output"
    if not names:
        raise SourceLayerError(_no_classifier(ran, tensors, last_of_each, ask))
    if any(ran.calls[name] > 1 for name in names) or any(
        ran.inputs[name] is not ran.inputs[names[0]] for name in names
    ):
        raise SourceLayerError(
            f"several classifiers read different features ({', '.join(map(repr, names))})"
            f"{_fed_by(ran, names)}: {ask}"
        )
    source = SourceLayer(names[0], "input", kind_of(model.get_submodule(names[0])))
    phi = ran.inputs[names[0]]
    return source, trail_to(phi.grad_fn, output) if isinstance(phi, Tensor) else None


def trail_to(phi: Any, output: Any) -> tuple[str, ...] | None:
    """The nodes of autograd's graph between a network's output and Φ, breadth first.

    Args:
        phi: the node of Φ.
        output: the network's output.

    Returns:
        Their names; None where there is no way from output to Φ, or a long one.
    """
    todo = [tensor.grad_fn for tensor in tensors_in(output) if tensor.grad_fn is not None]
    names: list[str] = []
    seen: set[Any] = set()
    reached = False
    for node in todo:  # which grows on the way
        if node in seen:
            continue
        seen.add(node)
        if node is phi:
            reached = True
            continue
        names.append(node.name())
        if len(names) > _LONGEST_TRAIL:
            return None
        todo += [parent for parent, _ in node.next_functions if parent is not None]
    return tuple(names) if reached else None


def way_back(node: Any) -> tuple[Hashable, ...] | None:
    """Autograd's graph from a node back to its leaves, breadth first.

    Args:
        node: of a value.

    Returns:
        Each node's name and the places of those before it; None where a node is none of PyTorch's
        own, whose backward pass may do anything.

    Example:
        >>> x = torch.ones(3, requires_grad=True)
        >>> way_back((2 * x).relu().grad_fn)[0]
        ('ReluBackward0', (1, 0))
    """
    if node is None:
        return None
    places = {node: 0}
    todo = [node]
    found: list[Hashable] = []
    for each in todo:  # which grows on the way
        name = each.name()
        if isinstance(each, BackwardCFunction) or not _OF_PYTORCH.fullmatch(name):
            return None
        before: list[tuple[int, int]] = []
        for parent, output in each.next_functions:
            if parent is not None and parent not in places:
                places[parent] = len(todo)
                todo.append(parent)
            before.append((-1 if parent is None else places[parent], output))
        found.append((name, *before))
    return tuple(found)


class _Run:
    """One forward pass: which modules ran, on what, and which part of autograd's graph they made.

    Attributes:
        inputs: name → first argument of its first call, in the order of the calls' ends.
        calls: name → calls.
        weighted: autograd's node of the output of a module with weights → its name.
        made: the same for any module, the innermost.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.inputs: dict[str, Any] = {}
        self.calls: dict[str, int] = {}
        self.weighted: dict[Any, str] = {}
        self.made: dict[Any, str] = {}
        self.reentrant = False  # whether a graph ends at a reentrant checkpoint
        self.no_derivative = False  # whether an operation in the graph has none

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hook every module."""
        handles = [
            module.register_forward_hook(self._watch(name, _has_weights(module)), with_kwargs=True)
            for name, module in self.model.named_modules()
            # A ScriptModule takes no hooks; the products in it are seen all the same.
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str, weighted: bool) -> Callable[..., None]:
        @in_this_thread
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: Any, output: Any) -> None:
            self.calls[name] = self.calls.get(name, 0) + 1
            self.inputs.setdefault(name, args[0] if args else next(iter(kwargs.values()), None))
            for tensor in tensors_in(output):
                if tensor.grad_fn is not None:
                    self.made.setdefault(tensor.grad_fn, name)
                    if weighted:
                        self.weighted.setdefault(tensor.grad_fn, name)

        return hook

    def last_weighted(self, output: Tensor) -> set[str]:
        """The layers with weights that come first on the way back from `output`.

        A module around other layers is looked into: only a product outside of them counts as its
        own layer. A module whose weights are single numbers, a temperature, is passed.
        """
        found: set[str] = set()
        seen: set[Any] = set()
        todo = [(output.grad_fn, "")]
        while todo:
            node, around = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            kind = node.name()
            self.reentrant |= kind.startswith("CheckpointFunction")
            self.no_derivative |= "NotImplemented" in kind
            name = self.weighted.get(node)
            if name is not None and self._is_layer(name):
                found.add(name)
            elif kind.startswith(("CheckpointFunction", *_PRODUCTS)):
                found.add(around if name is None else name)
            else:
                around = around if name is None else name
                todo.extend((parent, around) for parent, _ in node.next_functions)
        return found

    def _is_layer(self, name: str) -> bool:
        module = self.model.get_submodule(name)
        if is_classifier(module):
            return True
        inside = [inner for inner in self.calls if inner.startswith(f"{name}." if name else "")]
        inside = [inner for inner in inside if inner != name]
        if any(_has_weights(self.model.get_submodule(inner)) for inner in inside):
            return False
        return any(tensor.numel() > 1 for tensor in module.parameters(recurse=False))

    def classifiers(self, found: set[str]) -> set[str]:
        """The final classifiers among last layers, or the one module that they make up, or none.

        A module made of several layers, such as an adapter around a Linear, or with weights of its
        own is a classifier if it is an affine map.
        """
        if all(is_classifier(self.model.get_submodule(name)) for name in found) and (
            len({id(self.inputs[name]) for name in found}) == 1
        ):
            return found
        name = _common_parent(found)
        if name and self.calls.get(name) == 1 and self._is_affine(name):
            return {name}
        only_classifiers = all(is_classifier(self.model.get_submodule(name)) for name in found)
        return found if only_classifiers else set()

    def _is_affine(self, name: str) -> bool:
        """Whether a module with a weight matrix maps vectors affinely, tried on random vectors."""
        module, x = self.model.get_submodule(name), self.inputs[name]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return False
        if any(isinstance(m, _NO_CLASSIFIERS) and not is_classifier(m) for m in module.modules()):
            return False
        if not any(p.dim() == 2 for p in module.parameters()):
            return False
        generator = torch.Generator().manual_seed(0)
        a = x.detach()
        b = torch.randn(x.shape, generator=generator).to(x) * a.std(correction=0)
        try:
            with torch.no_grad():
                values = [module(v) for v in (a + b, a, b, torch.zeros_like(a))]
        except Exception:  # it takes more than a tensor
            return False
        if not all(isinstance(value, Tensor) for value in values):
            return False
        both, of_a, of_b, of_zero = (value.double() for value in values)
        size = (both - of_zero).norm()
        tolerance = 1e-2 if x.dtype in (torch.float16, torch.bfloat16) else 1e-4
        return bool((both - of_a - of_b + of_zero).norm() <= tolerance * size)

    def feeding(self, name: str) -> set[str]:
        """The modules, run once, whose outputs a module reads; what is no module is passed."""
        found: set[str] = set()
        seen: set[Any] = set()
        todo = [tensor.grad_fn for tensor in tensors_in(self.inputs.get(name))]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if self.calls.get(self.made.get(node, ""), 0) == 1 and self.made.get(node):
                found.add(self.made[node])
            else:
                todo.extend(parent for parent, _ in node.next_functions)
        return found - {""}


def _common_parent(names: Set[str]) -> str:
    """The innermost module around all of these, which may be one of them; "" for the network."""
    parent: list[str] = []
    for level in zip(*(name.split(".") for name in names), strict=False):
        if len(set(level)) > 1:
            break
        parent.append(level[0])
    return ".".join(parent)


def _fed_by(ran: _Run, names: Sequence[str]) -> str:
    fed = sorted({feeder for name in names for feeder in ran.feeding(name)})
    return f", which {' and '.join(map(repr, fed))} make{'s' if len(fed) == 1 else ''}" * bool(fed)


def _no_classifier(
    ran: _Run, tensors: Sequence[Tensor], last_of_each: Sequence[set[str]], ask: str
) -> str:
    """Why no final classifier was found, and what to do."""
    model, network = ran.model, type(ran.model).__name__
    if ran.reentrant:
        return REENTRANT.format(f"this {network}")
    if ran.no_derivative:
        return (
            f"an operation between the layers of this {network} and its output has no derivative in"
            f" PyTorch, as quantised layers have none: pass the network in floating point, or {ask}"
        )
    if tensors and not any(t.requires_grad for t in tensors):
        how = "torch.inference_mode()" if tensors[0].is_inference() else "torch.no_grad()"
        return (
            f"the output of this {network} has no gradient to the images: its forward pass runs "
            f"under {how}, or detaches what it computes. SIGN needs the gradient: take that out, "
            f"or pass the network inside without it; where only the end is detached, {ask}"
        )
    last = sorted({name for found in last_of_each for name in found})
    shown = ", ".join(f"{n or 'the model'!r} ({kind_of(model.get_submodule(n))})" for n in last)
    message = (
        f"no final classifier (a Linear or a 1×1 convolution) ends this {network}; its last layer "
        f"with weights is {shown or 'not there'}: {ask}"
    )
    if last and (fed := sorted({feeder for name in last for feeder in ran.feeding(name)})):
        message += f"; what it reads is the output of {', '.join(map(repr, fed))}"
    graphs = [
        f"{name or 'the model'!r} ({type(module).__name__})"
        for name, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule)
    ]
    if graphs:
        message += (
            f". Layers inside {graphs[0]} cannot be watched: pass the Python network that it was "
            "made from, torch.export.unflatten(program) of an exported one, or a Sequential of "
            "its features and a plain nn.Linear"
        )
    return message


def _has_weights(module: nn.Module) -> bool:
    return is_classifier(module) or next(module.parameters(recurse=False), None) is not None
