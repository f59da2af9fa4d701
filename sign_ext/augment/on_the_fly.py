"""SIGN while training: each batch is transformed as it comes, K drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, nn

from sign_ext.batch_forms import transform_in
from sign_ext.settings import Settings
from sign_ext.sign import SignTransform


class OnTheFlySign:
    """Transforms each training batch with K steps, K drawn anew for each.

    Φ is any network: a frozen one trained before, or the network in training itself, whose weights
    as they are at each call are used. It is computed in evaluation mode and left as it was: its
    training flags, gradients, BatchNorm statistics and all random states. Changed weights are
    noticed in every call by two sums over their values; what was compiled is brought up to date,
    for one K and another, without being recorded again. `sign-ext bench` measures what it costs on
    your network.

    It is an augmentation of `sign_ext.training.train`, and callable on batches anywhere else: in a
    `collate_fn`, a torchvision pipeline, or before the forward pass of your own loop.

    Args:
        model: Φ and its classifier; for "the network in training" the same module that is trained.
        steps: the K to draw from, each as likely as the others; 0 leaves the batch as it is. An
            integer draws from 0 to that K.
        probability: of transforming a batch at all, before K is drawn.
        generator: draws K; None draws from PyTorch's global generator, so that
            `torch.manual_seed` makes runs repeatable. A generator passed in a call is used instead.
        **options: those of `SignTransform` (`step_size`, `layer`, `clamp`, `momentum`, `precision`,
            `backend` …), except `snapshots`.

    Attributes:
        sign: the `SignTransform` that runs the steps.
        last_steps: K of the last batch; None before the first.

    Raises:
        TypeError, ValueError: an option is of the wrong type or out of range.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> augment = OnTheFlySign(model, steps=(0, 2, 4), step_size=5.0)
        >>> images, labels = augment(torch.rand(6, 3, 2, 2) * 255, torch.arange(6) % 2)
        >>> images.shape, augment.last_steps in (0, 2, 4), model.training
        (torch.Size([6, 3, 2, 2]), True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int | Sequence[int] = (0, 50, 100),
        *,
        probability: float = 1.0,
        generator: Generator | None = None,
        **options: Any,
    ) -> None:
        """Check the options; nothing is computed yet."""
        if "snapshots" in options:
            raise TypeError(
                "OnTheFlySign takes no snapshots: each batch has one K. Name them all in steps"
            )
        self.steps = _choices(steps)
        if isinstance(probability, bool) or not isinstance(probability, int | float):
            raise TypeError(f"probability must be a number, got {probability!r}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1], got {probability:g}")
        self.probability = float(probability)
        self.generator = generator
        self.sign = SignTransform(model, max(1, *self.steps), **options)
        self.last_steps: int | None = None

    def __call__(self, images: Any, *others: Any) -> Any:
        """Transform a batch with a K of its own.

        Args:
            images: floating (N, C, H, W), or a batch that holds such images, as for a
                `SignTransform`.
            others: what comes with them, labels for instance. A `torch.Generator` at the end draws
                K and is not returned.

        Returns:
            The batch in its form, images of its shape; with K = 0 the batch itself.

        Raises:
            TypeError, ValueError, SourceLayerError, BackendError, DivergenceError: as
                `SignTransform.transform`.
        """
        generator = self.generator
        if others and isinstance(others[-1], Generator):
            *others, generator = others  # type: ignore[assignment]
        sample = (images, *others) if others else images
        self.last_steps = steps = self._draw(generator)
        if not steps:
            return sample
        return transform_in(sample, lambda each: self.sign.transform(each, steps=steps))

    def _draw(self, generator: Generator | None) -> int:
        """Draw K; always two numbers, so that what is drawn later does not depend on them."""
        device = "cpu" if generator is None else generator.device
        drawn = torch.rand(2, generator=generator, device=device, dtype=torch.float64).tolist()
        if drawn[0] >= self.probability:
            return 0
        return self.steps[int(drawn[1] * len(self.steps))]

    def describe(self) -> dict[str, Any]:
        """The options that decide what a batch becomes, as plain data, for records of runs."""
        options = {**vars(self.sign.settings)}
        for name in ("steps", "snapshots", "batch_size"):
            del options[name]
        steps = list(self.steps)
        return {"steps": steps, "probability": self.probability, **options}


def _choices(steps: int | Sequence[int]) -> tuple[int, ...]:
    """The K to draw from."""
    if isinstance(steps, int) and not isinstance(steps, bool):
        return tuple(range(Settings(steps=steps).steps + 1))
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise TypeError(
            f"steps must be numbers of steps such as (0, 50, 100), or the largest, got {steps!r}"
        )
    if not steps:
        raise ValueError("steps is empty: name at least one number of steps, 0 for none")
    for k in steps:
        if isinstance(k, bool) or not isinstance(k, int):
            raise TypeError(f"steps must be integers, got {k!r} ({type(k).__name__})")
        if k < 0:
            raise ValueError(f"steps must be 0 or more, got {k}")
    return tuple(steps)
