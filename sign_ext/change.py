"""How far SIGN moved images: the one place that measures it, and that says whether they moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

VALUES_AT_ONCE = 1 << 16  # float64 copies, of which several exist at once, are of so many


@dataclass(frozen=True)
class Change:
    """|p*_K − p| in the images' units, grey levels for this project's networks.

    Attributes:
        images: how many were compared.
        rms: root of the mean square over their variables.
        largest: of any variable.
    """

    images: int
    rms: float
    largest: float


def measure_change(
    moved: Tensor, originals: Tensor, positions: Iterable[int] | None = None
) -> Change:
    """Compare p*_K with p, in float64.

    NumPy adds up on one thread, so the numbers do not depend on how many threads there are.

    Args:
        moved: p*_K, (N, ...), any floating dtype.
        originals: p, shaped as `moved`, any dtype.
        positions: the images to compare; None takes all N.

    Returns:
        The change; zeros where no image is compared.

    Example:
        >>> measure_change(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])).largest
        4.0
    """
    chosen = list(range(len(originals)) if positions is None else positions)
    squares, largest = 0.0, 0.0
    for rows in _chunks(chosen, moved):
        change = _float64(moved[rows]) - _float64(originals[rows])
        squares += float(np.sum(change**2))
        largest = max(largest, float(np.abs(change).max(initial=0)))
    values = len(chosen) * moved[:1].numel()
    return Change(len(chosen), (squares / max(1, values)) ** 0.5, largest)


def combine(changes: Sequence[Change]) -> Change:
    """The change of several sets of images, of one shape, taken as one."""
    images = sum(each.images for each in changes)
    squares = sum(each.images * each.rms**2 for each in changes)
    largest = max((each.largest for each in changes), default=0.0)
    return Change(images, (squares / max(1, images)) ** 0.5, largest)


def share_negative(moved: Tensor) -> float:
    """The share of variables of p*_K below 0, which the paper calls discarded."""
    return int((moved < 0).sum()) / max(1, moved.numel())


def describe_change(moved: Tensor, originals: Tensor) -> dict[str, float]:
    """The numbers of a result file: `rms`, `largest` and `share_negative`.

    Args:
        moved: p*_K, (N, ...).
        originals: p, shaped as `moved`.
    """
    change = measure_change(moved, originals)
    return {
        "rms": change.rms,
        "largest": change.largest,
        "share_negative": share_negative(moved),
    }


def exceeds_rounding(reach: Tensor, images: Tensor) -> bool:
    """Whether steps that add up to at most `reach` count as having moved images.

    They do where `reach` is more than the last bit of the images' largest value: less is lost when
    it is added there. Waits for the device.

    Args:
        reach: the most that all steps together can have added to a variable, a scalar.
        images: p*_K, floating, not empty.
    """
    return bool(reach > torch.finfo(images.dtype).eps * images.abs().amax())


def _chunks(positions: Sequence[int], images: Tensor) -> list[list[int]]:
    size = max(1, VALUES_AT_ONCE // max(1, images[:1].numel()))
    return [list(positions[i : i + size]) for i in range(0, len(positions), size)]


def _float64(images: Tensor) -> np.ndarray:
    return images.detach().to("cpu", torch.float64).numpy()
