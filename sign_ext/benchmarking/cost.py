"""The time that SIGN takes on a whole set of images, from a measured rate."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sign_ext.benchmarking.contenders import OWN_PREFIX
from sign_ext.benchmarking.table import format_rate, format_shape
from sign_ext.formatting import duration

if TYPE_CHECKING:
    from sign_ext.benchmarking.race import Race, Row
    from sign_ext.benchmarking.task import Task


@dataclass(frozen=True)
class Cost:
    """The time to transform a set of images, without reading and writing them.

    Attributes:
        images: how many the set has.
        image_shape: (C, H, W).
        steps: K.
        backend: the backend that was timed.
        batch: images at a time.
        image_steps_per_second: its measured rate.

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
        """Whole images a second, K steps each."""
        return self.image_steps_per_second / self.steps

    @property
    def seconds(self) -> float:
        """Seconds for the set."""
        return self.images / self.images_per_second

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the derived values as plain data."""
        derived = {"images_per_second": self.images_per_second, "seconds": self.seconds}
        return {**asdict(self), **derived, "sentence": str(self)}

    def __str__(self) -> str:
        """Return the cost as a sentence."""
        shape = format_shape(self.image_shape)
        return (
            f"SIGN with K = {self.steps} on {self.images:,} images of {shape}: about "
            f"{duration(self.seconds)} on this machine ({self.backend}, {self.batch} images at a "
            f"time, {format_rate(self.images_per_second)} images/s)"
        )


def costs(
    outcome: Race, task: Task, auto: str, images: int, steps: int
) -> tuple[Cost, Cost] | None:
    """Return the cost of a set with the backend that `auto` runs, and with our fastest.

    Args:
        outcome: the finished race.
        task: its work.
        auto: the backend that runs by default; if it was not timed, the fastest replaces it.
        images: of the set.
        steps: K.

    Returns:
        Both costs, or None if none of our backends was timed.
    """
    own = [row for row in outcome.rows if row.name.startswith(OWN_PREFIX)]
    if not own:
        return None
    usual = outcome.row(OWN_PREFIX + auto) or own[0]

    def cost(row: Row) -> Cost:
        backend = row.name.removeprefix(OWN_PREFIX)
        shape = tuple(task.images.shape[1:])
        speed = row.image_steps_per_second
        return Cost(images, shape, steps, backend, len(task.images), speed)

    return cost(usual), cost(own[0])
