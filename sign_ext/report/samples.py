"""A few images before and after SIGN: their choice, and their pixels for the screen."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sign_ext.data import ImageSet

MAX_SAMPLES = 10  # one column each: more do not fit on a page


@dataclass(frozen=True)
class Samples:
    """Images p, their p*_K, and δ = p*_K − p of the largest K, in the paper's Figure 3's form.

    Attributes:
        labels: The class name of each image.
        originals: float32 (n, 3, H, W), grey levels 0–255.
        snapshots: K → float32 (n, 3, H, W), grey levels, in the same order, by rising K.
    """

    labels: tuple[str, ...]
    originals: Tensor
    snapshots: dict[int, Tensor]

    @property
    def last(self) -> int:
        """The largest K."""
        return max(self.snapshots)

    @property
    def delta(self) -> Tensor:
        """δ of the largest K, float32 (n, 3, H, W), grey levels."""
        return self.snapshots[self.last] - self.originals

    @property
    def scale(self) -> float:
        """The grey levels of δ that are shown as white (negated, black): 99.5% of |δ| is below."""
        return max(float(np.quantile(self.delta.abs().numpy(), 0.995)), 1e-6)

    def rows(self) -> dict[str, np.ndarray]:
        """Return each row's name and pixels, uint8 (n, H, W, 3).

        p*_K is clipped to 0–255; δ is drawn around grey, 128, which means no change.
        """
        shown = {"p": _pixels(self.originals)}
        shown |= {f"K = {k}": _pixels(images) for k, images in sorted(self.snapshots.items())}
        shown["δ"] = _pixels(128 + self.delta / self.scale * 127)
        return shown


def pick_samples(train: ImageSet, snapshots: dict[int, Tensor], *, each: int = 1) -> Samples:
    """Take the first images of each class, at most ten in total.

    Args:
        train: The originals.
        snapshots: K → float32 (N, 3, H, W), in the originals' order.
        each: images per class; fewer if a class has fewer.
    """
    labels = train.labels.tolist()
    firsts = [
        [place for place, label in enumerate(labels) if label == wanted][:each]
        for wanted in sorted(set(labels))
    ]
    chosen = [place for places in firsts for place in places][:MAX_SAMPLES]
    return Samples(
        tuple(train.class_names[labels[place]] for place in chosen),
        train.float()[chosen],
        {k: images[chosen] for k, images in snapshots.items()},
    )


def png(pixels: np.ndarray) -> bytes:
    """Encode a uint8 array (H, W, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _pixels(images: Tensor) -> np.ndarray:
    shown: np.ndarray = images.clamp(0, 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return shown
