"""Images that cannot be read: all of them in one error, or left out and listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import Tensor

OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read.

    Attributes:
        index: its position in what was read: a split, a source, or a list of positions.
        why: the error message, which names the file.
        key: its name in the data set; "" if unknown.
        split: "train", "validation" or "test"; "" if unknown.
    """

    index: int
    why: str
    key: str = ""
    split: str = ""


class UnreadableImages(ValueError):
    """Images that cannot be read: every one of those that were asked for.

    Args:
        images: one or more, in order.
        advice: what else to try; ends the message.

    Attributes:
        images: the same.
        details: a line for each image; () for a single one, whose message says all.
        summary: the message without those lines.
    """

    def __init__(self, images: Sequence[Unreadable], advice: str = "") -> None:
        """Put every image in the message: one run is enough to find all of them."""
        self.images = tuple(images)
        self._advice = advice
        reasons = tuple(each.why for each in self.images)
        self.details = reasons if len(reasons) > 1 else ()
        if len(reasons) == 1:
            self.summary = f"{reasons[0]} {advice}".rstrip()
            super().__init__(self.summary)
            return
        head = f"{len(reasons):,} images cannot be read"
        self.summary = f"{head}. {advice}" if advice else head
        super().__init__("\n  ".join([f"{head}:", *reasons]) + f"\n{advice}".rstrip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of: the message alone is not enough."""
        return type(self), (self.images, self._advice)


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless a value is "fail" or "skip"."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r}; accepted: {', '.join(get_args(OnError))}.")


def read_readable(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray
) -> tuple[Tensor | None, np.ndarray, list[Unreadable]]:
    """Read images, leaving out those that cannot be read.

    Args:
        read: positions (n,), n ≥ 1 → uint8 (n, 3, H, W).
        positions: int64 (n,).

    Returns:
        uint8 (m, 3, H, W), or None if m is 0; int64 (m,), which of the n they are; and the others.
    """
    everything = np.arange(len(positions))
    if not len(positions):
        return None, everything, []
    try:
        return read(positions), everything, []
    except ValueError as error:
        problems = _every_problem(read, positions, error)
    kept = np.setdiff1d(everything, [each.index for each in problems])
    return (read(positions[kept]) if len(kept) else None), kept, problems


def find_unreadable(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray
) -> list[Unreadable]:
    """List the images that cannot be read; the pixels of the others are dropped.

    Args:
        read: as for `read_readable`.
        positions: int64 (n,).
    """
    if not len(positions):
        return []
    try:
        read(positions)
    except ValueError as error:
        return _every_problem(read, positions, error)
    return []


def _every_problem(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray, error: ValueError
) -> list[Unreadable]:
    """List the images that fail, given the error of reading all of them at once."""
    if isinstance(error, UnreadableImages):
        return list(error.images)
    # Such an error does not say which images it is about.
    problems = []
    for index in range(len(positions)):
        try:
            read(positions[index : index + 1])
        except ValueError as single:
            problems.append(Unreadable(index, str(single)))
    if not problems:  # only a batch fails, so none of its images can be blamed
        raise error
    return problems
