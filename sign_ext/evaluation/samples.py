"""What a number was computed from, image by image, so that two networks' errors can be paired.

Two networks are mostly right and wrong on the same images, so the error of their difference is far
smaller than independent errors would make it. To know it, each image's answer must be kept.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from sign_ext.evaluation.delong import AucComponents, auc_components, auc_covariance

Statistic = Literal["mean", "auc", "replicates"]
REPLICATES = 2000  # of the hierarchical bootstrap
FEW = 256  # values of so many kinds are kept exactly; others in half precision
BITS = "bits"
TYPES: dict[str, Any] = {"f2": np.dtype("<f2"), "f4": np.dtype("<f4"), "f8": np.dtype("<f8")}
MAX_VALUES = 100_000_000  # of one text, so that a damaged one cannot ask for all memory


@dataclass(frozen=True, eq=False)
class Samples:
    """One network's values, one an image (or one a replicate), and the statistic of them.

    Attributes:
        statistic: "mean", over the images that count;
            "auc", the area under the ROC curve;
            "replicates", a statistic that a bootstrap over images has been made of: all networks of
            a comparison with the same draws of images.
        values: float64 (N,). "mean": NaN where an image does not count. "auc": the rank of an
            image's score, from 1, negated for images of the negative class. "replicates": one a
            replicate.
    """

    statistic: Statistic
    values: np.ndarray

    def value(self) -> float:
        """The statistic; of replicates, their mean. NaN if no image counts."""
        if self.statistic == "auc":
            return self._curve().area
        counted = self.values[~np.isnan(self.values)]
        return float(counted.mean()) if len(counted) else math.nan

    def influence(self) -> np.ndarray:
        """How much each image moves the statistic, ψ, of which the mean is 0.

        To first order, a test set with image i drawn w_i times has the statistic θ + Σ w_i ψ_i / N.
        Of a mean over all images this is exact; of a mean over those that count, v̄ = Σ cv / Σ c, it
        is ψ = c (v − v̄) / c̄; of an area, the centred structural components, divided by the
        class's share.
        """
        if self.statistic == "replicates":
            raise ValueError("replicates have no images; accepted: a mean or an area.")
        if self.statistic == "auc":
            curve, positive = self._curve(), self.values > 0
            moved = np.empty(len(self.values))
            moved[positive] = (curve.positive - curve.area) / positive.mean()
            moved[~positive] = (curve.negative - curve.area) / (~positive).mean()
            return moved
        counted = ~np.isnan(self.values)
        moved = np.where(counted, self.values - self.value(), 0.0)
        return moved / counted.mean()

    def to_text(self) -> str:
        """Write the values as text for JSON: one bit each where that is enough.

        Other values are kept exactly if there are few different ones, and in half precision
        otherwise, which moves a mean by less than 1e-4 of itself.
        """
        kind, content = _packed(self.values)
        packed = base64.b64encode(zlib.compress(content, 9)).decode()
        return f"{self.statistic}:{kind}:{len(self.values)}:{packed}"

    @classmethod
    def from_text(cls, text: str) -> Samples:
        """Read what `to_text` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            statistic, kind, count, packed = text.split(":")
            size = int(count)
            if statistic not in get_args(Statistic) or not 0 < size <= MAX_VALUES:
                raise ValueError(f"statistic {statistic!r} of {size} values")
            content = zlib.decompressobj().decompress(
                base64.b64decode(packed, validate=True), 8 * size + 8
            )
            values = _unpacked(kind, size, content)
        except (ValueError, KeyError, zlib.error, binascii.Error) as error:
            raise ValueError(
                f"values of images cannot be read ({error}); the file is damaged, or was written "
                "by another version of sign-ext: reproduce again."
            ) from error
        return cls(statistic, values)  # type: ignore[arg-type]

    def _curve(self) -> AucComponents:
        return auc_components(np.abs(self.values), self.values > 0)


def ranked(scores: np.ndarray, positive: np.ndarray) -> Samples:
    """Keep scores for an area under the ROC curve: only their order matters.

    Args:
        scores: float (N,).
        positive: bool (N,), which images are of the positive class.

    Example:
        >>> ranked(np.array([-1.5, 9.0, 9.0]), np.array([False, False, True])).values.tolist()
        [-1.0, -2.0, 2.0]
    """
    ranks = np.unique(scores, return_inverse=True)[1] + 1.0
    return Samples("auc", np.where(positive, ranks, -ranks))


def image_covariance(method: Sequence[Samples], baseline: Sequence[Samples]) -> np.ndarray:
    """Estimate the covariance over test images of the seeds' differences, method − baseline.

    Of means, it is that of the images' influences, the limit of ever more bootstrap draws of
    images; of areas, DeLong's; of replicates, their own.

    Args:
        method: one a seed.
        baseline: of the same seeds, statistic and images.

    Returns:
        float64 (seeds, seeds).

    Raises:
        ValueError: samples that do not fit each other.
    """
    statistic, count = _alike([*method, *baseline])
    if statistic == "auc":
        curves = [each._curve() for each in (*method, *baseline)]
        each_seed = np.eye(len(method))
        contrast = np.hstack([each_seed, -each_seed])
        found: np.ndarray = contrast @ auc_covariance(curves) @ contrast.T
        return found
    if statistic == "replicates":
        differences = np.stack([a.values - b.values for a, b in zip(method, baseline, strict=True)])
        return np.atleast_2d(np.cov(differences))
    moved = _moved(method, baseline)
    of_means: np.ndarray = moved.T @ moved / (count * (count - 1))
    return of_means


def hierarchical_bootstrap(
    differences: Sequence[float],
    method: Sequence[Samples],
    baseline: Sequence[Samples],
    *,
    replicates: int = REPLICATES,
    level: float = 0.05,
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the percentile interval of a bootstrap over seeds and images.

    Each replicate draws seeds with replacement and, independently, test images with replacement,
    the same ones for all its seeds, because the seeds share one test set (A. B. Owen, "The
    pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). It assumes no distribution.
    With few seeds it is short of spread between them, by (S − 1)/S, and counts what seeds and
    images do together three times; so verdicts rest on `crossed`, and this stands beside them.

    Args:
        differences: θ_s(method) − θ_s(baseline), one a seed.
        method: one a seed.
        baseline: of the same seeds, statistic and images.
        replicates: how many, 1 or more.
        level: 1 − the interval's.
        seed: of the draws.

    Returns:
        Its ends.

    Raises:
        ValueError: samples that do not fit each other.
    """
    statistic, count = _alike([*method, *baseline])
    rng = np.random.default_rng(seed)
    d = np.asarray(differences, dtype=np.float64)
    seeds = len(d)
    drawn = [a.values - b.values for a, b in zip(method, baseline, strict=True)]
    if statistic == "replicates":
        moved_by = np.stack(drawn, axis=1) - d
        replicates = len(moved_by)
    else:
        # Images that are alike are drawn together: a multinomial over the kinds of them.
        kinds, counts = np.unique(_moved(method, baseline), axis=0, return_counts=True)
        moved_by = rng.multinomial(count, counts / count, size=replicates) @ kinds / count
    weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates) / seeds
    found = (weights * (d + moved_by)).sum(axis=1)
    low, high = np.quantile(found, [level / 2, 1 - level / 2])
    return float(low), float(high)


def _alike(samples: Sequence[Samples]) -> tuple[Statistic, int]:
    """Return the statistic and the number of values, which must be the same for all."""
    kinds = {(each.statistic, len(each.values)) for each in samples}
    counted = {(each.values > 0).tobytes() if each.statistic == "auc" else b"" for each in samples}
    if len(kinds) != 1 or len(counted) != 1 or len(samples) % 2:
        found = ", ".join(f"{statistic} of {count}" for statistic, count in sorted(kinds))
        raise ValueError(
            f"networks with {found or 'no'} values, or of different images; accepted: one of each "
            "method a seed, all measured on the same images in the same order."
        )
    ((statistic, count),) = kinds
    if count < 2:
        raise ValueError(f"{count} value a network; accepted: two images or more.")
    return statistic, count


def _moved(method: Sequence[Samples], baseline: Sequence[Samples]) -> np.ndarray:
    """Return the influences on the differences, (images, seeds)."""
    pairs = zip(method, baseline, strict=True)
    return np.stack([a.influence() - b.influence() for a, b in pairs], axis=1)


def _packed(values: np.ndarray) -> tuple[str, bytes]:
    different = np.unique(values)
    if np.isin(different, (0.0, 1.0)).all():
        return BITS, np.packbits(values == 1).tobytes()
    if len(different) > FEW:
        half = values.astype(TYPES["f2"])
        if np.array_equal(np.isfinite(half), np.isfinite(values)):
            return "f2", half.tobytes()
    exact = np.array_equal(values.astype(TYPES["f4"]), values, equal_nan=True)
    kind = "f4" if exact else "f8"
    return kind, values.astype(TYPES[kind]).tobytes()


def _unpacked(kind: str, size: int, content: bytes) -> np.ndarray:
    if kind == BITS:
        bits = np.frombuffer(content, np.uint8)
        if len(bits) != -(-size // 8):
            raise ValueError(f"{len(bits)} bytes for {size} bits")
        return np.unpackbits(bits, count=size).astype(np.float64)
    values = np.frombuffer(content, TYPES[kind])
    if len(values) != size:
        raise ValueError(f"{len(values)} values instead of {size}")
    return values.astype(np.float64)
