"""The parts of the demo in order: which one is running, and about how long all of them take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sign_ext.experiments.demo.settings import DemoSettings
from sign_ext.formatting import duration
from sign_ext.progress import Clock, Reporter

# What an image costs, relative to each other, as measured for BasicCNN on a CPU. A part's share of
# all need only be about right. A step of SIGN has no weight gradients, and is compiled.
TRAINED = 10
STEPPED = 2
EVALUATED = 2  # with what corrupts it
EARLY = 0.2  # of the first part is enough to foretell all
CALIBRATED_SIZES = 4  # step sizes that `calibrate` tries as a rule, the proposal included


class Parts:
    """Runs the parts of a demo one after another.

    Args:
        work: what each part has to do, in any unit.
        clock: adds up what each part took.
        reporter: shows the progress.

    Example:
        >>> from sign_ext.progress import Clock, Silent
        >>> parts = Parts([3.0, 1.0], Clock(), Silent())
        >>> with parts.running("training"):
        ...     parts.number
        1
    """

    def __init__(self, work: list[float], clock: Clock, reporter: Reporter) -> None:
        """Begin before the first part."""
        self.work, self.clock, self.reporter = work, clock, reporter
        self.number = 0
        self.began = time.monotonic()

    @contextmanager
    def running(self, title: str, stage: str = "") -> Iterator[Callable[[int, int], None]]:
        """Show and time the next part; yields what shows how much of it is done.

        Args:
            title: what it does.
            stage: its name for the clock; by default the title.
        """
        self.number += 1
        count = len(self.work)
        began = time.monotonic()
        first: tuple[int, float] | None = None  # what was done, and when: the first step warms up
        forecast = self.number == 1 < count
        with (
            self.clock(stage or title),
            self.reporter.progress(f"part {self.number} of {count}{self._left()}: {title}") as show,
        ):

            def report(done: int, total: int) -> None:
                nonlocal first, forecast
                now = time.monotonic()
                if first is None and done > 0:
                    first = done, now
                elif forecast and first is not None and done >= EARLY * total:
                    forecast = False
                    self._foretell((now - first[1]) * total / max(done - first[0], 1))
                show(done, total)

            yield report
        if forecast:  # a part that reports nothing
            self._foretell(time.monotonic() - began)

    def _foretell(self, seconds: float) -> None:
        """Say how long all parts take, from what the first takes."""
        whole = seconds * sum(self.work) / self.work[0]
        about = round(whole, -1) if whole >= 20 else max(1.0, round(whole))
        self.reporter.say(f"all {len(self.work)} parts take about {duration(about)}")

    def _left(self) -> str:
        """What is left from here on, from what the parts so far took; "" before the second."""
        finished = sum(self.work[: self.number - 1])
        if not finished:
            return ""
        seconds = (time.monotonic() - self.began) * sum(self.work[self.number - 1 :]) / finished
        about = round(seconds, -1) if seconds >= 20 else max(1.0, round(seconds))
        return f", {duration(about)} left for all"


def work_of_a_seed(settings: DemoSettings, train: int, validation: int, test: int) -> list[float]:
    """What the parts of one seed have to do, relative to each other.

    Args:
        settings: the demo's.
        train: number of training images.
        validation: number of validation images.
        test: number of test images.
    """
    versions = 1 + len(settings.snapshots)
    longest = max(settings.snapshots)
    trained = settings.epochs * train * TRAINED
    validated = settings.epochs * validation * EVALUATED
    calibrated = CALIBRATED_SIZES * min(settings.calibration_images, validation) * longest * STEPPED
    return [
        trained + validated,
        *([calibrated] if settings.step_size is None else []),
        train * longest * STEPPED,
        versions * trained + validated,
        versions * (trained + validated),
        3 * test * (1 + 2 * settings.draws) * EVALUATED,
    ]
