"""The stages that make networks and what they train on.

Training, calibrating a step size and transforming refer to each other: a network may be trained on
versions of its images that an earlier network's SIGN made.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.augment import (
    Adversarial,
    AdvProp,
    Augment,
    Compose,
    Distilled,
    auxiliary_batch_norm,
    build_augment,
    sign_training_set,
)
from sign_ext.change import describe_change
from sign_ext.data import ImageSet, ImageSource
from sign_ext.data.guessing import NOT_SHOWN
from sign_ext.data.splits import stratified_choice
from sign_ext.errors import DivergenceError
from sign_ext.evaluation import doubt_of_learning, gaussian_noise, predict
from sign_ext.experiments.stages.cost import SIGN, TRAINING, flops_per_image
from sign_ext.experiments.stages.policy_search import SearchPolicies
from sign_ext.experiments.stages.sources import Source, evenly_spaced
from sign_ext.experiments.stages.stage import Outcome, RunContext, Stage, StageRefusedError
from sign_ext.files import read_json
from sign_ext.formatting import ADDED
from sign_ext.models import build_model
from sign_ext.settings import LinearizeAt
from sign_ext.store import load_transformed, transform_to_store
from sign_ext.store.coordination import Ranks
from sign_ext.training import (
    Aleatoric,
    CrossEntropy,
    Objective,
    TrainSettings,
    load_checkpoint,
    train,
)
from sign_ext.training.checkpoints import CHECKPOINT_NAME, save_checkpoint
from sign_ext.training.state import STATE_NAME

# Φ of seed s is trained with seed s + PHI_SEEDS: from other initial weights and in another order
# than the networks that are trained on its images, so that they do not profit from a common start.
PHI_SEEDS = 1_000_000
# Settings are chosen with this seed, on validation images, and no table has it.
TUNING_SEED = PHI_SEEDS - 1
AUXILIARY = "auxiliary"  # folder of a run by AdvProp, whose state has layers that it drops
DELTA_RMS = 64.0  # grey levels: roughly how far natural images' pixels deviate from their mean


class Versions(Protocol):
    """A stage that makes versions of the training images: SIGN's, or those of a control."""

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The K, one a version."""
        ...

    @property
    def manner(self) -> str:
        """What the versions are, in a word or two."""
        ...

    def images(self, context: RunContext) -> Mapping[int, Tensor]:
        """The versions by K, float32, once the stage is done."""
        ...


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
    """Train a network from scratch and keep the epoch with the best validation accuracy.

    Attributes:
        source: the images, with `fingerprint` filled in.
        images: number of training images of the source, for estimates.
        network: to train.
        settings: epochs, batch size, seed (also of the initial weights) …
        augment: names of augmentations, applied in this order to each batch.
        flips: whether an image may be mirrored (digits may not).
        samples: T of Eq. 10, for an aleatoric network.
        sign: versions of the training images that join them, SIGN's or those of a control that
            stands in for SIGN's; None for none.
        versions: K of those that join; all of them if empty.
        policies: for the augmentation "deepaugment".
        rate: gives the learning rate instead of the settings; None takes theirs.
        teacher: a network whose answers are mixed into the labels; None for none.
        attack_steps: of the attack on each batch, for adversarial training; 0 for none.
        auxiliary: whether attacked images join the batch, with batch normalisation of their own
            (AdvProp), instead of replacing it.
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
    sign: Versions | None = None
    versions: tuple[int, ...] = ()
    policies: SearchPolicies | None = None
    rate: ChooseRate | None = field(default=None, metadata=ADDED)
    teacher: Train | None = field(default=None, metadata=ADDED)
    attack_steps: int = field(default=0, metadata=ADDED)
    auxiliary: bool = field(default=False, metadata=ADDED)

    def warning(self, numbers: Mapping[str, Any]) -> str:
        """Say so where the network is not shown to have learnt: nothing is stopped by it."""
        doubt = numbers.get("doubt_of_learning")  # without training there is none
        return f"{NOT_SHOWN}: {doubt}" if doubt else ""

    def title(self) -> str:
        """Name the network, the method and the seed."""
        versions = [] if self.sign is None else [self.sign.manner]
        taught = [] if self.teacher is None else ["distilled"]
        how = "advprop" if self.auxiliary else "attack"
        attacked = [f"{how} of {self.attack_steps}"] if self.attack_steps else []
        method = "+".join((*self.augment, *versions, *taught, *attacked)) or "no augmentation"
        head = "aleatoric " if self.network.aleatoric else ""
        return f"train {head}{self.network.model}, {method}, {self.seed_in_words}"

    @property
    def seed(self) -> int:
        """The seed of the experiment, also where this is its Φ."""
        return self.settings.seed % PHI_SEEDS

    @property
    def seed_in_words(self) -> str:
        """The seed, for titles."""
        of_phi = self.settings.seed >= PHI_SEEDS
        return f"{'Φ of ' if of_phi else ''}seed {self.seed}"

    def flops(self) -> float:
        """Passes of all steps, with those of a teacher and of attacks."""
        steps = self.settings.total_steps(self.train_images)
        batch_size = min(self.settings.batch_size, self.train_images)
        trained = TRAINING * (2 if self.auxiliary else 1)
        an_image = self.forward_flops * (trained + SIGN * self.attack_steps)
        if self.teacher is not None:
            an_image += self.teacher.forward_flops
        return an_image * steps * batch_size

    @property
    def forward_flops(self) -> float:
        """Operations of one forward pass of one image."""
        size = self.source.image_size or 32
        return flops_per_image(self.network.model, self.network.options, (3, size, size))

    @property
    def train_images(self) -> int:
        """Images of the joined training set."""
        joined = len(self.versions or self.sign.snapshots) if self.sign else 0
        return self.images * (1 + joined)

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Train, resuming an attempt that was killed; the checkpoint is in the folder."""
        splits = context.data(self.source)
        train_set, validation = self.datasets(context)
        spec = self.model_spec(context)
        model = self.initial_model(spec).to(context.device)
        with auxiliary_batch_norm(model) if self.auxiliary else nullcontext():
            result = train(
                model,
                train_set,
                validation,
                self._settings(context),
                augment=self._augment(context, len(splits.class_names), model),
                objective=self._objective(),
                device=context.device,
                out=folder / AUXILIARY if self.auxiliary else folder,
                resume=True,
                progress=context.report,
                config={"model": spec, "stage": self.describe()},
            )
        if self.auxiliary:
            # The run's own checkpoint has the auxiliary layers; this network has none any more.
            recorded = read_json((folder / AUXILIARY / CHECKPOINT_NAME).with_suffix(".json"))
            save_checkpoint(folder / CHECKPOINT_NAME, model, recorded)
        return {**result.to_dict(), "train_images": len(train_set)}

    def model_spec(self, context: RunContext) -> dict[str, Any]:
        """What `load_checkpoint` rebuilds the network from."""
        splits = context.data(self.source)
        return {
            "name": self.network.model,
            "num_classes": len(splits.class_names),
            "image_shape": list(splits.image_shape),
            "options": self.network.options,
            "aleatoric": self.network.aleatoric,
        }

    def clean_up(self, folder: Path) -> None:
        """Remove the state to resume from, four times as large as the checkpoint."""
        (folder / STATE_NAME).unlink(missing_ok=True)
        shutil.rmtree(folder / AUXILIARY, ignore_errors=True)

    def datasets(self, context: RunContext) -> tuple[ImageSet, ImageSet]:
        """The training and the validation set."""
        splits = context.data(self.source)
        if self.sign is None:
            return splits.train, splits.validation
        snapshots = self.sign.images(context)
        joined = {k: snapshots[k] for k in self.versions or snapshots}
        return sign_training_set(splits.train, joined), splits.validation

    def _settings(self, context: RunContext) -> TrainSettings:
        if self.rate is None:
            return self.settings
        rate = float(context.outcome(self.rate).numbers["learning_rate"])
        return replace(self.settings, learning_rate=rate)

    def initial_model(self, spec: dict[str, Any]) -> nn.Module:
        """The network before training: the seed alone decides its weights, whatever the method."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            return build_model(
                spec["name"],
                num_classes=spec["num_classes"],
                image_shape=tuple(spec["image_shape"]),
                aleatoric=spec["aleatoric"],
                **spec["options"],
            )

    def _augment(self, context: RunContext, classes: int, model: nn.Module) -> Augment:
        options: dict[str, dict[str, Any]] = {
            "classical": {"horizontal_flip": self.flips, "vertical_flip": self.flips},
            "mixup": {"num_classes": classes},
            "cutmix": {"num_classes": classes},
        }
        if self.policies is not None:
            policies = context.outcome(self.policies).folder / SearchPolicies.FILE
            options["deepaugment"] = {"policies": policies}
        parts = [build_augment(name, **options.get(name, {})) for name in self.augment]
        if self.teacher is not None:
            teacher = load_trained(context.outcome(self.teacher), context.device)
            parts.append(Distilled(teacher, classes))
        if self.attack_steps:
            kind = AdvProp if self.auxiliary else Adversarial
            parts.append(kind(model, steps=self.attack_steps))
        return parts[0] if len(parts) == 1 else Compose(tuple(parts))

    def _objective(self) -> Objective:
        return Aleatoric(self.samples) if self.network.aleatoric else CrossEntropy()


@dataclass(frozen=True, eq=False)
class ChooseRate(Stage):
    """Choose the learning rate that trains best on validation, once for a network.

    Attributes:
        candidates: the network trained at each rate, with the tuning seed.
    """

    kind: ClassVar[str] = "choose-rate"
    version: ClassVar[int] = 1

    candidates: tuple[Train, ...]

    def title(self) -> str:
        """Name the network."""
        return f"choose the learning rate for {self.candidates[0].network.model}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Compare the candidates; of equals, the first is chosen."""
        measure, scores = best_on_validation(context, self.candidates)
        rates = [each.settings.learning_rate for each in self.candidates]
        return {
            "learning_rate": rates[scores.index(max(scores))],
            measure: dict(zip(map(str, rates), scores, strict=True)),
        }


def best_on_validation(context: RunContext, candidates: Sequence[Train]) -> tuple[str, list[float]]:
    """What the best checkpoints of finished trainings have on validation images.

    Args:
        context: of the stage that chooses.
        candidates: which select their checkpoints by the same measure.

    Returns:
        The measure's name in a history, and its best value for each.
    """
    measure = f"validation_{candidates[0].settings.select}"
    histories = [context.outcome(each).numbers["history"] for each in candidates]
    return measure, [max(float(row[measure]) for row in history) for history in histories]


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
        return f"train {self.network.model} on δ alone, {self.seed_in_words}"

    @property
    def train_images(self) -> int:
        """One δ for each image."""
        return self.images

    def datasets(self, context: RunContext) -> tuple[ImageSet, ImageSet]:
        """δ of the training and of the validation images."""
        assert isinstance(self.sign, Transform)
        assert self.validation is not None
        splits = context.data(self.source)
        train_outcome = context.outcome(self.sign)
        validation_outcome = context.outcome(self.validation)
        return (
            delta_set(train_outcome, splits.train, scaled_by=train_outcome),
            delta_set(validation_outcome, splits.validation, scaled_by=train_outcome),
        )


@dataclass(frozen=True, eq=False)
class Calibrate(Stage):
    """Propose a step size: the one whose rms change after `steps` steps is a share of the range.

    It is found on validation images; the proposal uses no labels.

    Attributes:
        phi: the network Φ.
        images: how many validation images.
        target_share: rms change over 255.
        steps: K.
        require_learnt: whether a Φ that has not learnt is an error.
    """

    kind: ClassVar[str] = "calibrate"
    version: ClassVar[int] = 1

    phi: Train
    images: int
    target_share: float
    steps: int
    require_learnt: bool = field(default=False, metadata=ADDED)

    def title(self) -> str:
        """Name Φ."""
        return f"calibrate the step size for {self.phi.network.model}, seed {self.phi.seed}"

    def flops(self) -> float:
        """The grid, and about as much again for the proposal."""
        return 8 * self.phi.forward_flops * SIGN * self.images * self.steps

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Calibrate; the table is in the numbers."""
        validation = context.data(self.phi.source).validation
        model = load_trained(context.outcome(self.phi), context.device)
        doubt = doubt_of_learning(predict(model, validation.images), validation.labels)
        if doubt and self.require_learnt:
            raise StageRefusedError(
                f"{self.phi.title()}: Φ has not learnt: {doubt}. SIGN's images of it would say "
                "nothing: give it more epochs or images, or sign.require_learnt: false in the "
                "scale's settings to go on all the same."
            )
        count = min(self.images, len(validation))
        chosen = stratified_choice(validation.labels.numpy(), count, seed=0)
        some = validation.subset(chosen.tolist())
        sign = SignTransform(model)
        table = sign.calibrate(
            some.float().to(context.device),
            some.labels.to(context.device),
            steps=self.steps,
            step_sizes="grid",
            target_share=self.target_share,
            progress=context.report,
        )
        return {**table.to_dict(), "doubt_of_learning": doubt}


@dataclass(frozen=True, eq=False)
class ChooseStep(Stage):
    """Choose how far SIGN moves images: the share of the range that trains best on validation.

    The choice is made once for a network, with the tuning seed; each Φ has its own step size for
    the chosen share.

    Attributes:
        shares: candidates, rms change over 255.
        candidates: the network trained with SIGN's images at each share, with the tuning seed.
        calibrations: of the Φ in question, one for each share.
    """

    kind: ClassVar[str] = "choose-step"
    version: ClassVar[int] = 1

    shares: tuple[float, ...]
    candidates: tuple[Train, ...]
    calibrations: tuple[Calibrate, ...]

    def title(self) -> str:
        """Name Φ."""
        phi = self.calibrations[0].phi
        return f"choose the step size for {phi.network.model}, seed {phi.seed}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Compare the candidates; the first of equals is chosen, which is the smallest change."""
        measure, scores = best_on_validation(context, self.candidates)
        best = scores.index(max(scores))
        return {
            "share": self.shares[best],
            measure: dict(zip(map(str, self.shares), scores, strict=True)),
            "proposed": context.outcome(self.calibrations[best]).numbers["proposed"],
        }


@dataclass(frozen=True, eq=False)
class Transform(Stage):
    """Transform one part of a source by K steps of SIGN; the snapshots are in the folder.

    Attributes:
        phi: the network Φ.
        step: a stage that proposes the step size, which is multiplied by `factor`; None takes
            `factor` itself as the step size.
        factor: see `step`.
        snapshots: the K to keep.
        part: "train", "validation" or "test".
        precision: of the arithmetic.
        linearize_at: "iterate", or "input", Algorithm 1's third line taken literally.
        momentum: μ, see `SignTransform`.
        others: the images, where they are not those that Φ was trained on.
        most: at most so many images of the part, evenly spaced; 0 for all.
    """

    kind: ClassVar[str] = "transform"
    version: ClassVar[int] = 2

    phi: Train
    step: Stage | None
    factor: float
    snapshots: tuple[int, ...]
    part: str = "train"
    precision: str = "float32"
    linearize_at: LinearizeAt = field(default="iterate", metadata=ADDED)
    momentum: float = field(default=0.0, metadata=ADDED)
    others: Source | None = field(default=None, metadata=ADDED)
    most: int = field(default=0, metadata=ADDED)

    @property
    def source(self) -> Source:
        """Where the images are from."""
        return self.others or self.phi.source

    @property
    def manner(self) -> str:
        """What the versions are, in a word or two."""
        if self.linearize_at == "input":
            return "sign at the input"
        return "sign with momentum" if self.momentum else "sign"

    def title(self) -> str:
        """Name Φ, K and the part."""
        seed = self.phi.seed
        steps = max(self.snapshots)
        return (
            f"transform {self.part} images with {self.phi.network.model}, K = {steps}, seed {seed}"
        )

    def flops(self) -> float:
        """Forward and input-backward passes; other parts are taken for a fifth of the train set."""
        images = self.phi.images if self.part == "train" else self.phi.images / 5
        images = self.most or images
        return self.phi.forward_flops * SIGN * images * max(self.snapshots)

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Transform and store."""
        images = self.originals(context)
        step_size = self._step_size(context)
        sign = SignTransform(
            load_trained(context.outcome(self.phi), context.device),
            max(self.snapshots),
            step_size=step_size,
            snapshots=self.snapshots,
            precision=self.precision,
            linearize_at=self.linearize_at,
            momentum=self.momentum,
        )
        try:
            transform_to_store(
                sign,
                ImageSource.in_memory(images, context.data(self.source).note),
                folder,
                # A killed attempt is resumed; one by another version of sign-ext is replaced.
                overwrite=True,
                about={"stage": self.describe()},
                ranks=Ranks(),  # a stage is one process, whatever launcher started it
                progress=context.report,
            )
        except DivergenceError as error:
            raise DivergenceError(
                f"{self.title()}: SIGN diverged with step size {step_size:g} ({error}); lower "
                "sign.target_share in the scale's settings",
                error.step,
            ) from error
        store = load_transformed(folder)
        return {
            "step_size": step_size,
            "images": len(images),
            "change": {
                str(k): describe_change(store.tensor(k), images.images) for k in store.steps
            },
        }

    def images(self, context: RunContext) -> Mapping[int, Tensor]:
        """The versions by K, float32, once the stage is done."""
        return load_transformed(context.outcome(self).folder).snapshots

    def originals(self, context: RunContext) -> ImageSet:
        """The images that are transformed, in the order of the versions."""
        images = context.data(self.source).part(self.part)
        if not 0 < self.most < len(images):
            return images
        return images.subset(evenly_spaced(len(images), self.most))

    def _step_size(self, context: RunContext) -> float:
        if self.step is None:
            return self.factor
        return self.factor * float(context.outcome(self.step).numbers["proposed"])


@dataclass(frozen=True, eq=False)
class Noise(Stage):
    """Versions of the training images with Gaussian noise instead of SIGN's δ, as large as it.

    It is the control for "more images, somewhat changed": for each K, independent noise of the rms
    change that SIGN made, drawn once, as SIGN's versions are computed once. The images
    follow from the outcome's numbers and are not stored.

    Attributes:
        sign: whose changes are imitated.
        seed: of the noise.
    """

    kind: ClassVar[str] = "noise"
    version: ClassVar[int] = 1

    sign: Transform
    seed: int

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The K, which are SIGN's."""
        return self.sign.snapshots

    @property
    def manner(self) -> str:
        """What the versions are, in a word."""
        return "noise"

    def title(self) -> str:
        """Name what is imitated."""
        return f"noise as large as SIGN's change, seed {self.seed}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Take over SIGN's rms of each K, and measure the noise that it gives."""
        change = context.outcome(self.sign).numbers["change"]
        rms = {str(k): float(change[str(k)]["rms"]) for k in self.snapshots}
        originals = context.data(self.sign.source).part(self.sign.part).images
        return {
            "rms": rms,
            "images": len(originals),
            "change": {
                str(k): describe_change(noisy, originals)
                for k, noisy in self._noisy(originals, rms).items()
            },
        }

    def images(self, context: RunContext) -> Mapping[int, Tensor]:
        """The versions by K, float32, once the stage is done."""
        originals = context.data(self.sign.source).part(self.sign.part).images
        return self._noisy(originals, context.outcome(self).numbers["rms"])

    def _noisy(self, originals: Tensor, rms: Mapping[str, float]) -> dict[int, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        return {
            k: gaussian_noise(originals, rms[str(k)], generator=generator) for k in self.snapshots
        }


def load_trained(outcome: Outcome, device: torch.device) -> nn.Module:
    """Load the network that a `Train` stage saved."""
    return load_checkpoint(outcome.folder, device)[0]


def delta_set(transformed: Outcome, originals: ImageSet, *, scaled_by: Outcome) -> ImageSet:
    """δ = p*_K − p of the largest K as a set of images, at a network's usual scale.

    A δ of a few grey levels would reach a network as numbers near 0.01, and its training would test
    the optimiser more than δ. So all δ are multiplied by one factor, which brings the rms of the
    training images' δ to 64 grey levels; it is the same for every part.

    Args:
        transformed: outcome of the `Transform` of these images.
        originals: the images.
        scaled_by: outcome of the `Transform` of the training images.
    """
    snapshots: Mapping[int, Tensor] = load_transformed(transformed.folder).snapshots
    last = max(snapshots)
    factor = DELTA_RMS / scaled_by.numbers["change"][str(last)]["rms"]
    delta = (snapshots[last] - originals.float()) * factor
    return ImageSet(delta, originals.labels, originals.class_names, f"{originals.name}→δ({last})")
