"""What a network said about each image of a test set, and its file: bits where bits are enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sign_ext.evaluation.samples import Samples, ranked
from sign_ext.files import write_whole

PACKED = "packed"  # metadata of the file: the number of bits of each packed array


@dataclass(frozen=True, eq=False)
class Answers:
    """One value an image for each of several questions.

    Attributes:
        values: name → array (N,), in the order of the test images:
            "correct", bool: whether the largest logit is the label's;
            "probability", float32: of the true class;
            "sigma", float32: the mean σ of an aleatoric network;
            "pixels_off" and "noise", uint8: right answers among the draws of a corruption;
            "test_score", float64, with "test_positive", bool: of a ROC curve, of test or of
            validation images.
            A measure of all images together, whose error a bootstrap gives, has one value a
            replicate.
        draws: of each corruption; 1 where there are none.
    """

    values: Mapping[str, np.ndarray]
    draws: int = 1

    def write(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all; bool arrays become bits."""
        from safetensors.numpy import save

        packed = {name: each for name, each in self.values.items() if each.dtype == np.bool_}
        arrays = {name: np.ascontiguousarray(each) for name, each in self.values.items()}
        arrays |= {name: np.packbits(each) for name, each in packed.items()}
        metadata = {f"{PACKED}.{name}": str(len(each)) for name, each in packed.items()}
        write_whole(path, save(arrays, metadata={**metadata, "draws": str(self.draws)}))

    @classmethod
    def read(cls, path: Path) -> Answers:
        """Read what `write` wrote.

        Raises:
            ValueError: the file is damaged, or another.
        """
        from safetensors import SafetensorError, safe_open

        values = {}
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                for name in file.keys():  # noqa: SIM118 (not a mapping)
                    array = file.get_tensor(name)
                    bits = metadata.get(f"{PACKED}.{name}")
                    values[name] = array if bits is None else _bits(array, int(bits))
                draws = int(metadata["draws"])
        except (SafetensorError, ValueError, KeyError) as error:
            raise ValueError(
                f"{path} does not hold a network's answers ({error}): remove its folder, and the "
                "stage will be run again."
            ) from error
        return cls(values, draws)

    def samples(self, name: str) -> Samples | None:
        """The values of which a number of a table is the mean; None if this has no such values.

        Args:
            name: "correct"; "pixels_off" or "noise", the share of draws; "low", whether the true
                class has at most 0.5, among right answers; "sigma"; "low_sigma" and
                "low_probability", among the right answers that are low; "test" or "validation", an
                area under a ROC curve; or a measure that has replicates, if all are finite.
        """
        values = self.values
        if name in ("low", "low_sigma", "low_probability"):
            return self._low(name)
        if f"{name}_score" in values:
            return ranked(values[f"{name}_score"], values[f"{name}_positive"])
        if name not in values:
            return None
        if name in ("pixels_off", "noise"):
            return Samples("mean", values[name] / self.draws)
        if name in ("correct", "sigma"):
            return Samples("mean", values[name].astype(np.float64))
        if not np.isfinite(values[name]).all():
            return None  # a ratio whose denominator can be 0 has no variance
        return Samples("replicates", values[name].astype(np.float64))

    def _low(self, name: str) -> Samples | None:
        if not {"correct", "probability"} <= self.values.keys():
            return None
        correct = self.values["correct"]
        low = correct & (self.values["probability"] <= 0.5)
        if name == "low":
            return _counted(correct, low)
        of = {"low_sigma": "sigma", "low_probability": "probability"}[name]
        return _counted(low, self.values[of]) if of in self.values else None


def _counted(where: np.ndarray, values: np.ndarray) -> Samples | None:
    """The values of the images that count; None if none does."""
    if not where.any():
        return None
    return Samples("mean", np.where(where, values.astype(np.float64), np.nan))


def _bits(array: np.ndarray, count: int) -> np.ndarray:
    if array.dtype != np.uint8 or len(array) != -(-count // 8):
        raise ValueError(f"{len(array)} bytes for {count} bits")
    return np.unpackbits(array, count=count).astype(np.bool_)
