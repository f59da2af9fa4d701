"""Whether SIGN can use a Φ: it has a gradient, one row an image, and finite weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.errors import SourceLayerError
from sign_ext.model_inputs import ModelInputs
from sign_ext.source_layer.phi import Phi, SourceLayer, in_this_thread
from sign_ext.source_layer.refusals import REENTRANT, batched

# Parts of the names of autograd's nodes that only change a shape: what made Φ comes before them.
_SHAPE_ONLY = ("View", "Reshape", "UnsafeView", "Clone", "Alias", "Squeeze", "Unsqueeze", "Select")

# δ over the gradient of outputs that are added with random signs: below these, the sum over Φ is
# constant, or nearly so. In float32 a LayerNorm leaves 1e-7 to 1e-5, in bfloat16 up to 1e-2; an
# ordinary Φ has 0.2 to 10.
CONSTANT = 1e-4
NEARLY_CONSTANT = 0.05


@dataclass(frozen=True)
class SumVariation:
    """How much Σ_a Φ^a varies with the image, next to other combinations of Φ's outputs.

    Attributes:
        ratio: the size of δ over that of the gradient of Φ's outputs added with random signs, half
            of them negative; infinite where the sum is of no interest.
        rounding: the ratio that rounding alone can leave, in the network's dtype.
    """

    ratio: float = math.inf
    rounding: float = CONSTANT

    def __bool__(self) -> bool:
        """Whether δ is more than what rounding leaves."""
        return self.ratio > self.rounding

    def doubt(self, source: SourceLayer, model: nn.Module | None = None) -> str:
        """Say that the sum over Φ is constant, or nearly so, and what to do; else "".

        Args:
            source: where Φ is read.
            model: the network, of which a layer is named that may do instead.

        Example:
            >>> SumVariation(0.3).doubt(SourceLayer("fc", "input", "Linear 8 → 2"))
            ''
        """
        hint = hint_of_layer(model)
        if not self:
            return (
                f"the sum over {source} is constant but for rounding, as after a LayerNorm, so δ "
                f"is negligible and SIGN changes nothing: {hint}"
            )
        if self.ratio >= NEARLY_CONSTANT:
            return ""
        return (
            f"the sum over {source} is nearly constant, as after a LayerNorm whose weights are "
            f"almost equal: δ is only {self.ratio:.2g} times as large as the gradient of the same "
            "outputs added with random signs, so SIGN follows what little differs. Use weights "
            f"that are trained further, or {hint}"
        )


def hint_of_layer(model: nn.Module | None = None) -> str:
    """What to do where the sum over Φ says nothing: the option, with a block of the network.

    Args:
        model: the network; None names no block.

    Example:
        >>> blocks = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4)) for _ in range(3)])
        >>> hint_of_layer(nn.Sequential(blocks, nn.LayerNorm(4)))
        'pass layer=NAME (--layer NAME) of an earlier layer, for example --layer 0.2'
    """
    hint = "pass layer=NAME (--layer NAME) of an earlier layer"
    name = "" if model is None else last_block(model)
    return f"{hint}, for example --layer {name}" if name else hint


def last_block(model: nn.Module) -> str:
    """The name of the last of a network's blocks: modules of one class in a row; "" without any.

    Args:
        model: the network.
    """
    found = ""
    for name, module in model.named_modules():
        blocks = list(module.named_children())
        kinds = {type(block) for _, block in blocks}
        if (
            isinstance(module, nn.Sequential | nn.ModuleList)
            and len(blocks) > 1
            and len(kinds) == 1
            and any(True for _ in blocks[-1][1].children())
        ):
            found = f"{name}.{blocks[-1][0]}".lstrip(".")
    return found


def check_source(
    model: nn.Module,
    source: SourceLayer,
    images: Tensor,
    kwargs: Mapping[str, Any] | None = None,
) -> SumVariation:
    """Refuse a Φ that SIGN cannot use, and say how much its sum varies.

    Args:
        model: the network, frozen and in evaluation mode.
        source: the layer to check.
        images: a small batch (N, ...).
        kwargs: what else the network is given for these images.

    Returns:
        As a bool, False if Σ_a ∂Φ^a/∂x is negligible next to the gradients of single outputs, as
        after a final LayerNorm, whose outputs have a constant sum.

    Raises:
        SourceLayerError: Φ is a (log-)softmax, is computed several times in a forward pass, or
            has no gradient to the images.
        ValueError: the network's weights are not finite, or images lack the batch dimension.
    """
    phi = Phi(model, source, kwargs)
    if source.side != "input" and (calls := _calls_of(phi, images)) > 1:
        raise SourceLayerError(
            f"layer {source.name!r} runs {calls} times in a forward pass, so its output is not one "
            "Φ: name a module that runs once, its parent for instance"
        )
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        with batched(model, images):
            value = phi(x)
        if "Softmax" in producer_of(value) and not source.by_objective:
            raise SourceLayerError(
                f"{source} is a softmax: its outputs are normalised to a constant total, so their "
                "sum says nothing about the image. Name the layer before it"
            )
        if value.grad_fn is None or not value.is_floating_point():
            raise SourceLayerError(
                f"{source} has no gradient to the images: name another layer. (Inside of "
                "torch.no_grad(), or torch.utils.checkpoint with use_reentrant=True, none has one)"
            )
        # A sum with random signs shows how large gradients are where they do not cancel. Half of
        # them are negative: of two outputs, equal signs would say nothing.
        generator = torch.Generator().manual_seed(0)
        signs = torch.ones(value.numel())
        signs[torch.randperm(len(signs), generator=generator)[: len(signs) // 2]] = -1.0
        signs = signs.to(value).view(value.shape)
        try:
            (mixed,) = torch.autograd.grad(value, x, signs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise SourceLayerError(REENTRANT.format(f"this {type(model).__name__}")) from error
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
        return SumVariation()  # not by its weights: a step that is not finite says why
    if source.by_objective or not bool(mixed.any()):
        return SumVariation()  # what the sum does is of no interest, or nothing varies here
    ratio = float(ones.double().norm() / mixed.double().norm())
    return SumVariation(ratio, max(CONSTANT, 4 * torch.finfo(value.dtype).eps))


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


def producer_of(phi: Tensor) -> str:
    """The operation that made Φ or another value with a graph, reshapes left out.

    Args:
        phi: the value.
    """
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
        with torch.no_grad(), batched(phi.model, images):
            phi.model(images, **phi.kwargs)
    finally:
        handle.remove()
    return calls
