"""What fills a store: SIGN, or another iteration over images, as `transform_to_store` sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sign_ext.data import ImageSource
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.explanation import Explanation
from sign_ext.sign import SignTransform

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


class SignIteration:
    """SIGN, which needs neither labels nor positions.

    Args:
        sign: the transform; its `snapshots` are stored.
    """

    needs_labels = False

    def __init__(self, sign: SignTransform) -> None:
        """Make the transform return a dict."""
        self._sign = sign.with_options(snapshots=sign.settings.stops)

    @property
    def model(self) -> nn.Module:
        """Its network."""
        return self._sign.model

    @property
    def stops(self) -> tuple[int, ...]:
        """Its snapshots."""
        return self._sign.settings.stops

    @property
    def image_steps(self) -> int:
        """Its K."""
        return self.stops[-1]

    @property
    def batch_size(self) -> int | None:
        """Its batch size."""
        return self._sign.settings.batch_size

    @property
    def plan(self) -> TuningPlan:
        """Its plan."""
        return self._sign.plan

    @property
    def measures(self) -> bool:
        """Whether it was made with tune=True."""
        return self._sign.engines.fused.measure

    def settings(self) -> dict[str, Any]:
        """Return its options."""
        return {**asdict(self._sign.settings), "snapshots": list(self.stops)}

    def tuned(self, tune: bool | TuningPlan) -> SignIteration:
        """Change its option `tune`."""
        return SignIteration(self._sign.with_options(tune=tune))

    def one_step(self) -> SignIteration:
        """Change its K to 1."""
        return SignIteration(self._sign.with_options(steps=1, snapshots=(1,)))

    def explain(self, images: Tensor, labels: Tensor | None) -> Explanation:
        """Ask it."""
        return self._sign.explain(images)

    def images_at_once(self, images: Tensor, labels: Tensor | None) -> int:
        """Ask it."""
        return self._sign.images_at_once(images)

    def run(
        self,
        images: Tensor,
        labels: Tensor | None,
        positions: Tensor,
        out: Mapping[int, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Mapping[int, Tensor]:
        """Transform the images."""
        found = self._sign.transform(images, out=out, progress=progress or False)
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


def iteration_of(given: SignTransform | Iteration) -> Iteration:
    """Return what fills a store.

    Args:
        given: a transform, or another iteration.
    """
    return SignIteration(given) if isinstance(given, SignTransform) else given
