"""The stage that searches DeepAugment's policies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sign_ext.experiments.stages.cost import TRAINING, flops_per_image
from sign_ext.experiments.stages.runner import Bench
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Stage


@dataclass(frozen=True, eq=False)
class Search(Stage):
    """Search augmentation policies with a small child network (the paper's reference [18]).

    They are learned on the original images alone; the paper applies them to these and to SIGN's.

    Attributes:
        source: the images.
        child_images: training images of a child, a stratified subset.
        trials: policies that are tried.
        epochs: of a child.
        batch_size: of a child.
        top: how many of the best policies are kept.
        flips: whether an image may be mirrored.
        seed: of the search and the children.
    """

    kind: ClassVar[str] = "search"
    version: ClassVar[int] = 1
    FILE: ClassVar[str] = "policies.yaml"

    source: Source
    child_images: int
    trials: int
    epochs: int
    batch_size: int
    top: int
    flips: bool
    seed: int

    def title(self) -> str:
        """Name the seed."""
        return f"search augmentation policies, {self.trials} trials, seed {self.seed}"

    def flops(self) -> float:
        """The children's training."""
        size = self.source.image_size or 32
        per_image = flops_per_image("basic_cnn", {}, (3, size, size))
        return per_image * TRAINING * self.child_images * self.epochs * (self.trials + 1)

    def run(self, bench: Bench, folder: Path) -> dict[str, Any]:
        """Search, continuing the study that a killed attempt left."""
        from sign_ext.augment import save_policies
        from sign_ext.data.splits import stratified_choice
        from sign_ext.experiments.stages.policy_search import search_policies

        splits = bench.data(self.source)
        some = stratified_choice(splits.train.labels.numpy(), self.child_images, seed=0)
        found = search_policies(
            splits.train.subset(some.tolist()),
            splits.validation,
            trials=self.trials,
            epochs=self.epochs,
            batch_size=self.batch_size,
            top=self.top,
            flips=self.flips,
            seed=self.seed,
            storage=folder / "study.sqlite3",
            device=bench.device,
            progress=bench.report,
        )
        save_policies(folder / self.FILE, found.policies)
        return {"scores": list(found.scores), "baseline": found.baseline}
