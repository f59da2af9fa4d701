"""What SIGN will cost on a whole set of images, from a rate that was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sign_ext.benchmarking.contenders import OURS
from sign_ext.benchmarking.table import rate_in_words, shape_in_words
from sign_ext.formatting import duration

if TYPE_CHECKING:
    from sign_ext.benchmarking.race import Race, Row
    from sign_ext.benchmarking.task import Task


@dataclass(frozen=True)
class Cost:
    """The transformation of a set, computing alone: reading and writing images is not in it.

    Attributes:
        images: how many the set has.
        image_shape: (C, H, W).
        steps: K.
        backend: what was timed.
        batch: images at a time.
        image_steps_per_second: its rate.

    Example:
        >>> print(Cost(50_000, (3, 32, 32), 100, "fused", 128, 640.0))
        SIGN with K = 100 on 50,000 images of 3×32×32: about 2 h 10 min on this machine \
(fused, 128 images at a time, 6.4 images/s)
    """

    images: int
    image_shape: tuple[int, ...]
    steps: int
    backend: str
    batch: int
    image_steps_per_second: float

    @property
    def images_per_second(self) -> float:
        """Whole images, K steps each."""
        return self.image_steps_per_second / self.steps

    @property
    def seconds(self) -> float:
        """For the set."""
        return self.images / self.images_per_second

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, with what follows from it."""
        derived = {"images_per_second": self.images_per_second, "seconds": self.seconds}
        return {**asdict(self), **derived, "sentence": str(self)}

    def __str__(self) -> str:
        """One sentence."""
        shape = shape_in_words(self.image_shape)
        return (
            f"SIGN with K = {self.steps} on {self.images:,} images of {shape}: about "
            f"{duration(self.seconds)} on this machine ({self.backend}, {self.batch} images at a "
            f"time, {rate_in_words(self.images_per_second)} images/s)"
        )


def costs(
    outcome: Race, task: Task, auto: str, images: int, steps: int
) -> tuple[Cost, Cost] | None:
    """What a set costs with the backend that `auto` runs, and with the fastest of ours.

    Args:
        outcome: of the race.
        task: its work.
        auto: the backend that runs where none is asked for; where it was not timed, the fastest
            stands for it.
        images: of the set.
        steps: K.

    Returns:
        The two, or None where none of our backends was timed.
    """
    own = [row for row in outcome.rows if row.name.startswith(OURS)]
    if not own:
        return None
    usual = outcome.row(OURS + auto) or own[0]

    def cost(row: Row) -> Cost:
        backend = row.name.removeprefix(OURS)
        shape = tuple(task.images.shape[1:])
        speed = row.image_steps_per_second
        return Cost(images, shape, steps, backend, len(task.images), speed)

    return cost(usual), cost(own[0])
