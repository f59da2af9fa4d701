"""A race: each contender is checked against a reference, weighed, and timed in turns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from sign_ext.benchmarking import loops, memory
from sign_ext.benchmarking.contenders import NAIVE, Way
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.table import first_line
from sign_ext.benchmarking.task import Task
from sign_ext.benchmarking.timing import Turns, mirrored, on_each

# Who is timed: only what computes Algorithm 1, seen by a reference in float64.


CHECKED = 8  # images that the reference transforms, spread over the batch
CLOSE = 0.03  # allowed beyond what rounding at the precision explains
MOST = 0.9  # as far off as that is another computation, whatever rounding does


class Reference:
    """p*_K of a few images, by the plain loop in float64 (or float32 where that fails).

    Args:
        task: the race.

    Attributes:
        dtype: "float64", or "float32" for a network that cannot compute in float64.
        rounding: the plain loop's own error at the race's precision.
        allowed: the error up to which a contender agrees. Networks with ReLUs amplify rounding:
            it decides on which side of 0 an input falls. So the plain loop is the yardstick.

    Raises:
        ValueError: the iterates leave the finite numbers.
    """

    def __init__(self, task: Task) -> None:
        """Compute it."""
        count = len(task.images)
        self._rows = torch.linspace(0, count - 1, min(count, CHECKED)).round().long()
        images = task.images[self._rows]
        self._p = images.double()
        self.dtype, self._exact = _exact(task, images)
        if not bool(torch.isfinite(self._exact).all()):
            raise ValueError(
                f"after {task.steps} steps the iterates are not finite: give fewer steps, or "
                "another range of pixels"
            )
        plain = loops.naive(task.phi(), task.steps, task.step_size)
        self.rounding = self._distance(loops.at(task.precision, plain)(images))
        self.allowed = min(CLOSE + 1.5 * self.rounding, MOST)

    def error(self, result: Tensor) -> float:
        """Distance of a result, p*_K of all images, over what the steps moved the images by."""
        return self._distance(result[self._rows])

    def _distance(self, found: Tensor) -> float:
        moved = (self._exact - self._p).norm()
        return float((found.double() - self._exact).norm() / moved)

    def objection(self, error: float) -> str | None:
        """Why a contender with this error is not timed, or None if it agrees."""
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
    return "float32", loops.at("float32", plain)(images).double()


@dataclass(frozen=True)
class Row:
    """What was measured of one contender.

    Attributes:
        name: the contender.
        median: seconds of a call, images in, p*_K out.
        fastest: of its calls.
        speed: the naive loop's median over this one's; None where that could not be timed.
        image_steps_per_second: images times K over the median.
        bytes_per_image: peak memory of a step beyond weights, images and result, over the images.
        error: distance from the reference, over what the steps moved.
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
    """The outcome.

    Attributes:
        rows: who was timed, the fastest first.
        absent: name → why not, of the others.
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
        """A contender's row, or None if it was not timed."""
        return next((row for row in self.rows if row.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        absent = [{"name": name, "reason": reason} for name, reason in self.absent.items()]
        return {**asdict(self), "absent": absent}


def race(
    task: Task,
    contenders: Mapping[str, Way],
    *,
    rounds: int = 5,
    seconds: float = float("inf"),
    absent: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Race:
    """Check, weigh and time contenders; who fails or disagrees is listed with the reason.

    Args:
        task: the work, the same for all.
        contenders: name → way to build it.
        rounds: turns that each gets, after a first call that is not timed.
        seconds: when so many are spent, no further contender is built and no further round begun;
            whoever was built has one turn at least.
        absent: those already known to be unable, by name, for the outcome.
        progress: called with (done, total).

    Raises:
        SourceLayerError: Φ cannot be found.
        ValueError: the iterates leave the finite numbers.
    """
    began = time.monotonic()
    total = 1 + len(contenders) + rounds
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    reference = Reference(task)
    advance()
    runs: dict[str, Run] = {}
    weights: dict[str, float] = {}
    errors: dict[str, float] = {}
    missing = dict(absent or {})
    for name, way in contenders.items():
        if time.monotonic() - began > seconds:
            missing[name] = f"not reached within {seconds:g} s"
            continue
        try:
            weights[name] = memory.step_bytes(way(task.one_step()), task.images) / len(task.images)
            run = way(task)
            errors[name] = reference.error(run(task.images))
        except Exception as error:  # whatever it is, it is this contender's: the others go on
            missing[name] = first_line(error)
        else:
            objection = reference.objection(errors[name])
            if objection is None:
                runs[name] = run
            else:
                missing[name] = objection
        advance()
    inputs = mirrored(task.images)
    turns = Turns({name: on_each(run, inputs) for name, run in runs.items()}, task.images.device)
    for finished in range(rounds if runs else 0):
        if finished and time.monotonic() - began > seconds:
            break
        turns.round()
        advance()
    work = len(task.images) * task.steps
    medians = turns.medians() if runs else {}
    rows = [
        Row(
            name=name,
            median=median,
            fastest=min(turns.times[name]),
            speed=medians[NAIVE] / median if NAIVE in medians else None,
            image_steps_per_second=work / median,
            bytes_per_image=weights[name],
            error=errors[name],
        )
        for name, median in medians.items()
    ]
    return Race(
        rows=tuple(sorted(rows, key=lambda row: row.median)),
        absent=missing,
        rounds=len(next(iter(turns.times.values()), [])),
        reference=reference.dtype,
        allowed=reference.allowed,
    )
