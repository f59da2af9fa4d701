"""Φ, "the output of the last layer (before the logits)" of the paper's Section 3: found and called.

By default Φ is the *input* of the network's final classifier (a Linear, or a convolution with a
1×1 kernel). `layer=NAME` makes Φ that module's *output*. What comes after Φ is not computed.
"""

from __future__ import annotations

import difflib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import SourceLayerError
from sign_ext.model_inputs import ModelInputs
from sign_ext.network_state import OWN_HOOK

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_DEEPEST = 5  # containers in containers, in the output of a network
# The beginnings of the names of autograd's nodes of products: layers, wherever they are called.
_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Mv", "Convolution", "Linear")
_NO_CLASSIFIERS = (
    *_CONVOLUTIONS,
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
)
_LONGEST_TRAIL = 64  # operations between Φ and the network's output
_REENTRANT = (
    "{} uses torch.utils.checkpoint with use_reentrant=True, through which torch.autograd.grad "
    "cannot pass: use use_reentrant=False, or switch checkpointing off for SIGN, which does not "
    "need it (model.gradient_checkpointing_disable() in transformers)"
)
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
            return _tensor(reached.value, str(self.source))
        finally:
            handle.remove()
        raise SourceLayerError(
            f"{self.source.name!r} did not run in a forward pass of this "
            f"{type(self.model).__name__}: pass layer=NAME of a module that does"
        )


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
    with ran.watching(), torch.enable_grad(), _batched(model, images):
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
    source = SourceLayer(names[0], "input", _kind(model.get_submodule(names[0])))
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
        return _REENTRANT.format(f"this {network}")
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
    shown = ", ".join(f"{n or 'the model'!r} ({_kind(model.get_submodule(n))})" for n in last)
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


def named_source_layer(model: nn.Module, layer: str) -> SourceLayer:
    """The output of the module called `layer`; ValueError if there is none."""
    check_layer_name(model, layer)
    return SourceLayer(layer, "output", _kind(model.get_submodule(layer)))


def guess_source_layer(model: nn.Module) -> SourceLayer | None:
    """The last registered classifier, without running the model: to be shown, never to be used."""
    names = [name for name, module in model.named_modules() if is_classifier(module)]
    return SourceLayer(names[-1], "input", _kind(model.get_submodule(names[-1]))) if names else None


def check_source(
    model: nn.Module,
    source: SourceLayer,
    images: Tensor,
    kwargs: Mapping[str, Any] | None = None,
) -> bool:
    """Refuse a Φ that SIGN cannot use, and say whether its sum varies at all.

    Args:
        model: the network, frozen and in evaluation mode.
        source: the layer to check.
        images: a small batch (N, ...).
        kwargs: what else the network is given for these images.

    Returns:
        False if Σ_a ∂Φ^a/∂x is negligible next to the gradients of single outputs, as after a
        final LayerNorm, whose outputs have a constant sum.

    Raises:
        SourceLayerError: Φ is a (log-)softmax, is computed several times in a forward pass, or
            has no gradient to the images.
        ValueError: the network's weights are not finite, or images lack the batch dimension.
    """
    phi = Phi(model, source, kwargs)
    if source.side == "output" and (calls := _calls_of(phi, images)) > 1:
        raise SourceLayerError(
            f"layer {source.name!r} runs {calls} times in a forward pass, so its output is not one "
            "Φ: name a module that runs once, its parent for instance"
        )
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        with _batched(model, images):
            value = phi(x)
        if "Softmax" in _producer(value):
            raise SourceLayerError(
                f"{source} is a softmax: its outputs are normalised to a constant total, so their "
                "sum says nothing about the image. Name the layer before it"
            )
        if value.grad_fn is None or not value.is_floating_point():
            raise SourceLayerError(
                f"{source} has no gradient to the images: name another layer. (Inside of "
                "torch.no_grad(), or torch.utils.checkpoint with use_reentrant=True, none has one)"
            )
        # A sum with random signs shows how large gradients are where they do not cancel.
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
        try:
            (mixed,) = torch.autograd.grad(value, x, signs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise SourceLayerError(_REENTRANT.format(f"this {type(model).__name__}")) from error
        if mixed is None:
            raise SourceLayerError(f"{source} has no gradient to the images: name another layer")
        try:
            (ones,) = torch.autograd.grad(value, x, torch.ones_like(value))
        except RuntimeError:  # FSDP frees the weights after a backward pass
            value = phi(x)
            (ones,) = torch.autograd.grad(value, x, torch.ones_like(value))
    # Φ too: a ReLU's slope at NaN can be 0, and δ finite.
    if not bool(torch.isfinite(value).all() & torch.isfinite(mixed).all()):
        check_weights(model)
        return True  # not by its weights: a step that is not finite says why
    return bool(ones.double().norm() > 1e-5 * mixed.double().norm()) or not bool(mixed.any())


def check_inputs(model: nn.Module, source: SourceLayer, image: Tensor, inputs: ModelInputs) -> None:
    """Refuse further inputs that are not split among the images as the network needs them.

    Args:
        model: the network, frozen and in evaluation mode.
        source: where Φ is read.
        image: the first of the call's, (1, ...).
        inputs: the call's.

    Raises:
        ValueError: Φ of one image has several rows, as from a tensor of the wrong length; or a
            tensor with a row for each image could as well be meant for all of them.
    """
    if not inputs:
        return
    with torch.no_grad():
        alone = Phi(model, source, inputs[:1])(image)
        rows, suspects = len(alone) if alone.dim() else 1, inputs.suspects()
        sequence_first = alone.dim() > 2 and alone.shape[1] == 1
        if rows > 1 and not sequence_first and (suspects or rows == inputs.images):
            lists = "what belongs to single images must be a tensor with a row for each of them"
            raise ValueError(
                f"{source} has {rows} rows for one image: {'; '.join(suspects) or lists}"
            )
        if inputs.images == 1:
            return
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
        lively = image + (image.abs().max() + 1) * noise  # the user's may be black
        for place in inputs.per_image:
            if any(_takes_all_rows(model, source, x, inputs, place) for x in (image, lively)):
                raise ValueError(
                    f"{inputs.names[place]} has as many rows as there are images "
                    f"({inputs.images}), and this network takes all of them for one image as well: "
                    "pass sign_ext.Shared(...) around it if it belongs to all images, or one image "
                    "at a time if it has a row for each"
                )


def _takes_all_rows(
    model: nn.Module, source: SourceLayer, image: Tensor, inputs: ModelInputs, place: int
) -> bool:
    """Whether Φ of one image can be had with all rows of a tensor, and is another than with one."""
    try:
        alone = Phi(model, source, inputs[:1])(image)
        together = Phi(model, source, inputs.with_whole(place, slice(0, 1)))(image)
    except Exception:  # the network's own: it needs a row for each image
        return False
    alone, together = alone.nan_to_num(), together.nan_to_num()  # a NaN equals itself
    return together.shape == alone.shape and not torch.equal(together, alone)


def check_weights(model: nn.Module) -> None:
    """Raise ValueError if a parameter holds NaN or Inf, or a buffer NaN (Inf may be a mask)."""
    bad = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        is_weight = isinstance(tensor, nn.Parameter)
        wrong = ~torch.isfinite(tensor) if is_weight else torch.isnan(tensor)
        if count := int(wrong.sum()):
            bad.append((name, count, tensor.numel()))
    if bad:
        name, count, of = bad[0]
        more = f" (and {len(bad) - 1} more parameters or buffers do)" if len(bad) > 1 else ""
        raise ValueError(
            f"the model's {name!r} holds NaN or Inf in {count:,} of {of:,} values{more}, so Φ is "
            "not finite: load weights from before training diverged, or find what wrote them"
        )


LAST_NAMES = 5  # that a message lists: Φ is near the end of a network


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


def is_classifier(module: nn.Module) -> bool:
    """Whether a module can be the final classifier: a Linear, or a convolution of kernel 1."""
    if isinstance(module, _CONVOLUTIONS):
        return all(k == 1 for k in module.kernel_size)
    return isinstance(module, nn.Linear)


def _has_weights(module: nn.Module) -> bool:
    return is_classifier(module) or next(module.parameters(recurse=False), None) is not None


def in_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, skipped in other threads, which may be running the same network."""
    owner = threading.get_ident()

    @functools.wraps(hook)
    def own_thread_only(*args: Any) -> None:
        if threading.get_ident() == owner:
            hook(*args)

    setattr(own_thread_only, OWN_HOOK, True)
    return own_thread_only


@contextmanager
def _batched(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Refuse, while the block runs the network, a convolution that takes the batch for channels.

    PyTorch's convolutions accept one sample without a batch dimension, so that an image (C, H, W)
    among networks for (N, C, H, W) would be taken for a batch of C rows.

    Raises:
        ValueError: images lack the batch dimension.
    """

    @in_this_thread
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.dim() == images.dim():
            wanted = "(N, C, H, W)" if spatial is nn.Conv2d else "(N, C, D, H, W)"
            raise ValueError(
                f"images of {images.dim()} dimensions do not fit the {type(module).__name__} layers"
                f" of this network, which take {wanted}; for one image add the batch dimension: "
                "images[None]"
            )

    # The convolution of one rank more than the images have.
    spatial = {3: nn.Conv2d, 4: nn.Conv3d}.get(images.dim())
    found = [m for m in model.modules() if isinstance(m, spatial)] if spatial else []
    handles = [module.register_forward_pre_hook(hook) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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


def _producer(phi: Tensor) -> str:
    """The operation that made Φ, reshapes left out."""
    node = phi.grad_fn
    while node is not None and any(word in type(node).__name__ for word in _SHAPE_ONLY):
        node = node.next_functions[0][0]
    return type(node).__name__


def _calls_of(phi: Phi, images: Tensor) -> int:
    calls = 0

    @in_this_thread
    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = phi.model.get_submodule(phi.source.name).register_forward_hook(count)
    try:
        with torch.no_grad(), _batched(phi.model, images):
            phi.model(images, **phi.kwargs)
    finally:
        handle.remove()
    return calls
