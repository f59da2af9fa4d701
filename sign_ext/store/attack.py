"""Projected gradient descent as what fills a store: adversarial images of a whole data set.

It is `sign_ext.pgd`, with the classes and the positions of a data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.attacks import Attack
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.explanation import Explanation
from sign_ext.store.iteration import Progress

# A step of 2.5·ε/K lets K steps reach every point of the ball from every other (Madry et al. 2018,
# "Towards Deep Learning Models Resistant to Adversarial Attacks", Section 5).
STEPS_OF_THE_RADIUS = 2.5
PIXELS = (0.0, 255.0)


class AttackIteration:
    """PGD on the images of a data set, for `transform_to_store` and `robustness`.

    The random start of an image depends on the seed and on its position in the data set, not on
    the images beside it, so that the bytes depend neither on shards nor on processes.

    Args:
        model: a trained classifier of images of 0–255; left exactly as it is.
        epsilon: radius of the ball around each image, in grey levels.
        step_size: length of a step, in grey levels; None is 2.5·ε/K.
        steps: K.
        norm: "linf" or "l2".
        random_start: begin at a random point of the ball.
        restarts: attacks from different starts, of which the worst is kept.
        objective: "cross_entropy" or "margin".
        target: the class that all images are moved to; None moves each away from its own.
        only_correct: leave images as they are that are misclassified already, or with `target`
            those that are taken for it.
        seed: of the random starts.
        network_labels: the network's output for each class of the data set; None where the two
            have the same classes in the same order.
        batch_size: images at a time, as for `sign_ext.pgd`.
        backend: as for `sign_ext.pgd`.
        precision: as for `sign_ext.pgd`.

    Raises:
        ValueError: an option out of its range.

    Example:
        >>> import tempfile
        >>> from sign_ext.data import open_data
        >>> from sign_ext.models import build_model
        >>> from sign_ext.store import load_transformed, transform_to_store
        >>> attack = AttackIteration(build_model("basic_cnn").eval(), epsilon=8, steps=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = transform_to_store(attack, open_data("digits", train_size=10), folder)
        ...     adversarial = load_transformed(folder).tensor(2)
        >>> adversarial.shape
        torch.Size([10, 3, 32, 32])
    """

    needs_labels = True
    measures = False

    def __init__(
        self,
        model: nn.Module,
        *,
        epsilon: float,
        step_size: float | None = None,
        steps: int = 10,
        norm: str = "linf",
        random_start: bool = True,
        restarts: int = 1,
        objective: str = "cross_entropy",
        target: int | None = None,
        only_correct: bool = False,
        seed: int = 0,
        network_labels: tuple[int, ...] | None = None,
        batch_size: int | None = None,
        backend: str = "auto",
        precision: str = "float32",
    ) -> None:
        """Check the options; nothing is computed yet."""
        self.model = model
        self.target = target
        self.plan = TuningPlan()
        self._network_labels = network_labels
        self._options: dict[str, Any] = {
            "epsilon": float(epsilon),
            "step_size": STEPS_OF_THE_RADIUS * epsilon / steps if step_size is None else step_size,
            "steps": steps,
            "norm": norm,
            "random_start": random_start,
            "restarts": restarts,
            "objective": objective,
            "only_correct": only_correct,
            "seed": seed,
            "batch_size": batch_size,
            "backend": backend,
            "precision": precision,
        }
        self._attack = Attack(model, **self._options, clamp=PIXELS, targeted=target is not None)
        self._step = self._attack.iteration

    @property
    def stops(self) -> tuple[int, ...]:
        """K: the images after the last step are stored."""
        return (self._options["steps"],)

    @property
    def image_steps(self) -> int:
        """K for each restart."""
        steps: int = self._options["steps"]
        restarts: int = self._options["restarts"]
        return steps * restarts

    @property
    def batch_size(self) -> int | None:
        """Images at a time, or None."""
        size: int | None = self._options["batch_size"]
        return size

    def settings(self) -> dict[str, Any]:
        """Return every option, with the update and projection that they mean."""
        rule = self._step.settings.rule
        return {
            "attack": "pgd",
            **self._options,
            "update": rule.update,
            "clamp": list(PIXELS),
            "target": self.target,
            "network_labels": self._network_labels and list(self._network_labels),
        }

    def in_words(self) -> str:
        """Return what is done, in a line.

        Example:
            >>> AttackIteration(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), epsilon=8).in_words()
            'PGD in linf, ε = 8, K = 10 steps of 2 from a random start'
        """
        own = self._options
        starts = "a random start" if own["random_start"] else "the image"
        if own["restarts"] > 1:
            starts = f"{own['restarts']} random starts"
        margin = " of the margin" if own["objective"] == "margin" else ""
        return (
            f"PGD{margin} in {own['norm']}, ε = {own['epsilon']:g}, K = {own['steps']} steps of "
            f"{own['step_size']:g} from {starts}"
        )

    def tuned(self, tune: bool | TuningPlan) -> AttackIteration:
        """Return this: the algorithms are those of the fixed rule."""
        return self

    def one_step(self) -> AttackIteration:
        """Return the same attack with one step, once."""
        kept = {**self._options, "steps": 1, "restarts": 1, "target": self.target}
        return AttackIteration(self.model, **kept, network_labels=self._network_labels)

    def explain(self, images: Tensor, labels: Tensor | None) -> Explanation:
        """Say what runs the steps."""
        return self._step.explain(images)

    def images_at_once(self, images: Tensor, labels: Tensor | None) -> int:
        """Return how many images like these a batch holds."""
        return self._step.images_at_once(images)

    def labels_of(self, labels: Tensor) -> Tensor:
        """Return the network's outputs for labels of the data set.

        Args:
            labels: int64 (n,).
        """
        if self._network_labels is None:
            return labels
        return torch.tensor(self._network_labels, device=labels.device)[labels]

    def run(
        self,
        images: Tensor,
        labels: Tensor | None,
        positions: Tensor,
        out: Mapping[int, Tensor] | None = None,
        progress: Progress | None = None,
    ) -> Mapping[int, Tensor]:
        """Attack the images.

        Args:
            images: float32 (n, C, H, W), 0–255, on the network's device.
            labels: int64 (n,), the data set's.
            positions: int64 (n,), of the images in the data set.
            out: K → a float32 tensor to write to.
            progress: called with (image-steps done, total).
        """
        assert labels is not None
        aims = self.labels_of(labels)
        if self.target is not None:
            aims = torch.full_like(aims, self.target)
        found = self._attack.run(images, aims, positions, progress=progress or False)
        if out is None:
            return {self.stops[0]: found.float()}
        out[self.stops[0]].copy_(found)
        return out
