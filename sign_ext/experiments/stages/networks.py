"""The stage that trains a network, on originals or joined with SIGN's versions of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from sign_ext.augment import Augment, Compose, build_augment, sign_training_set
from sign_ext.data import ImageSet
from sign_ext.experiments.search_stage import Search
from sign_ext.experiments.stages.cost import FORWARD, TRAINING, flops_per_image
from sign_ext.experiments.stages.runner import Bench, Outcome
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import Stage
from sign_ext.models import build_model
from sign_ext.store import load_transformed
from sign_ext.training import TrainSettings, load_checkpoint, train
from sign_ext.training.state import STATE_NAME

if TYPE_CHECKING:
    from sign_ext.experiments.sign_stages import Transform


@dataclass(frozen=True)
class Network:
    """A network as `build_model` takes it.

    Attributes:
        model: its name.
        options: of the model.
        aleatoric: whether it has the two heads of Section 3.2.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    aleatoric: bool = False


@dataclass(frozen=True, eq=False)
class Train(Stage):
    """Train a network from scratch and keep the epoch that is best on validation images.

    Attributes:
        source: the images; of `fingerprint` filled in.
        images: number of training images of the source, for estimates.
        network: to train.
        settings: epochs, batch size, seed (also of the initial weights) …
        augment: names of augmentations, applied in this order to each batch.
        flips: whether an image may be mirrored (digits may not).
        samples: T of Eq. 10, for an aleatoric network.
        sign: versions of the training images that join them; None for none.
        versions: K of those that join; all that there are if empty.
        policies: for the augmentation "deepaugment".
    """

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 1

    source: Source
    images: int
    network: Network
    settings: TrainSettings
    augment: tuple[str, ...] = ()
    flips: bool = True
    samples: int = 0
    sign: Transform | None = None
    versions: tuple[int, ...] = ()
    policies: Search | None = None

    def title(self) -> str:
        """Name the network, the method and the seed."""
        method = "+".join((*self.augment, *(["sign"] if self.sign else []))) or "no augmentation"
        head = "aleatoric " if self.network.aleatoric else ""
        return f"train {head}{self.network.model}, {method}, seed {self.settings.seed}"

    def flops(self) -> float:
        """Forward and backward passes of all steps."""
        size = self.source.image_size or 32
        per_image = flops_per_image(self.network.model, self.network.options, (3, size, size))
        steps = self.settings.total_steps(self.train_images)
        return per_image * TRAINING * steps * min(self.settings.batch_size, self.train_images)

    @property
    def train_images(self) -> int:
        """Images of the joined training set."""
        joined = len(self.versions or self.sign.snapshots) if self.sign else 0
        return self.images * (1 + joined)

    def run(self, bench: Bench, folder: Path) -> dict[str, Any]:
        """Train, continuing an attempt that was killed; the checkpoint is in the folder."""
        splits = bench.data(self.source)
        train_set, validation = self.sets(bench)
        spec = {
            "name": self.network.model,
            "num_classes": len(splits.class_names),
            "image_shape": list(splits.image_shape),
            "options": self.network.options,
            "aleatoric": self.network.aleatoric,
        }
        result = train(
            self._fresh(spec).to(bench.device),
            train_set,
            validation,
            self.settings,
            augment=self._augment(bench, len(splits.class_names)),
            objective=self._objective(),
            device=bench.device,
            out=folder,
            resume=True,
            progress=bench.report,
            config={"model": spec, "stage": self.describe()},
        )
        return {**result.to_dict(), "train_images": len(train_set)}

    def tidy(self, folder: Path) -> None:
        """Remove the state to resume from, four times as large as the checkpoint."""
        (folder / STATE_NAME).unlink(missing_ok=True)

    def sets(self, bench: Bench) -> tuple[ImageSet, ImageSet]:
        """The training and the validation set."""
        splits = bench.data(self.source)
        if self.sign is None:
            return splits.train, splits.validation
        there = load_transformed(bench.outcome(self.sign).folder).snapshots
        joined = {k: there[k] for k in self.versions or there}
        return sign_training_set(splits.train, joined), splits.validation

    def _fresh(self, spec: dict[str, Any]) -> nn.Module:
        # The seed alone decides the initial weights, so all methods start from the same ones.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return build_model(
                spec["name"],
                num_classes=spec["num_classes"],
                image_shape=tuple(spec["image_shape"]),
                aleatoric=spec["aleatoric"],
                **spec["options"],
            )

    def _augment(self, bench: Bench, classes: int) -> Augment:
        options: dict[str, dict[str, Any]] = {
            "classical": {"horizontal_flip": self.flips, "vertical_flip": self.flips},
            "mixup": {"num_classes": classes},
        }
        if self.policies is not None:
            found = bench.outcome(self.policies).folder / Search.FILE
            options["deepaugment"] = {"policies": found}
        parts = tuple(build_augment(name, **options.get(name, {})) for name in self.augment)
        return parts[0] if len(parts) == 1 else Compose(parts)

    def _objective(self) -> Any:
        from sign_ext.training import Aleatoric, CrossEntropy

        return Aleatoric(self.samples) if self.network.aleatoric else CrossEntropy()


@dataclass(frozen=True, eq=False)
class TrainOnDelta(Train):
    """Train on δ = p*_K − p alone (Section 3.1): what SIGN adds, without the image.

    Attributes:
        validation: δ of the validation images, from the same Φ.
    """

    kind: ClassVar[str] = "train-delta"
    version: ClassVar[int] = 1

    validation: Transform | None = None

    def title(self) -> str:
        """Name the network and the seed."""
        return f"train {self.network.model} on δ alone, seed {self.settings.seed}"

    @property
    def train_images(self) -> int:
        """One δ an image."""
        return self.images

    def sets(self, bench: Bench) -> tuple[ImageSet, ImageSet]:
        """δ of the training and of the validation images."""
        from sign_ext.experiments.sign_stages import delta_set

        assert self.sign is not None
        assert self.validation is not None
        splits = bench.data(self.source)
        made = bench.outcome(self.sign)
        return (
            delta_set(made, splits.train, made),
            delta_set(bench.outcome(self.validation), splits.validation, made),
        )


def trained(outcome: Outcome, device: torch.device) -> nn.Module:
    """Load the network that a `Train` stage left."""
    return load_checkpoint(outcome.folder, device)[0]


def evaluation_flops(stage: Train, images: int) -> float:
    """Operations of one forward pass over some images."""
    size = stage.source.image_size or 32
    per_image = flops_per_image(stage.network.model, stage.network.options, (3, size, size))
    return per_image * FORWARD * images
