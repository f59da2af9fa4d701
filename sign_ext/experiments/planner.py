"""From names to stages: what "SIGN on MobileNetV2, seed 3" means at a scale."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sign_ext.data import fingerprint, load_ood
from sign_ext.experiments.scale import NetworkSettings, Scale, Task
from sign_ext.experiments.stages.controls import (
    Changed,
    MatchStep,
    TrueClass,
    Untrained,
)
from sign_ext.experiments.stages.measure import Classify
from sign_ext.experiments.stages.networks import (
    PHI_SEEDS,
    TUNING_SEED,
    Calibrate,
    ChooseRate,
    ChooseStep,
    Network,
    Noise,
    Train,
    Transform,
    Versions,
)
from sign_ext.experiments.stages.policy_search import SearchPolicies
from sign_ext.experiments.stages.runner import StageRunner
from sign_ext.experiments.stages.sources import Source, Sources
from sign_ext.experiments.stages.stage import Stage
from sign_ext.training import TrainSettings, doubt_of_training, steps_per_epoch

Protocol = Literal["steps", "epochs", "compute"]
# In the order of tables.
PROTOCOLS: Mapping[Protocol, str] = {
    "steps": "equal gradient steps",
    "epochs": "equal epochs",
    "compute": "equal computation",
}


# Versions of the training images that join them:
#   "sign": p*_K of the network's own Φ;
#   "noise": Gaussian noise of SIGN's rms for each K;
#   "shuffled", "negated", "signs": SIGN's δ changed, see `stages.controls.Changed`;
#   "other", "untrained", "input", "momentum": SIGN of another Φ, or iterated otherwise, each with
#       the step size that moves images as far as SIGN does;
#   "true_class": the same with the gradient of the true class's logit.
Kind = Literal[
    "",
    "sign",
    "noise",
    "shuffled",
    "negated",
    "signs",
    "other",
    "untrained",
    "input",
    "momentum",
    "true_class",
]
MOMENTUM = 0.9  # of the control with velocity; the paper's comparison with momentum has no number


@dataclass(frozen=True)
class Method:
    """A way to train that tables compare.

    Attributes:
        label: in tables, the paper's own where it has one.
        augment: augmentations of each batch, in order.
        versions: of the training images that join them; "" for none.
        note: what the paper leaves open; "" for nothing.
        distilled: whether Φ's answers are mixed into the labels.
        attack_steps: of the attack on each batch, for adversarial training; 0 for none.
        auxiliary: whether attacked images join the batch, with batch normalisation of their own.
    """

    label: str
    augment: tuple[str, ...]
    versions: Kind = ""
    note: str = ""
    distilled: bool = False
    attack_steps: int = 0
    auxiliary: bool = False

    @property
    def sign(self) -> bool:
        """Whether SIGN's versions join the training set."""
        return self.versions == "sign"

    @property
    def enlarges(self) -> bool:
        """Whether versions of the images join the training set."""
        return self.versions != ""


def _control(label: str, versions: Kind, note: str) -> Method:
    return Method(label, ("classical",), versions, f"with classical augmentation; {note}")


def _field(label: str, *augment: str, note: str = "", versions: Kind = "") -> Method:
    on_top = "on top of classical augmentation"
    return Method(label, ("classical", *augment), versions, f"{on_top}; {note}" if note else on_top)


METHODS = {
    "none": Method("Baseline", ()),
    "classical": Method("Classical", ("classical",)),
    "mixup": Method(
        "mixup", ("classical", "mixup"), note="α = 1, on top of classical augmentation"
    ),
    "sign": Method("SIGN", ("classical",), "sign", note="with classical augmentation"),
    "noise": Method(
        "Noise",
        ("classical",),
        "noise",
        note="with classical augmentation; Gaussian noise of SIGN’s rms for each K",
    ),
    "sign_alone": Method("SIGN alone", (), "sign", note="without any other augmentation"),
    "deepaugment": Method("DeepAugment", ("deepaugment",)),
    "deepaugment_sign": Method(
        "DeepAugment + SIGN",
        ("deepaugment",),
        "sign",
        note="policies learned on the originals, applied to both; Φ trained classically",
    ),
    "mixup_alone": Method("mixup alone", ("mixup",), note="α = 1, without classical augmentation"),
    # Controls: each lacks one property of SIGN's images and has the others.
    "shuffled": _control("Shuffled δ", "shuffled", "each image gets the δ of another"),
    "shuffled_alone": Method(
        "Shuffled δ alone",
        (),
        "shuffled",
        note="without any other augmentation; each image gets the δ of another",
    ),
    "negated": _control("−δ", "negated", "p − δ instead of p + δ"),
    "signs": _control("sign(δ)", "signs", "as large as δ in the root mean square"),
    "other": _control(
        "Φ of another seed", "other", "a Φ from other weights, trained on the next seed’s images"
    ),
    "untrained": _control("Φ untrained", "untrained", "initial weights, and SIGN’s rms at K"),
    "input": _control(
        "δ at the input", "input", "Algorithm 1, line 3, literally: one δ for all K, at SIGN’s rms"
    ),
    "momentum": _control("Momentum", "momentum", f"μ = {MOMENTUM:g}, at SIGN’s rms"),
    "true_class": _control(
        "The true class’s gradient", "true_class", "of its logit instead of Φ’s sum, at SIGN’s rms"
    ),
    "distilled": Method(
        "Distillation",
        ("classical",),
        note="with classical augmentation; the mean of label and Φ’s probabilities as the target",
        distilled=True,
    ),
    # What the field would use.
    "trivialaugment": _field("TrivialAugment", "trivialaugment"),
    "randaugment": _field("RandAugment", "randaugment", note="two operations of magnitude 9"),
    "augmix": _field("AugMix", "augmix", note="without the consistency loss"),
    "cutmix": _field("CutMix", "cutmix", note="α = 1"),
    "trivialaugment_sign": _field(
        "TrivialAugment + SIGN",
        "trivialaugment",
        note="SIGN’s images are clipped to 0–255 and rounded for it",
        versions="sign",
    ),
    "adversarial_fast": Method(
        "Adversarial, one step",
        ("classical",),
        note="on top of classical augmentation; L∞, ε = 4 grey levels, from a random start",
        attack_steps=1,
    ),
    "adversarial": Method(
        "Adversarial, PGD-3",
        ("classical",),
        note="on top of classical augmentation; L∞, ε = 4 grey levels, three steps of 2",
        attack_steps=3,
    ),
    "advprop": Method(
        "AdvProp",
        ("classical",),
        note="on top of classical augmentation; one step of L∞, ε = 4 grey levels, from a random "
        "start, and auxiliary BatchNorm",
        attack_steps=1,
        auxiliary=True,
    ),
    # In Table 4, where "sign" is of another network's Φ.
    "sign_own": Method(
        "SIGN of its own Φ",
        ("classical",),
        "sign",
        note="with classical augmentation; as far from the originals as the other’s",
    ),
}


@dataclass(frozen=True)
class StagePlanner:
    """Builds the stages of a scale; equal requests give stages with equal keys.

    Attributes:
        scale: all settings.
        seeds: in order.
        sources: reads the data.
        runner: knows the outcomes of finished stages.
    """

    scale: Scale
    seeds: tuple[int, ...]
    sources: Sources
    runner: StageRunner

    def numbers(self, stage: Stage) -> Mapping[str, Any]:
        """The numbers of a finished stage."""
        outcome = self.runner.outcome(stage)
        if outcome is None:
            raise RuntimeError(f"{stage.title()} is not done yet")
        return outcome.numbers

    def doubt_of_learning(self, stage: Train) -> str | None:
        """Why a network is not shown to have learnt, "" where it is, None if that is not known.

        Stages of earlier versions recorded no doubt: it follows from the history that they have.

        Args:
            stage: whose folder may have been removed.
        """
        outcome = self.runner.outcome(stage)
        if outcome is None:
            return None
        if "doubt_of_learning" in outcome.numbers:
            return str(outcome.numbers["doubt_of_learning"])
        labels = self.sources.read(stage.source).validation.labels
        history = outcome.numbers.get("history", [])
        return doubt_of_training(history, stage.settings.select, labels)

    def network(self, name: str) -> NetworkSettings:
        """The settings of a network by its name in the scale."""
        return self.scale.networks[name]

    def task(self, network: str) -> Task:
        """The task that a network is trained on."""
        return self.scale.tasks[self.network(network).task]

    def source(self, task: Task, seed: int = 0) -> Source:
        """The images of a task, with their fingerprint, for which they are read.

        Args:
            task: of the scale.
            seed: chooses the training images, if the task takes a part of them.
        """
        return self.sources.with_fingerprint(
            Source(
                task.data,
                task.train_size,
                task.validation_size,
                task.test_size,
                task.image_size,
                seed=seed if self.scale.protocol > 1 and task.train_size is not None else 0,
            )
        )

    def image_count(self, task: Task, part: str = "train") -> int:
        """How many images a part of a task has."""
        return len(self.sources.read(self.source(task)).part(part))

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
        epochs: int | None = None,
    ) -> Train:
        """Training a network by a method.

        Args:
            network: its name in the scale.
            method: a key of METHODS.
            seed: of initial weights, batch order, augmentation, and of the training images where
                the task takes a part of them.
            protocol: "epochs" gives every method the scale's epochs; "steps" gives methods without
                versions of the images, whose training set is smaller, as many gradient steps as
                SIGN takes; "compute" gives all but SIGN so many that they cost as much as SIGN's
                network, its Φ and its K steps together.
            aleatoric: with the two heads of Section 3.2.
            sign: versions that join the training set instead of those of the network's own Φ.
            versions: K of those that join; all of them if empty.
            epochs: instead of the network's.

        By protocol 2 the network is validated as often as it has epochs, whatever its steps.
        """
        settings, task, how = self.network(network), self.task(network), METHODS[method]
        joined: Versions | None = None
        if how.enlarges:
            joined = sign or self.transform(self.phi(network, seed))
            joined = self.control(how.versions, joined, network, seed)
        own = self._train_settings(network, seed)
        stage = Train(
            source=self.source(task, seed),
            images=self.image_count(task),
            network=Network(settings.model, settings.options, aleatoric),
            settings=own if epochs is None else replace(own, epochs=epochs),
            augment=how.augment,
            flips=task.flips,
            samples=self.scale.samples if aleatoric else 0,
            sign=joined,
            versions=versions,
            policies=self.search(task, seed) if "deepaugment" in how.augment else None,
            rate=self.choose_rate(network),
            teacher=self.phi(network, seed) if how.distilled else None,
            attack_steps=how.attack_steps,
            auxiliary=how.auxiliary,
        )
        if how.sign or protocol == "epochs":
            return stage
        if protocol == "compute":
            return with_steps(stage, self._steps_for_computation_of_sign(stage, network, seed))
        if how.enlarges:
            return stage
        return with_equal_steps(stage, 1 + len(self.scale.sign.snapshots))

    def control(self, kind: Kind, sign: Transform, network: str, seed: int) -> Versions:
        """The versions of the training images of a method.

        Args:
            kind: of `Method.versions`, not "".
            sign: SIGN's, whose images and rms they have.
            network: whose Φ it is, by its name in the scale.
            seed: of the experiment.
        """
        if kind == "sign":
            return sign
        if kind == "noise":
            return Noise(sign, seed)
        if kind in ("shuffled", "negated", "signs"):
            return Changed(sign, kind, seed if kind == "shuffled" else 0)
        if kind == "true_class":
            return TrueClass(sign, self.scale.sign.calibration_images)
        phi = sign.phi
        how: dict[str, Any] = {}
        if kind == "other":
            phi = self.phi(network, seed + 1)
        elif kind == "untrained":
            fields = {each.name: getattr(phi, each.name) for each in dataclasses.fields(phi)}
            # None of the settings but the seed matters, and no training is needed.
            settings = TrainSettings(epochs=1, seed=phi.settings.seed)
            fields |= {"settings": settings, "augment": (), "rate": None}
            phi = Untrained(**fields)
        else:
            how = {"linearize_at": "input"} if kind == "input" else {"momentum": MOMENTUM}
        step = MatchStep(phi, sign, self.scale.sign.calibration_images, **how)
        return replace(sign, phi=phi, step=step, factor=1.0, others=sign.source, **how)

    def matched(self, phi: Train, sign: Transform) -> Transform:
        """SIGN's versions by a Φ, on the images of another and as far from them.

        Args:
            phi: the network Φ.
            sign: of the other Φ.
        """
        step = MatchStep(phi, sign, self.scale.sign.calibration_images)
        return replace(sign, phi=phi, step=step, factor=1.0, others=sign.source)

    def _train_settings(self, network: str, seed: int) -> TrainSettings:
        settings, task = self.network(network), self.task(network)
        checkpoints = settings.epochs if self.scale.protocol > 1 else None
        return settings.train_settings(
            task.batch_size, seed, checkpoints=checkpoints, select=task.select
        )

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Those of every table, in order."""
        return ("steps", "epochs") if self.scale.protocol > 1 else ("epochs", "steps")

    def _steps_for_computation_of_sign(self, stage: Train, network: str, seed: int) -> int:
        """How many steps cost what SIGN costs: Φ, K steps on each image, and training."""
        transform = self.transform(self.phi(network, seed))
        # The same training with SIGN's versions; augmentation costs little beside the network.
        enlarged = replace(stage, sign=transform, versions=())
        spent = transform.phi.flops() + transform.flops() + enlarged.flops()
        a_step = stage.flops() / stage.settings.total_steps(stage.train_images)
        return math.ceil(spent / a_step)

    def phi(self, network: str, seed: int) -> Train:
        """Φ: trained as the table's baseline is, on the same images, from weights of its own."""
        epochs = self.network(network).phi_epochs
        stage = self.train(network, self.task(network).baseline, seed, epochs=epochs)
        if self.scale.protocol == 1:
            return stage
        return replace(stage, settings=replace(stage.settings, seed=seed + PHI_SEEDS))

    def choose_rate(self, network: str) -> ChooseRate | None:
        """The learning rate of a network, the same for every method; None if none is chosen.

        Args:
            network: its name in the scale.
        """
        settings, task = self.network(network), self.task(network)
        if not settings.learning_rates:
            return None
        first = Train(
            source=self.source(task, TUNING_SEED),
            images=self.image_count(task),
            network=Network(settings.model, settings.options),
            settings=self._train_settings(network, TUNING_SEED),
            augment=METHODS[task.baseline].augment,
            flips=task.flips,
        )
        return ChooseRate(
            tuple(
                replace(first, settings=replace(first.settings, learning_rate=rate))
                for rate in settings.learning_rates
            )
        )

    def learning_rate(self, network: str) -> float:
        """The learning rate that a network was trained with.

        Args:
            network: its name in the scale.
        """
        chosen = self.choose_rate(network)
        if chosen is None:
            return self.network(network).learning_rate
        return float(self.numbers(chosen)["learning_rate"])

    def calibrate(self, phi: Train, share: float | None = None) -> Calibrate:
        """The step size for a Φ and a share of the range, the scale's `target_share` if None."""
        sign = self.scale.sign
        return Calibrate(
            phi,
            sign.calibration_images,
            sign.target_share if share is None else share,
            max(sign.snapshots),
            sign.require_learnt,
        )

    def choose_step(self, phi: Train) -> Calibrate | ChooseStep:
        """The step size for a Φ, with the share of the range that is best on validation images."""
        sign = self.scale.sign
        if not sign.target_shares:
            return self.calibrate(phi)
        source = phi.source
        if self.scale.protocol > 1 and source.train_size is not None:
            source = self.sources.with_fingerprint(replace(source, seed=TUNING_SEED))
        own = replace(phi.settings, seed=TUNING_SEED + PHI_SEEDS)
        teacher = replace(phi, source=source, settings=own)
        epochs = replace(phi.settings, seed=TUNING_SEED, epochs=self._student_epochs(phi))
        student = replace(phi, source=source, settings=epochs)
        return ChooseStep(
            sign.target_shares,
            tuple(
                replace(student, sign=self._transform(teacher, self.calibrate(teacher, share)))
                for share in sign.target_shares
            ),
            tuple(self.calibrate(phi, share) for share in sign.target_shares),
        )

    def _student_epochs(self, phi: Train) -> int:
        """The epochs of the networks that a Φ's images train: not always Φ's own."""
        own = [
            each.epochs
            for each in self.scale.networks.values()
            if (each.model, each.options) == (phi.network.model, phi.network.options)
            and each.phi_epochs == phi.settings.epochs
        ]
        return own[0] if own else phi.settings.epochs

    def transform(
        self,
        phi: Train,
        *,
        part: str = "train",
        snapshots: Sequence[int] | None = None,
        factor: float | None = None,
        most: int = 0,
    ) -> Transform:
        """SIGN's versions of a part of Φ's data.

        Args:
            phi: the network Φ.
            part: "train", "validation" or "test".
            snapshots: the K to keep; the scale's if None.
            factor: takes so many times the calibrated step size instead of the chosen one.
            most: at most so many images, evenly spaced; 0 for all.
        """
        if factor is not None:
            return self._transform(phi, self.calibrate(phi), part, snapshots, factor)
        return replace(self._transform(phi, self.choose_step(phi), part, snapshots), most=most)

    def _transform(
        self,
        phi: Train,
        step: Calibrate | ChooseStep,
        part: str = "train",
        snapshots: Sequence[int] | None = None,
        factor: float = 1.0,
    ) -> Transform:
        sign = self.scale.sign
        kept = tuple(sign.snapshots if snapshots is None else snapshots)
        return Transform(phi, step, factor, kept, part, sign.precision)

    def search(self, task: Task, seed: int) -> SearchPolicies:
        """DeepAugment's policies for a task."""
        search = self.scale.search
        return SearchPolicies(
            source=self.source(task, seed),
            child_images=min(search.child_images, self.image_count(task)),
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
        images = self.image_count(self.task(network), "test")
        return Classify(stage, images, scale.draws, scale.pixels, scale.sigma)

    def ood(self) -> dict[str, Any]:
        """The out-of-distribution set, with a fingerprint of its images."""
        ood = self.scale.ood
        options = {name: value for name, value in ood.items() if name != "name"}
        images = load_ood(ood["name"], self.sources.root, **options)
        return {**ood, "fingerprint": fingerprint(images)[:12]}

    def notes(self) -> tuple[str, ...]:
        """One line for each data set read: what it really is."""
        return self.sources.notes()

    def options(self, experiment: str, **defaults: Any) -> dict[str, Any]:
        """An experiment's own options at this scale.

        Args:
            experiment: its name.
            **defaults: every option that it has, with its default.

        Raises:
            ValueError: the scale sets an option that the experiment does not have.
        """
        own = self.scale.experiments.get(experiment, {})
        unknown = [name for name in own if name not in defaults]
        if unknown:
            raise ValueError(
                f"scale {self.scale.name!r}: experiments.{experiment} has no option "
                f"{unknown[0]!r}; accepted: {', '.join(defaults)}"
            )
        return {**defaults, **own}


def with_equal_steps(stage: Train, times: int) -> Train:
    """The same training with as many gradient steps as on a training set `times` as large.

    Args:
        stage: training on the originals.
        times: how much larger the other training set is.
    """
    settings = stage.settings
    steps = settings.total_steps(stage.images * times)
    # Almost always more epochs than needed; their number enters the keys of stages on disk.
    return with_steps(stage, steps, settings.epochs * times + 1)


def with_steps(stage: Train, steps: int, epochs: int = 1) -> Train:
    """The same training for so many gradient steps.

    Args:
        stage: any training.
        steps: to be taken.
        epochs: at least so many are allowed for them.
    """
    # A last batch of one image joins the batch before it, so that three epochs of a set can have
    # fewer steps than one of a set three times as large.
    enough = math.ceil(steps / steps_per_epoch(stage.train_images, stage.settings.batch_size))
    longer = replace(stage.settings, epochs=max(epochs, enough), max_steps=steps)
    return replace(stage, settings=longer)
