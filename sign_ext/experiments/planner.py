"""Stages from names: what "SIGN on MobileNetV2, seed 3" means at a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sign_ext.data import fingerprint, load_ood
from sign_ext.experiments.recipes.methods import METHODS
from sign_ext.experiments.scale import NetworkSettings, Scale, Task
from sign_ext.experiments.stages.measure import Classify
from sign_ext.experiments.stages.networks import Calibrate, Network, Train, Transform
from sign_ext.experiments.stages.policy_search import Search
from sign_ext.experiments.stages.runner import StageRunner
from sign_ext.experiments.stages.sources import Source, Sources
from sign_ext.experiments.stages.stage import Stage

Protocol = Literal["epochs", "steps"]
PROTOCOLS: Mapping[Protocol, str] = {"epochs": "equal epochs", "steps": "equal gradient steps"}


@dataclass(frozen=True)
class StagePlanner:
    """Builds the stages of a scale; the same request gives a stage of the same key.

    Attributes:
        scale: all settings.
        seeds: in order.
        sources: reads the data.
        runner: knows the outcomes of stages that are done.
    """

    scale: Scale
    seeds: tuple[int, ...]
    sources: Sources
    runner: StageRunner

    def numbers(self, stage: Stage) -> Mapping[str, Any]:
        """What a finished stage found."""
        outcome = self.runner.outcome(stage)
        if outcome is None:
            raise RuntimeError(f"{stage.title()} is not done yet")
        return outcome.numbers

    def network(self, name: str) -> NetworkSettings:
        """The settings of a network by its name in the scale."""
        return self.scale.networks[name]

    def task(self, network: str) -> Task:
        """The task that a network is trained on."""
        return self.scale.tasks[self.network(network).task]

    def source(self, task: Task) -> Source:
        """The images of a task, their fingerprint filled in (which reads them)."""
        return self.sources.resolved(
            Source(
                task.data, task.train_size, task.validation_size, task.test_size, task.image_size
            )
        )

    def images(self, task: Task, part: str = "train") -> int:
        """How many images a part of a task has."""
        return len(getattr(self.sources.read(self.source(task)), part))

    def train(
        self,
        network: str,
        method: str,
        seed: int,
        *,
        protocol: Protocol = "epochs",
        aleatoric: bool = False,
        sign: Transform | None = None,
        versions: tuple[int, ...] = (),
    ) -> Train:
        """Training a network by a method.

        Args:
            network: its name in the scale.
            method: a key of METHODS.
            seed: of initial weights, batch order and augmentation.
            protocol: "epochs" gives every method the scale's epochs; "steps" gives methods whose
                training set is not enlarged as many gradient steps as SIGN takes in them.
            aleatoric: with the two heads of Section 3.2.
            sign: versions that join the training set instead of those of the network's own Φ.
            versions: K of those that join; all of them if empty.
        """
        settings, task, how = self.network(network), self.task(network), METHODS[method]
        images = self.images(task)
        stage = Train(
            source=self.source(task),
            images=images,
            network=Network(settings.model, settings.options, aleatoric),
            settings=settings.train_settings(task.batch_size, seed),
            augment=how.augment,
            flips=task.flips,
            samples=self.scale.samples if aleatoric else 0,
            sign=(sign or self.transform(self.phi(network, seed))) if how.sign else None,
            versions=versions,
            policies=self.search(task, seed) if "deepaugment" in how.augment else None,
        )
        if how.sign or protocol == "epochs":
            return stage
        return as_many_steps(stage, 1 + len(self.scale.sign.snapshots))

    def phi(self, network: str, seed: int) -> Train:
        """Φ: the same architecture trained on the originals, as the table's own baseline is."""
        return self.train(network, self.task(network).baseline, seed)

    def calibrate(self, phi: Train) -> Calibrate:
        """The step size for a Φ."""
        sign = self.scale.sign
        return Calibrate(phi, sign.calibration_images, sign.target_share, max(sign.snapshots))

    def transform(
        self,
        phi: Train,
        *,
        part: str = "train",
        snapshots: Sequence[int] | None = None,
        factor: float = 1.0,
    ) -> Transform:
        """SIGN's versions of a part of Φ's data, with the calibrated step size times `factor`."""
        sign = self.scale.sign
        kept = tuple(sign.snapshots if snapshots is None else snapshots)
        return Transform(phi, self.calibrate(phi), factor, kept, part, sign.precision)

    def search(self, task: Task, seed: int) -> Search:
        """DeepAugment's policies for a task."""
        search = self.scale.search
        return Search(
            source=self.source(task),
            child_images=min(search.child_images, self.images(task)),
            trials=search.trials,
            epochs=search.epochs,
            batch_size=task.batch_size,
            top=search.top,
            flips=task.flips,
            seed=seed,
        )

    def classify(self, stage: Train, network: str) -> Classify:
        """Accuracy on test images, clean and corrupted."""
        scale = self.scale
        images = self.images(self.task(network), "test")
        return Classify(stage, images, scale.draws, scale.pixels, scale.sigma)

    def ood(self) -> dict[str, Any]:
        """The out-of-distribution set, with a fingerprint of its images."""
        given = self.scale.ood
        options = {name: value for name, value in given.items() if name != "name"}
        images = load_ood(given["name"], self.sources.root, **options)
        return {**given, "fingerprint": fingerprint(images)[:12]}

    def notes(self) -> tuple[str, ...]:
        """What the data that was read really is, a line a set."""
        return self.sources.notes()

    def options(self, experiment: str, **defaults: Any) -> dict[str, Any]:
        """An experiment's own options at this scale."""
        given = self.scale.experiments.get(experiment, {})
        unknown = [name for name in given if name not in defaults]
        if unknown:
            raise ValueError(
                f"scale {self.scale.name!r}: experiments.{experiment} has no option "
                f"{unknown[0]!r} (there are {', '.join(defaults)})"
            )
        return {**defaults, **given}


def as_many_steps(stage: Train, versions: int) -> Train:
    """The same training with as many gradient steps as a training set `versions` times as large."""
    settings = stage.settings
    steps = settings.total_steps(stage.images * versions)
    longer = replace(settings, epochs=settings.epochs * versions + 1, max_steps=steps)
    return replace(stage, settings=longer)
