"""A race: each contender is checked against a reference, then its memory and time are measured.

`costs` turns a measured rate into the time that SIGN takes on a whole set of images.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sign_ext.benchmarking import loops
from sign_ext.benchmarking.contenders import NAIVE, OWN_PREFIX, Builder
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.measure import Turns, mirrored, on_each, step_bytes
from sign_ext.benchmarking.table import first_line, format_rate, format_shape
from sign_ext.benchmarking.task import Task
from sign_ext.formatting import counted, duration

if TYPE_CHECKING:
    from sign_ext.benchmarking.task import Task


CHECKED_IMAGES = 8  # that the reference transforms, spread over the batch
MARGIN = 0.03  # error allowed beyond what rounding at the precision explains
MAX_ERROR = 0.9  # a larger error is another computation, whatever rounding does


class Reference:
    """p*_K of a few images, by the plain loop in float64, or in float32 if that fails.

    Args:
        task: the race.

    Attributes:
        dtype: "float64", or "float32" for a network that cannot compute in float64.
        rounding: the plain loop's own error at the race's precision.
        allowed: the error up to which a contender agrees. Rounding can flip ReLU mask bits, and so
            grow far beyond the precision; the plain loop's own error measures by how much.

    Raises:
        ValueError: the iterates become infinite or NaN.
    """

    def __init__(self, task: Task) -> None:
        """Compute the reference."""
        count = len(task.images)
        self._rows = torch.linspace(0, count - 1, min(count, CHECKED_IMAGES)).round().long()
        images = task.images[self._rows]
        self._p = images.double()
        self.dtype, self._exact = _exact(task, images)
        if not bool(torch.isfinite(self._exact).all()):
            raise ValueError(
                f"after {task.steps} steps the iterates are not finite: give fewer steps, or "
                "another range of pixels"
            )
        plain = loops.naive(task.phi(), task.steps, task.step_size)
        self.rounding = self._distance(loops.with_precision(task.precision, plain)(images))
        self.allowed = min(MARGIN + 1.5 * self.rounding, MAX_ERROR)

    def error(self, result: Tensor) -> float:
        """Return the distance of p*_K (all images) from the reference, over how far they moved."""
        return self._distance(result[self._rows])

    def _distance(self, found: Tensor) -> float:
        moved = (self._exact - self._p).norm()
        return float((found.double() - self._exact).norm() / moved)

    def objection(self, error: float) -> str | None:
        """Say why a contender with this error is not timed; None if it agrees."""
        if error <= self.allowed:
            return None
        return (
            f"computes something else: its error is {error:.2g}, and rounding explains at most "
            f"{self.allowed:.2g}"
        )


def _exact(task: Task, images: Tensor) -> tuple[str, Tensor]:
    with contextlib.suppress(RuntimeError, TypeError):
        phi = task.phi().double()
        return "float64", loops.naive(phi, task.steps, task.step_size)(images.double())
    plain = loops.naive(task.phi(), task.steps, task.step_size)
    return "float32", loops.with_precision("float32", plain)(images).double()


@dataclass(frozen=True)
class Row:
    """The measurements of one contender.

    Attributes:
        name: the contender.
        median: seconds of a call, images in, p*_K out.
        fastest: its fastest call.
        speed: the naive loop's median over this one's; None if the naive loop was not timed.
        image_steps_per_second: images times K over the median.
        bytes_per_image: peak memory of a step beyond weights, images and result, over the images.
        error: distance from the reference, over how far the images moved.
    """

    name: str
    median: float
    fastest: float
    speed: float | None
    image_steps_per_second: float
    bytes_per_image: float
    error: float


@dataclass(frozen=True)
class Race:
    """The outcome of a race.

    Attributes:
        rows: the contenders that were timed, the fastest first.
        absent: name → reason, for the others.
        rounds: how many turns each had.
        reference: dtype of the reference, "float64" or "float32".
        allowed: the error up to which a contender agrees with it.
    """

    rows: tuple[Row, ...]
    absent: dict[str, str]
    rounds: int
    reference: str
    allowed: float

    def row(self, name: str) -> Row | None:
        """Return a contender's row, or None if it was not timed."""
        return next((row for row in self.rows if row.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        absent = [{"name": name, "reason": reason} for name, reason in self.absent.items()]
        return {**asdict(self), "absent": absent}


def race(
    task: Task,
    contenders: Mapping[str, Builder],
    *,
    rounds: int = 5,
    seconds: float = float("inf"),
    absent: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Race:
    """Check, measure and time contenders; those that fail or disagree are listed with the reason.

    Args:
        task: the work, the same for all.
        contenders: name → function that builds it.
        rounds: turns that each gets, after a first call that is not timed.
        seconds: after this long, no further contender is built and no further round begins; every
            contender that was built has at least one turn.
        absent: contenders known to be unable to run, name → reason, for the outcome.
        progress: called with (done, total).

    Raises:
        SourceLayerError: Φ cannot be found.
        ValueError: the iterates become infinite or NaN.
    """
    deadline = time.monotonic() + seconds
    steps = itertools.count(1)

    def advance() -> None:
        if progress is not None:
            progress(next(steps), 1 + len(contenders) + rounds)

    reference = Reference(task)
    advance()
    entrants: dict[str, _Entrant] = {}
    missing = dict(absent or {})
    for name, build in contenders.items():
        if time.monotonic() > deadline:
            missing[name] = f"not reached within {seconds:g} s"
            continue
        try:
            entrants[name] = _enter(task, build, reference)
        except Exception as error:  # of this contender only: the others go on
            missing[name] = str(error) if isinstance(error, _Disagrees) else first_line(error)
        advance()
    inputs = mirrored(task.images)
    runs = {name: on_each(entrant.run, inputs) for name, entrant in entrants.items()}
    turns = Turns(runs, task.images.device)
    for finished in range(rounds if entrants else 0):
        if finished and time.monotonic() > deadline:
            break
        turns.round()
        advance()
    return Race(
        rows=_rows(task, turns, entrants),
        absent=missing,
        rounds=len(next(iter(turns.times.values()), [])),
        reference=reference.dtype,
        allowed=reference.allowed,
    )


class _Disagrees(Exception):
    """A contender computes something else."""


@dataclass(frozen=True)
class _Entrant:
    """A contender that agrees with the reference, ready to be timed."""

    run: Run
    bytes_per_image: float
    error: float


def _enter(task: Task, build: Builder, reference: Reference) -> _Entrant:
    """Build a contender, measure its memory on one step, and check its result."""
    bytes_per_image = step_bytes(build(task.one_step()), task.images) / len(task.images)
    run = build(task)
    error = reference.error(run(task.images))
    objection = reference.objection(error)
    if objection is not None:
        raise _Disagrees(objection)
    return _Entrant(run, bytes_per_image, error)


def _rows(task: Task, turns: Turns, entrants: Mapping[str, _Entrant]) -> tuple[Row, ...]:
    medians = turns.medians() if entrants else {}
    rows = [
        Row(
            name=name,
            median=median,
            fastest=min(turns.times[name]),
            speed=medians[NAIVE] / median if NAIVE in medians else None,
            image_steps_per_second=len(task.images) * task.steps / median,
            bytes_per_image=entrants[name].bytes_per_image,
            error=entrants[name].error,
        )
        for name, median in medians.items()
    ]
    return tuple(sorted(rows, key=lambda row: row.median))


# The time that SIGN takes on a whole set of images, from a measured rate.


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
            f"SIGN with K = {self.steps} on {counted(self.images, 'image')} of {shape}: about "
            f"{duration(self.seconds)} on this machine ({self.backend}, "
            f"{counted(self.batch, 'image')} at a time, {format_rate(self.images_per_second)} "
            "images/s)"
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
