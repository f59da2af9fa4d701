"""A few images before and after SIGN: which ones, and as pixels that a screen can show."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sign_ext.data import ImageSet

MOST = 10  # a column an image: more do not fit on a page


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
        """The grey levels that δ is shown white (black when negative): 99.5% of |δ| is below."""
        return max(float(np.quantile(self.delta.abs().numpy(), 0.995)), 1e-6)

    def rows(self) -> dict[str, np.ndarray]:
        """Return what each row shows as uint8 arrays (n, H, W, 3), its name as key.

        p*_K is clipped to 0–255 for showing; δ is drawn around grey, 128, which is no change.
        """
        shown = {"p": _pixels(self.originals)}
        shown |= {f"K = {k}": _pixels(images) for k, images in sorted(self.snapshots.items())}
        shown["δ"] = _pixels(128 + self.delta / self.scale * 127)
        return shown


def pick_samples(train: ImageSet, snapshots: dict[int, Tensor], *, each: int = 1) -> Samples:
    """Take the first images of each class, ten in all at most.

    Args:
        train: The originals.
        snapshots: K → float32 (N, 3, H, W), in the originals' order.
        each: how many images of each class, where there are so many.
    """
    labels = train.labels.tolist()
    firsts = [
        [place for place, label in enumerate(labels) if label == wanted][:each]
        for wanted in sorted(set(labels))
    ]
    where = [place for places in firsts for place in places][:MOST]
    return Samples(
        tuple(train.class_names[labels[place]] for place in where),
        train.float()[where],
        {k: images[where] for k, images in snapshots.items()},
    )


def png(pixels: np.ndarray) -> bytes:
    """Encode a uint8 array (H, W, 3) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str) -> str:
    """Return a data: URI of an image, kind "png" or "svg+xml"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _pixels(images: Tensor) -> np.ndarray:
    shown: np.ndarray = images.clamp(0, 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return shown
