"""The stages that ask what networks make of p*_K: their answers, the inputs they use, and attacks.

The paper says more than its tables measure: that SIGN's images "lead to improved predictions", that
networks trained on them use "fewer input variables", and that SIGN might "cancel out" adversarial
perturbations. Each of these stages measures one such sentence, image by image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.data import ImageSet
from sign_ext.evaluation import (
    Answers,
    effective_inputs,
    gaussian_noise,
    predict,
    zero_preactivations,
)
from sign_ext.experiments.stages.cost import FORWARD, SIGN
from sign_ext.experiments.stages.measure import ANSWERS, SEED
from sign_ext.experiments.stages.networks import (
    Calibrate,
    ChooseStep,
    Train,
    Transform,
    load_trained,
)
from sign_ext.experiments.stages.sources import evenly_spaced
from sign_ext.experiments.stages.stage import RunContext, Stage
from sign_ext.formatting import ADDED
from sign_ext.store import load_transformed

TOGETHER = 200  # images whose versions, a few dozen each, are in memory at a time
ORIGINAL, NOISE = "0", "noise"  # names of versions: p itself, and p with noise as large as δ

PerImage = dict[str, np.ndarray]


def answers_to(logits: Tensor, labels: Tensor) -> PerImage:
    """What a network says of each image.

    Args:
        logits: float (N, classes).
        labels: int64 (N,), the true classes.

    Returns:
        "accuracy": whether the largest logit is the label's, bool; "confidence": the largest
        probability, and "probability": the true class's, float32.

    Example:
        >>> answers_to(torch.tensor([[0.0, 0.0], [5.0, -5.0]]), torch.tensor([1, 1]))["accuracy"]
        array([False, False])
    """
    probabilities = logits.double().softmax(dim=1)
    true = probabilities.gather(1, labels[:, None])[:, 0]
    return {
        "accuracy": (logits.argmax(dim=1) == labels).numpy(),
        "confidence": probabilities.max(dim=1).values.float().numpy(),
        "probability": true.float().numpy(),
    }


class _Gathered:
    """Answers to several versions of the same images, chunk by chunk."""

    def __init__(self) -> None:
        self.chunks: dict[str, list[PerImage]] = {}

    def add(self, version: str, found: PerImage) -> None:
        self.chunks.setdefault(version, []).append(found)

    def write(self, folder: Path) -> dict[str, dict[str, float]]:
        """Write the answers' file and return the means: version → measure → mean."""
        means: dict[str, dict[str, float]] = {}
        every: dict[str, np.ndarray] = {}
        for version, chunks in self.chunks.items():
            joined = {name: np.concatenate([each[name] for each in chunks]) for name in chunks[0]}
            means[version] = {
                name: float(each.mean(dtype=np.float64)) for name, each in joined.items()
            }
            every |= {answer_name(name, version): each for name, each in joined.items()}
        Answers(every).write(folder / ANSWERS)
        return means


def answer_name(measure: str, version: str) -> str:
    """The name in an answers' file of a measure of each image of a version."""
    return f"{measure}_{version}"


def _chunks(images: ImageSet, report: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Float images and labels, a few at a time."""
    for start in range(0, len(images), TOGETHER):
        report(start, len(images))
        part = images.subset(list(range(start, min(start + TOGETHER, len(images)))))
        yield part.float(), part.labels
    report(len(images), len(images))


def snapshots_of(sign: SignTransform, images: Tensor) -> dict[int, Tensor]:
    """Transform images by a transform that has snapshots."""
    found = sign.transform(images)
    assert isinstance(found, dict)
    return found


def _stored(context: RunContext, versions: Transform, only: Sequence[int]) -> dict[int, Tensor]:
    """The stored versions by K, or some of them."""
    found: Mapping[int, Tensor] = load_transformed(context.outcome(versions).folder).snapshots
    return {k: found[k] for k in only or found}


def _step_size(context: RunContext, step: Calibrate | ChooseStep) -> float:
    return float(context.outcome(step).numbers["proposed"])


@dataclass(frozen=True, eq=False)
class FollowPath(Stage):
    """What Φ itself says of p*_k along the way of its own SIGN, on the test images.

    At the end stands the same for noise as large as δ of the last k.

    Attributes:
        phi: the network Φ.
        step: gives the step size.
        steps: the k to look at, above 0, ascending; p is always looked at.
        images: test images, for estimates.
        stored: has the versions of some test images, with all of `steps` and of the same step
            size; None transforms all test images.
    """

    kind: ClassVar[str] = "follow-path"
    version: ClassVar[int] = 1

    phi: Train
    step: Calibrate | ChooseStep
    steps: tuple[int, ...]
    images: int
    stored: Transform | None = field(default=None, metadata=ADDED)

    def title(self) -> str:
        """Name Φ."""
        return f"Φ's answers to its own p*, {self.phi.network.model}, seed {self.phi.seed}"

    def flops(self) -> float:
        """The steps, and a forward pass for each k."""
        passes = FORWARD * (2 + len(self.steps))
        if self.stored is None:
            passes += SIGN * self.steps[-1]
        return self.phi.forward_flops * self.images * passes

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Transform and classify, a few images at a time."""
        images = self._originals(context)
        model = load_trained(context.outcome(self.phi), context.device)
        step_size = _step_size(context, self.step)
        sign = SignTransform(model, self.steps[-1], step_size=step_size, snapshots=self.steps)
        kept = _stored(context, self.stored, self.steps) if self.stored else {}
        gathered = _Gathered()
        squares = dict.fromkeys(self.steps, 0.0)
        done = 0
        for originals, labels in _chunks(images, context.report):
            if kept:
                rows = slice(done, done + len(originals))
                versions = {k: each[rows] for k, each in kept.items()}
            else:
                versions = snapshots_of(sign, originals.to(context.device))
            done += len(originals)
            gathered.add(ORIGINAL, answers_to(predict(model, originals), labels))
            for k, version in versions.items():
                gathered.add(str(k), answers_to(predict(model, version), labels))
                squares[k] += float((version.cpu() - originals).double().square().sum())
        values = len(images) * images.images[0].numel()
        rms = {str(k): (total / values) ** 0.5 for k, total in squares.items()}
        noisy = gaussian_noise(
            images.float(),
            rms[str(self.steps[-1])],
            generator=torch.Generator().manual_seed(SEED),
        )
        gathered.add(NOISE, answers_to(predict(model, noisy), images.labels))
        return {
            "versions": gathered.write(folder),
            "rms": rms,
            "step_size": step_size,
            "images": len(images),
        }

    def _originals(self, context: RunContext) -> ImageSet:
        if self.stored is None:
            return context.data(self.phi.source).test
        return self.stored.originals(context)


@dataclass(frozen=True, eq=False)
class ClassifyVersions(Stage):
    """A network's answers to p, to each p*_K of a Φ, and their mean probability, on test images.

    Attributes:
        network: that answers.
        versions: of the test images.
        only: the K to look at; all of the versions' if empty.
    """

    kind: ClassVar[str] = "classify-versions"
    version: ClassVar[int] = 1

    network: Train
    versions: Transform
    only: tuple[int, ...] = field(default=(), metadata=ADDED)

    def title(self) -> str:
        """Name the network."""
        return f"classify p*: {self.network.title()}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Classify each version, and by the mean of the probabilities of all."""
        images = self.versions.originals(context)
        model = load_trained(context.outcome(self.network), context.device)
        snapshots = _stored(context, self.versions, self.only)
        logits = {ORIGINAL: predict(model, images.images)}
        logits |= {str(k): predict(model, version) for k, version in snapshots.items()}
        gathered = _Gathered()
        for name, each in logits.items():
            gathered.add(name, answers_to(each, images.labels))
        mean = torch.stack([each.double().softmax(dim=1) for each in logits.values()]).mean(dim=0)
        gathered.add("mean", answers_to(mean.log(), images.labels))
        return {"versions": gathered.write(folder), "images": len(images)}


@dataclass(frozen=True, eq=False)
class MeasureInputs(Stage):
    """How many inputs a network uses for p and for each p*_K of a Φ, on test images.

    Attributes:
        network: that is measured.
        versions: of the test images.
        images: at most so many, evenly spaced.
        only: the K to look at; all of the versions' if empty.
    """

    kind: ClassVar[str] = "inputs-used"
    version: ClassVar[int] = 1

    network: Train
    versions: Transform
    images: int
    only: tuple[int, ...] = field(default=(), metadata=ADDED)

    def title(self) -> str:
        """Name the network."""
        return f"inputs used: {self.network.title()}"

    def flops(self) -> float:
        """A forward pass for the ReLUs, and one with its backward pass for the gradient."""
        passes = FORWARD + SIGN
        count = 1 + len(self.only or self.versions.snapshots)
        return self.network.forward_flops * self.images * passes * count

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Measure p and each p*_K."""
        test = self.versions.originals(context)
        chosen = evenly_spaced(len(test), min(self.images, len(test)))
        model = load_trained(context.outcome(self.network), context.device)
        snapshots = _stored(context, self.versions, self.only)
        gathered = _Gathered()
        gathered.add(ORIGINAL, inputs_used(model, test.subset(chosen).float()))
        for k, version in snapshots.items():
            gathered.add(str(k), inputs_used(model, version[chosen]))
        return {
            "versions": gathered.write(folder),
            "images": len(chosen),
            "variables": test.images[0].numel(),
        }


def inputs_used(model: nn.Module, images: Tensor) -> PerImage:
    """How many inputs a network uses for each image.

    Args:
        model: with ReLU activations.
        images: float (N, C, H, W), grey levels.

    Returns:
        float32 (N,) each: "negative", the share of the image's variables below 0; "first" and
        "every", the shares of zero pre-activations at the first ReLU and at all of them;
        "effective", the effective number of inputs by the gradient's mass.
    """
    first, every = zero_preactivations(model, images)
    return {
        "negative": (images < 0).flatten(1).float().mean(dim=1).cpu().numpy(),
        "first": first.float().numpy(),
        "every": every.float().numpy(),
        "effective": effective_inputs(model, images).float().numpy(),
    }


@dataclass(frozen=True)
class Attack:
    """A PGD attack (Madry et al., ICLR 2018) in the L∞ ball, with a random start.

    Attributes:
        epsilon: the ball's radius, grey levels.
        step_size: of each step, grey levels.
        steps: how many.
    """

    epsilon: float
    step_size: float
    steps: int


@dataclass(frozen=True, eq=False)
class CancelAttack(Stage):
    """A network's answers to attacked test images, as they are and after its own SIGN.

    The attack knows the network and not SIGN. Noise as large as SIGN's change stands beside it:
    it disturbs an attack, too.

    Attributes:
        network: that is attacked, that is Φ, and that answers.
        step: gives SIGN's step size.
        snapshots: K.
        attack: on the network.
        images: at most so many test images, evenly spaced.
        stored: has the versions of some test images, of which `images` are taken, with all of
            `snapshots` and of the same step size; None takes all test images.
    """

    kind: ClassVar[str] = "cancel-attack"
    version: ClassVar[int] = 1

    network: Train
    step: Calibrate | ChooseStep
    snapshots: tuple[int, ...]
    attack: Attack
    images: int
    stored: Transform | None = field(default=None, metadata=ADDED)

    def title(self) -> str:
        """Name the network."""
        return f"attack, then SIGN: {self.network.network.model}, seed {self.network.seed}"

    def flops(self) -> float:
        """The attack's steps, and SIGN of the attacked images and of the originals."""
        steps = self.attack.steps + (1 if self.stored else 2) * max(self.snapshots)
        return self.network.forward_flops * SIGN * self.images * steps

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Attack, transform and classify, a few images at a time."""
        from sign_ext import pgd

        test = self._originals(context)
        chosen = evenly_spaced(len(test), min(self.images, len(test)))
        images = test.subset(chosen)
        kept = _stored(context, self.stored, self.snapshots) if self.stored else {}
        model = load_trained(context.outcome(self.network), context.device)
        step_size = _step_size(context, self.step)
        sign = SignTransform(
            model, max(self.snapshots), step_size=step_size, snapshots=self.snapshots
        )
        gathered = _Gathered()
        random, starts = (torch.Generator().manual_seed(SEED + i) for i in range(2))
        done = 0
        for originals, labels in _chunks(images, context.report):
            rows = chosen[done : done + len(originals)]
            done += len(originals)
            attacked = pgd(
                model,
                originals.to(context.device),
                labels.to(context.device),
                epsilon=self.attack.epsilon,
                step_size=self.attack.step_size,
                steps=self.attack.steps,
                generator=starts,
            ).cpu()
            for name, start in (("p", originals), ("attacked", attacked)):
                gathered.add(name, answers_to(predict(model, start), labels))
                if kept and start is originals:
                    versions = {k: each[rows] for k, each in kept.items()}
                else:
                    versions = snapshots_of(sign, start.to(context.device))
                for k, version in versions.items():
                    gathered.add(f"{name}_{k}", answers_to(predict(model, version), labels))
                change = versions[max(self.snapshots)].cpu() - start
                rms = float(change.double().square().mean().sqrt())
                noisy = gaussian_noise(start, rms, generator=random)
                gathered.add(f"{name}_{NOISE}", answers_to(predict(model, noisy), labels))
        return {
            "versions": gathered.write(folder),
            "step_size": step_size,
            "images": len(images),
        }

    def _originals(self, context: RunContext) -> ImageSet:
        if self.stored is None:
            return context.data(self.network.source).test
        return self.stored.originals(context)
