"""What fills a store: SIGN, or another iteration over images, as `transform_to_store` sees it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sign_ext.data import ImageSource
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.explanation import Explanation
from sign_ext.iterate import InputIteration

Progress = Callable[[int, int], None]


class Iteration(Protocol):
    """An iteration over images whose result depends on each image, its label and its position.

    It must not depend on which images come together, so that the bytes of a store depend neither
    on its shards nor on the number of processes.
    """

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def stops(self) -> tuple[int, ...]:
        """The numbers of steps whose images are stored, ascending."""

    @property
    def image_steps(self) -> int:
        """Gradients of each image that are computed in all."""

    @property
    def batch_size(self) -> int | None:
        """Images at a time, or None for as many as are fast."""

    @property
    def plan(self) -> TuningPlan:
        """The choices of the fused backend that were measured or given."""

    @property
    def measures(self) -> bool:
        """Whether the choices of the fused backend are to be measured."""

    @property
    def needs_labels(self) -> bool:
        """Whether images need one class each."""

    def settings(self) -> dict[str, Any]:
        """Return every option that decides the result, for the manifest."""

    def tuned(self, tune: bool | TuningPlan) -> Iteration:
        """Return the same iteration with other choices of the fused backend.

        Args:
            tune: as for `SignTransform`.
        """

    def one_step(self) -> Iteration:
        """Return the same iteration with one step."""

    def explain(self, images: Tensor, labels: Tensor | None) -> Explanation:
        """Say what will run and why.

        Args:
            images: float32 (n, C, H, W) on the network's device.
            labels: int64 (n,); None for an iteration that needs none.
        """

    def images_at_once(self, images: Tensor, labels: Tensor | None) -> int:
        """Return how many images like these a batch holds.

        Args:
            images: as for `explain`.
            labels: as for `explain`.
        """

    def run(
        self,
        images: Tensor,
        labels: Tensor | None,
        positions: Tensor,
        out: Mapping[int, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Mapping[int, Tensor]:
        """Iterate, and return the images after each number of steps in `stops`.

        Args:
            images: as for `explain`.
            labels: as for `explain`.
            positions: int64 (n,), of the images in the data set.
            out: float32 tensors to write to.
            progress: called with (image-steps done, total).
        """


class InputsIteration:
    """SIGN, or any `InputIteration`, as what fills a store. Neither depends on positions.

    A function as the objective is recorded by its module and name: the caller must give another
    name to another function, or the two are taken for the same. It is given labels if it takes two
    arguments.

    Args:
        iteration: whose `snapshots` are stored.
    """

    def __init__(self, iteration: InputIteration) -> None:
        """Make the iteration return a dict."""
        self._iteration = iteration.with_options(snapshots=iteration.settings.stops)

    @property
    def model(self) -> nn.Module:
        """Its network."""
        return self._iteration.model

    @property
    def stops(self) -> tuple[int, ...]:
        """Its snapshots."""
        return self._iteration.settings.stops

    @property
    def image_steps(self) -> int:
        """Its K."""
        return self.stops[-1]

    @property
    def batch_size(self) -> int | None:
        """Its batch size."""
        return self._iteration.settings.batch_size

    @property
    def plan(self) -> TuningPlan:
        """Its plan."""
        return self._iteration.plan

    @property
    def measures(self) -> bool:
        """Whether it was made with tune=True."""
        return self._iteration.engines.fused.measure

    @property
    def needs_labels(self) -> bool:
        """Whether its objective is about a class of each image."""
        rule = self._iteration.settings.rule
        if callable(rule.objective):
            return len(inspect.signature(rule.objective).parameters) > 1
        return rule.needs_labels

    def settings(self) -> dict[str, Any]:
        """Return its options."""
        recorded = {**asdict(self._iteration.settings), "snapshots": list(self.stops)}
        objective = self._iteration.settings.rule.objective
        if callable(objective):
            name = getattr(objective, "__qualname__", type(objective).__qualname__)
            recorded["objective"] = f"{objective.__module__}.{name}"
        return recorded

    def tuned(self, tune: bool | TuningPlan) -> InputsIteration:
        """Change its option `tune`."""
        return InputsIteration(self._iteration.with_options(tune=tune))

    def one_step(self) -> InputsIteration:
        """Change its K to 1."""
        return InputsIteration(self._iteration.with_options(steps=1, snapshots=(1,)))

    def explain(self, images: Tensor, labels: Tensor | None) -> Explanation:
        """Ask it."""
        return self._iteration.explain(images)

    def images_at_once(self, images: Tensor, labels: Tensor | None) -> int:
        """Ask it."""
        return self._iteration.images_at_once(images)

    def run(
        self,
        images: Tensor,
        labels: Tensor | None,
        positions: Tensor,
        out: Mapping[int, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Mapping[int, Tensor]:
        """Iterate."""
        options: dict[str, Any] = {"out": out, "progress": progress or False}
        if labels is not None:  # SIGN has none
            options["labels"] = labels
        found = self._iteration.transform(images, **options)
        assert isinstance(found, dict)
        return found


def labels_for(
    iteration: Iteration, source: ImageSource, positions: Tensor, device: torch.device
) -> Tensor | None:
    """Return the labels of some images where an iteration needs them; else None, without reading.

    Args:
        iteration: that works on the images.
        source: the data set.
        positions: int64 (n,), of the images.
        device: of the result.
    """
    return source.targets_of(positions).to(device) if iteration.needs_labels else None


def iteration_of(given: InputIteration | Iteration) -> Iteration:
    """Return what fills a store.

    Args:
        given: a `SignTransform`, an `InputIteration`, or what is an `Iteration` already.
    """
    return InputsIteration(given) if isinstance(given, InputIteration) else given
