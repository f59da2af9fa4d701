"""Section 2.1 of the paper: the push-forward map Φ_* (Eq. 1–6), its Jacobian, its pull-back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.checks import check_images, check_model, place_of
from sign_ext.eval_state import computing, unwrap
from sign_ext.model_inputs import ModelInputs, blaming_inputs
from sign_ext.source_layer import (
    Phi,
    SourceLayer,
    SumVariation,
    check_inputs,
    check_source,
    find_source_layer,
    named_source_layer,
)


@contextmanager
def _phi_at(
    model: nn.Module,
    images: Tensor,
    layer: str | None,
    model_kwargs: Mapping[str, Any] | None,
) -> Iterator[tuple[Phi, Tensor, SumVariation]]:
    """Φ, a copy of the images in Φ's dtype, how much Φ's sum varies; the network is frozen."""
    check_model(model)
    check_images(images)
    network = unwrap(model)
    dtype, device = place_of(network, images)
    if not len(images):
        raise ValueError("images is empty: pass at least one")
    inputs = ModelInputs.of(model_kwargs, len(images))
    named = named_source_layer(network, layer) if layer is not None else None
    with computing(network), torch.autocast(device.type, enabled=False):
        x = torch.empty_like(images, dtype=dtype, requires_grad=False).copy_(images.detach())
        with blaming_inputs(network, inputs, x[:1]):
            source = named or find_source_layer(network, x[:1], inputs[:1])
            varies = check_source(network, source, x[:1], inputs[:1])
        check_inputs(network, source, x[:1], inputs)
        yield Phi(network, source, inputs[:]), x, varies


def pushforward(
    model: nn.Module,
    images: Tensor,
    tangents: Tensor,
    *,
    layer: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """Φ_{*,p} X_p of Eq. 5: how Φ's outputs change, to first order, as images move along tangents.

    Args:
        model: the network; left exactly as it is.
        images: p, (N, C, H, W) floating.
        tangents: X_p's coordinates ξ^i, shaped as images.
        layer: make Φ this module's output; None takes the final classifier's input.
        model_kwargs: what else the network takes, as for `SignTransform.transform`.

    Returns:
        Σ_i ξ^i ∂Φ^a/∂x^i, shaped as Φ's output (N, ...), in the network's dtype.

    Raises:
        ValueError: tangents are not shaped as images.
        TypeError, SourceLayerError: as `iterative_sign`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
        >>> pushforward(model, torch.rand(3, 3, 2, 2), torch.ones(3, 3, 2, 2)).shape
        torch.Size([3, 5])
    """
    if not isinstance(tangents, Tensor) or tangents.shape != images.shape:
        got = tuple(getattr(tangents, "shape", ())) or type(tangents).__name__
        raise ValueError(f"tangents must be shaped as images {tuple(images.shape)}, got {got}")
    with _phi_at(model, images, layer, model_kwargs) as (phi, x, _):
        direction = torch.empty_like(x).copy_(tangents.detach())
        pushed: Tensor = torch.func.jvp(phi, (x,), (direction,))[1]
        return pushed.detach()


def variation_of_sum(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> tuple[SumVariation, SourceLayer]:
    """How much the sum over Φ varies, and where Φ is read: δ may be what rounding leaves.

    Args:
        model: the network; left exactly as it is.
        images: (N, C, H, W) floating, of which the first is looked at.
        layer: as for `pullback_of_ones`.
        model_kwargs: as for `pullback_of_ones`, for one image.

    Raises:
        TypeError, SourceLayerError: as `iterative_sign`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> norm = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2))
        >>> variation, source = variation_of_sum(norm, torch.rand(1, 3, 2, 2))
        >>> bool(variation), str(source)
        (False, "the input of '2' (Linear 12 → 2)")
    """
    with _phi_at(model, images[:1], layer, model_kwargs) as (phi, _, varies):
        return varies, phi.source


def pullback_of_ones(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """δ = Σ_a ∂Φ^a/∂x^i, line 3 of Algorithm 1: one vector-Jacobian product with ones.

    Args:
        model: the network; left exactly as it is.
        images: p, (N, C, H, W) floating.
        layer: make Φ this module's output; None takes the final classifier's input.
        model_kwargs: what else the network takes, as for `SignTransform.transform`.

    Returns:
        δ, shaped as images, in the network's dtype.

    Raises:
        TypeError, ValueError, SourceLayerError: as `iterative_sign`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
        >>> delta = pullback_of_ones(model, torch.rand(1, 3, 2, 2))
        >>> torch.allclose(delta.flatten(), model[1].weight.sum(0))
        True
    """
    with _phi_at(model, images, layer, model_kwargs) as (phi, x, _), torch.enable_grad():
        value = phi(x.requires_grad_())
        (delta,) = torch.autograd.grad(value, x, torch.ones_like(value))
        return delta


def jacobian(
    model: nn.Module,
    images: Tensor,
    *,
    layer: str | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """[Φ_{*,p}] of Eq. 6: every ∂Φ^a/∂x^i, one vector-Jacobian product for each output a.

    Args:
        model: the network; left exactly as it is.
        images: p, (N, C, H, W) floating.
        layer: make Φ this module's output; None takes the final classifier's input.
        model_kwargs: what else the network takes, as for `SignTransform.transform`.

    Returns:
        (N, m, C, H, W) in the network's dtype, m outputs a sample, however Φ shapes them.

    Raises:
        TypeError, ValueError, SourceLayerError: as `iterative_sign`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
        >>> jacobian(model, torch.rand(3, 3, 2, 2)).shape
        torch.Size([3, 5, 3, 2, 2])
    """
    with _phi_at(model, images, layer, model_kwargs) as (phi, x, _), torch.enable_grad():
        outputs = phi(x.requires_grad_()).flatten(1)
        # Samples do not interact, so one product gives row a of every sample's Jacobian.
        rows = [
            torch.autograd.grad(outputs[:, a].sum(), x, retain_graph=True)[0]
            for a in range(outputs.shape[1])
        ]
        return torch.stack(rows, dim=1)
