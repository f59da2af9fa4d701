"""What `sign-ext show` shows: images before and after SIGN, and what the network answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.change import measure_change, share_negative
from sign_ext.eval_state import computing
from sign_ext.formatting import counted, percent

MOST_BINS = 64
BATCH = 64  # images that the network is asked about at a time


@dataclass(frozen=True)
class Answer:
    """What a network says of an image.

    Attributes:
        name: of the most probable class.
        probability: of that class, 0–1.
    """

    name: str
    probability: float

    def __str__(self) -> str:
        """For a caption."""
        return f"{self.name} {100 * self.probability:.0f}%"


@dataclass(frozen=True)
class Shown:
    """A few images p, their p*_K, and the network's answers.

    Attributes:
        originals: float32 (n, C, H, W), grey levels 0–255, C = 1 or 3.
        snapshots: K → the same shape, grey levels, by rising K; not clipped.
        labels: the name of each image's class; () if unknown.
        names: what each image is called; () if it has no name.
        answers: K → an answer for each image, with those to the originals at K = 0; {} for a
            network without classes.
        step_size: of SIGN.
    """

    originals: Tensor
    snapshots: dict[int, Tensor]
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    answers: dict[int, tuple[Answer, ...]] = field(default_factory=dict)
    step_size: float = 1.0

    def __post_init__(self) -> None:
        """Check what the drawing relies on."""
        shape = tuple(self.originals.shape)
        if len(shape) != 4 or shape[1] not in (1, 3) or not shape[0]:
            raise ValueError(
                f"images has shape {shape}; accepted: (N, 3, H, W) or (N, 1, H, W), with N of at "
                "least 1. Other shapes have no picture."
            )
        if not self.snapshots:
            raise ValueError("snapshots is empty; accepted: at least one number of steps.")

    def __len__(self) -> int:
        """Count the images."""
        return len(self.originals)

    @property
    def last(self) -> int:
        """The largest K."""
        return max(self.snapshots)

    @property
    def delta(self) -> Tensor:
        """The change after the largest K, grey levels, shaped as the originals."""
        return self.snapshots[self.last] - self.originals

    @property
    def scale(self) -> float:
        """The grey levels of δ that are shown as white (negated, black): 99.5% of |δ| is below."""
        return max(float(np.quantile(self.delta.abs().numpy(), 0.995)), 1e-6)

    def changes(self) -> list[Changed]:
        """Measure the change after each K, over all the images."""
        found = []
        for k, moved in sorted(self.snapshots.items()):
            change = measure_change(moved, self.originals)
            above = int((moved > 255).sum()) / moved.numel()
            found.append(Changed(k, change.rms, change.largest, share_negative(moved), above))
        return found

    def turned(self, k: int) -> list[int]:
        """The images whose answer after K steps is another than before."""
        if not self.answers:
            return []
        pairs = zip(self.answers[0], self.answers[k], strict=True)
        return [i for i, (before, after) in enumerate(pairs) if before.name != after.name]

    def findings(self) -> list[str]:
        """What the images show, in sentences that count these images only."""
        last = self.changes()[-1]
        count = counted(len(self), "image")
        them = "the image" if len(self) == 1 else f"the {count}"
        said = [
            f"{last.steps} steps of size {self.step_size:g} move {them} by {last.rms:.3g} grey "
            f"levels (rms over all values), at most by {last.largest:.3g}. Afterwards "
            f"{_share(last.below)} of the values are below 0, and {_share(last.above)} above 255."
        ]
        if self.answers:
            turned = len(self.turned(self.last))
            before, after = (
                float(np.mean([each.probability for each in self.answers[k]]))
                for k in (0, self.last)
            )
            said.append(
                f"The network answers otherwise for {turned} of {count} after {self.last} steps. "
                f"The mean probability of its answer goes from {percent(before, 0)}% to "
                f"{percent(after, 0)}%."
            )
            if self.labels:
                right = [
                    sum(
                        a.name == label
                        for a, label in zip(self.answers[k], self.labels, strict=True)
                    )
                    for k in (0, self.last)
                ]
                said.append(
                    f"It is right about {right[0]} of {count} before, and {right[1]} after."
                )
        return said

    def histogram(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Count grey levels before and after.

        Returns:
            Edges of the bins, and the share of values in each: "before", "K = 50" and so on.
        """
        rows = {"before": self.originals}
        rows |= {f"K = {k}": images for k, images in sorted(self.snapshots.items())}
        low = min(0.0, *(float(each.min()) for each in rows.values()))
        high = max(255.0, *(float(each.max()) for each in rows.values()))
        edges = np.linspace(low, high, MOST_BINS + 1)
        return edges, {name: _shares(images, edges) for name, images in rows.items()}

    def change_histogram(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Count changes p*_K − p in grey levels, as `histogram` counts grey levels."""
        deltas = {f"K = {k}": each - self.originals for k, each in sorted(self.snapshots.items())}
        reach = max(max(float(each.abs().max()) for each in deltas.values()), 1e-6)
        edges = np.linspace(-reach, reach, MOST_BINS + 1)
        return edges, {name: _shares(each, edges) for name, each in deltas.items()}


@dataclass(frozen=True)
class Changed:
    """How far K steps moved images, in grey levels.

    Attributes:
        steps: K.
        rms, largest: of |p*_K − p|.
        below, above: the share of values below 0 and above 255, 0–1.
    """

    steps: int
    rms: float
    largest: float
    below: float
    above: float


def answers_of(
    model: nn.Module, versions: Mapping[int, Tensor], class_names: Sequence[str]
) -> dict[int, tuple[Answer, ...]]:
    """Ask a network about images.

    Args:
        model: takes images in their own units.
        versions: K → images, with the originals at 0.
        class_names: in the order of its outputs; () numbers them.

    Returns:
        K → an answer for each image; {} if the network's output is not (N, classes).
    """
    found: dict[int, tuple[Answer, ...]] = {}
    for k, images in versions.items():
        logits = _logits(model, images)
        if logits is None or (class_names and logits.shape[1] != len(class_names)):
            return {}
        values, places = logits.softmax(1).max(1)
        names = [class_names[i] if class_names else f"class {i}" for i in places.tolist()]
        found[k] = tuple(map(Answer, names, values.tolist()))
    return found


def _logits(model: nn.Module, images: Tensor) -> Tensor | None:
    """The network's output on images, float64 (N, classes), or None if it is of another shape.

    `sign_ext.evaluation.predict` needs packages that `sign_ext.show` does without.
    """
    place = next((p for p in model.parameters() if p.is_floating_point()), images)
    outputs = []
    with computing(model), torch.no_grad():
        for batch in images.split(BATCH):
            output = model(batch.to(place.device, place.dtype))
            if not isinstance(output, Tensor) or output.ndim != 2:
                return None
            outputs.append(output.double().cpu())
    return torch.cat(outputs)


def _shares(values: Tensor, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(values.detach().cpu().numpy(), bins=edges)
    shares: np.ndarray = counts / max(1, values.numel())
    return shares


def _share(share: float) -> str:
    return "none" if share == 0 else f"{percent(share)}%" if share >= 0.0005 else "under 0.1%"


def to_grey_levels(images: Tensor, pixel_range: float) -> Tensor:
    """Convert images from 0 … pixel_range to grey levels 0–255, float32 on the CPU."""
    return (images.detach().to("cpu", torch.float64) * (255 / pixel_range)).float()
