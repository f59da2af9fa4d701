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
from torch import Tensor

from sign_ext import SignTransform
from sign_ext.change import describe_change
from sign_ext.data.splits import stratified_choice
from sign_ext.experiments.stages.cost import SIGN
from sign_ext.experiments.stages.networks import Train, Transform, load_trained
from sign_ext.experiments.stages.stage import RunContext, Stage
from sign_ext.settings import LinearizeAt
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
            target_share=rms / 255.0,
            progress=context.report,
        )
        return table.to_dict()


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
