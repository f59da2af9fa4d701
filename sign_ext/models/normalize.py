"""The first module of every model here: from pixel units to what the network is fed with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Computes (x − mean) / std for each channel, so that a model's input stays in pixel units.

    With the default, x / 255, a network sees 0–1 while SIGN's δ, the noise and the clamp are all in
    grey levels (0–255).

    Args:
        mean: one value a channel, in pixel units.
        std: one value a channel, in pixel units, none of them zero.

    Raises:
        ValueError: lengths that differ, a zero or a value that is not finite.

    Example:
        >>> Normalize()(torch.full((1, 3, 1, 1), 51.0)).flatten().tolist()
        [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
    ) -> None:
        """Keep both as buffers, shaped to broadcast over (N, C, H, W)."""
        super().__init__()
        mean_values = torch.tensor(list(mean), dtype=torch.float32)
        std_values = torch.tensor(list(std), dtype=torch.float32)
        if mean_values.shape != std_values.shape or not len(mean_values):
            raise ValueError(
                f"mean has {len(mean_values)} values and std {len(std_values)}; accepted: one a "
                "channel in each."
            )
        finite = bool(torch.isfinite(torch.cat([mean_values, std_values])).all())
        if not finite or bool((std_values == 0).any()):
            raise ValueError(f"mean={tuple(mean)}, std={tuple(std)}; accepted: finite, std not 0.")
        self.register_buffer("mean", mean_values.view(-1, 1, 1))
        self.register_buffer("std", std_values.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images.

        Args:
            images: float tensor (N, C, H, W) in pixel units 0–255.

        Returns:
            The same shape and dtype.
        """
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the constants when the module is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
