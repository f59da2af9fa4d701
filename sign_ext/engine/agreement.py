"""How far one δ is from another."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_distance(got: Tensor, expected: Tensor) -> float:
    """Relative L2 distance; 0 where both are zero, and where what is expected is not finite.

    Args:
        got: any tensor.
        expected: of its shape.

    Example:
        >>> relative_distance(torch.tensor([3.0, 5.0]), torch.tensor([3.0, 4.0]))
        0.2
    """
    error = (got.double() - expected.double()).norm()
    size = expected.double().norm()
    if not bool(torch.isfinite(size)) or bool(error <= 1e-30):
        return 0.0
    return float(error / size)
