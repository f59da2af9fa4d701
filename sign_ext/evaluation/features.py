"""Φ's outputs: an image's features at the layer that SIGN starts from (Figure 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sign_ext.checks import check_model
from sign_ext.eval_state import unwrap
from sign_ext.evaluation.accuracy import placement, predict
from sign_ext.precision import computing
from sign_ext.source_layer import Phi, check_source, find_source_layer, named_source_layer


def features(
    model: nn.Module, images: Tensor, *, layer: str | None = None, batch_size: int = 512
) -> Tensor:
    """Compute Φ(images), "the output of the last layer (before the logits)" of Section 3.

    The layer is found as `SignTransform` finds it, and what follows it is not computed.

    Args:
        model: float images (n, 3, H, W) in pixel units 0–255 → logits (n, classes). It runs in
            eval mode and in IEEE float32, and is left as it was.
        images: uint8 or float tensor (N, 3, H, W) on any device; one batch of it is converted at a
            time.
        layer: take this module's output instead; None finds the final classifier and takes its
            input.
        batch_size: images at once.

    Returns:
        float32 features (N, D) on the CPU; a spatial layer's are flattened.

    Raises:
        ValueError: no images, a batch size below 1, an unknown layer, or a network whose samples
            interact.
        SourceLayerError: Φ cannot be found, or is one that SIGN refuses.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> features(model, torch.zeros(7, 3, 2, 2, dtype=torch.uint8)).shape
        torch.Size([7, 5])
    """
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image.")
    check_model(model)
    network = unwrap(model)
    device, dtype = placement(network)
    with computing(network), torch.autocast(device.type, enabled=False):
        # Copied, because autograd refuses what was created in inference mode.
        probe = torch.empty_like(images[:1], device=device, dtype=dtype).copy_(images[:1])
        source = named_source_layer(network, layer) if layer else find_source_layer(network, probe)
        check_source(network, source, probe)
        return predict(_Features(Phi(network, source)), images, batch_size=batch_size)


class _Features(nn.Module):
    """Φ as a module, one row a sample, for `predict` to run batch by batch."""

    def __init__(self, phi: Phi) -> None:
        super().__init__()
        self.network = phi.model  # registered, so that device and mode are the network's
        self.phi = phi

    def forward(self, images: Tensor) -> Tensor:
        return self.phi(images).reshape(len(images), -1)
