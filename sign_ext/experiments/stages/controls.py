"""The stages of controls: images that could be as good as SIGN's if SIGN's δ did not matter.

Each stands in for SIGN's versions of the training images, as many and as far from the originals in
the root mean square. What SIGN gains over one of them, the property that it lacks explains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sign_ext import InputIteration, SignTransform
from sign_ext.calibrate import GRID, calibrate
from sign_ext.change import describe_change
from sign_ext.data import ImageSet
from sign_ext.data.splits import stratified_choice
from sign_ext.experiments.stages.cost import SIGN
from sign_ext.experiments.stages.networks import Train, Transform, load_trained
from sign_ext.experiments.stages.stage import RunContext, Stage
from sign_ext.progress import Progress
from sign_ext.settings import LinearizeAt, Settings
from sign_ext.store import load_transformed, save_transformed
from sign_ext.training.checkpoints import CHECKPOINT_NAME, save_checkpoint

Manner = Literal["shuffled", "negated", "signs"]


@dataclass(frozen=True, eq=False)
class Changed(Stage):
    """Versions of the training images whose δ is SIGN's, changed; they follow from SIGN's.

    Attributes:
        sign: whose δ = p*_K − p is changed.
        manner: "shuffled": each image gets the δ of another, the same one for each K, so that δ is
            as it is and its image is not;
            "negated": −δ;
            "signs": sign(δ), as large in the root mean square of all images as δ is.
        seed: of the shuffling.
    """

    kind: ClassVar[str] = "changed"
    version: ClassVar[int] = 1

    sign: Transform
    manner: Manner
    seed: int = 0

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The K, which are SIGN's."""
        return self.sign.snapshots

    def title(self) -> str:
        """Name what is changed."""
        return f"{self.manner} δ, Φ of seed {self.sign.phi.seed}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Measure the change; the images follow from SIGN's and are not stored."""
        originals = context.data(self.sign.source).part(self.sign.part).images
        return {
            "images": len(originals),
            "change": {
                str(k): describe_change(version, originals)
                for k, version in self.images(context).items()
            },
        }

    def images(self, context: RunContext) -> Mapping[int, Tensor]:
        """The versions by K, float32."""
        originals = context.data(self.sign.source).part(self.sign.part).images.float()
        return {
            k: originals + self._changed(version - originals)
            for k, version in self.sign.images(context).items()
        }

    def _changed(self, delta: Tensor) -> Tensor:
        if self.manner == "negated":
            return -delta
        if self.manner == "signs":
            return delta.sign() * signs_rms(delta)
        return delta[other_positions(len(delta), self.seed)]


def signs_rms(delta: Tensor) -> float:
    """The factor that makes sign(δ) as large in the root mean square as δ is; zeros stay zeros."""
    moved = int(delta.count_nonzero())
    return float((delta.double().square().sum() / max(moved, 1)).sqrt())


def other_positions(count: int, seed: int) -> Tensor:
    """A permutation in which nothing keeps its place: a random cycle through all of them.

    Args:
        count: 2 or more; one stays where it is.
        seed: of the cycle.

    Example:
        >>> positions = other_positions(6, seed=1)
        >>> sorted(positions.tolist()), bool((positions == torch.arange(6)).any())
        ([0, 1, 2, 3, 4, 5], False)
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    positions = torch.empty(count, dtype=torch.int64)
    positions[order] = order.roll(1)
    return positions


@dataclass(frozen=True, eq=False)
class MatchStep(Stage):
    """The step size at which another Φ, or another way to iterate, moves images as far as SIGN.

    It is found on validation images; the images have no say in it but through their distance.

    Attributes:
        phi: the network whose step size is sought.
        sign: whose rms change at its largest K is matched.
        calibration_images: how many validation images.
        linearize_at, momentum: of the iteration that is sought for.
    """

    kind: ClassVar[str] = "match-step"
    version: ClassVar[int] = 1

    phi: Train
    sign: Transform
    calibration_images: int
    linearize_at: LinearizeAt = "iterate"
    momentum: float = 0.0

    def title(self) -> str:
        """Name Φ."""
        return f"match the step size of {self.phi.network.model}, seed {self.phi.seed}"

    def flops(self) -> float:
        """The grid, and about as much again for the proposal."""
        steps = max(self.sign.snapshots)
        return 8 * self.phi.forward_flops * SIGN * self.calibration_images * steps

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Calibrate to SIGN's rms."""
        validation = context.data(self.sign.source).validation
        count = min(self.calibration_images, len(validation))
        chosen = stratified_choice(validation.labels.numpy(), count, seed=0)
        last = max(self.sign.snapshots)
        rms = float(context.outcome(self.sign).numbers["change"][str(last)]["rms"])
        sign = SignTransform(
            load_trained(context.outcome(self.phi), context.device),
            linearize_at=self.linearize_at,
            momentum=self.momentum,
        )
        table = sign.calibrate(
            validation.subset(chosen.tolist()).float().to(context.device),
            steps=last,
            step_sizes="grid",
            target_share=rms / 255.0,
            progress=context.report,
        )
        return table.to_dict()


@dataclass(frozen=True, eq=False)
class TrueClass(Stage):
    """Versions of the training images that climb the true class's logit, as far as SIGN moves them.

    SIGN's gradient is of the sum over Φ and knows no label. This is p ← p + s ∂z_y/∂p, with K steps
    and with s such that the rms change at the largest K is SIGN's.

    Attributes:
        sign: whose Φ, images, K and rms it has.
        calibration_images: how many validation images the step size is sought on.
    """

    kind: ClassVar[str] = "true-class"
    version: ClassVar[int] = 1

    sign: Transform
    calibration_images: int

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The K, which are SIGN's."""
        return self.sign.snapshots

    @property
    def manner(self) -> str:
        """What the versions are, in a word or two."""
        return "true class"

    def title(self) -> str:
        """Name Φ."""
        phi = self.sign.phi
        return f"climb the true class of {phi.network.model}, seed {phi.seed}"

    def flops(self) -> float:
        """The calibration, and the steps."""
        images = 8 * self.calibration_images + self.sign.phi.images
        return self.sign.phi.forward_flops * SIGN * images * max(self.snapshots)

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Calibrate to SIGN's rms, transform and store."""
        splits = context.data(self.sign.source)
        part = splits.part(self.sign.part)
        model = load_trained(context.outcome(self.sign.phi), context.device)
        last = max(self.snapshots)
        rms = float(context.outcome(self.sign).numbers["change"][str(last)]["rms"])
        step_size = self._step_size(model, splits.validation, rms, context)
        climb = InputIteration(
            model,
            last,
            objective="logit",
            step_size=step_size,
            snapshots=self.snapshots,
            precision=self.sign.precision,
        )
        found = climb.transform(part.float().to(context.device), part.labels.to(context.device))
        assert isinstance(found, dict)
        versions = {k: each.cpu() for k, each in found.items()}
        save_transformed(
            folder,
            versions,
            part.labels,
            recipe={"stage": self.describe()},
            originals=part.images,
            class_names=part.class_names,
            overwrite=True,
        )
        return {
            "step_size": step_size,
            "images": len(part),
            "change": {str(k): describe_change(versions[k], part.images) for k in versions},
        }

    def _step_size(
        self, model: nn.Module, validation: ImageSet, rms: float, context: RunContext
    ) -> float:
        count = min(self.calibration_images, len(validation))
        chosen = stratified_choice(validation.labels.numpy(), count, seed=0)
        some = validation.subset(chosen.tolist())
        images = some.float().to(context.device)
        labels = some.labels.to(context.device)
        last = max(self.snapshots)

        def moved(step_size: float, steps: int, progress: Progress) -> Tensor:
            climb = InputIteration(model, steps, objective="logit", step_size=step_size)
            result = climb.transform(images, labels, progress=progress)
            assert isinstance(result, Tensor)
            return result

        # As if the gradient were constant, as `calibrate` begins, too.
        with torch.enable_grad():
            watched = images.requires_grad_()
            logits = model(watched).gather(1, labels[:, None])
            (gradient,) = torch.autograd.grad(logits.sum(), watched)
        images = images.detach()
        scale = float(gradient.double().square().mean().sqrt())
        table = calibrate(
            moved,
            images,
            model=model,
            settings=Settings(steps=last),
            steps=last,
            step_sizes=[factor * rms / last / scale for factor in GRID],
            target_share=rms / 255.0,
            progress=context.report,
        )
        return table.proposed

    def images(self, context: RunContext) -> Mapping[int, Tensor]:
        """The versions by K, float32, once the stage is done."""
        return load_transformed(context.outcome(self).folder).snapshots


@dataclass(frozen=True, eq=False)
class Untrained(Train):
    """Φ before it is trained: the initial weights that a seed gives."""

    kind: ClassVar[str] = "untrained"
    version: ClassVar[int] = 1

    def title(self) -> str:
        """Name the network and the seed."""
        return f"untrained {self.network.model}, {self.seed_in_words}"

    def flops(self) -> float:
        """Nothing is trained."""
        return 0.0

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Write the checkpoint."""
        spec = self.model_spec(context)
        model = self.initial_model(spec)
        save_checkpoint(folder / CHECKPOINT_NAME, model, {"model": spec})
        return {"parameters": sum(each.numel() for each in model.parameters())}
