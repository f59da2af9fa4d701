"""The demo's settings, and the sizes it uses for each data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class DemoSettings:
    """The demo's settings; `for_data` gives sizes that suit a data set.

    Args:
        data: A name or folder for `load_data`.
        data_root: Where the data set's files are.
        model: A name for `build_model`, for Φ and for the networks that are compared.
        train_size: Training images; None takes all.
        test_size: Test images; None takes all.
        image_size: Height and width in pixels; None takes the data set's.
        epochs: Passes over the training set, for Φ, classical and SIGN alike.
        batch_size: Images in a gradient step.
        learning_rate: Of Adam.
        snapshots: K of the transformed versions that join the training set (the paper: 50, 100).
        step_size: Of SIGN; None calibrates one on validation images.
        target_share: The rms change to calibrate to, as a share of the pixel range.
        calibration_images: Validation images to calibrate on.
        draws: How often each corruption is drawn in the evaluation.
        seeds: Repetitions with other initial weights and batch orders.
        seed: The first seed; it also chooses the subsets of the data.
        device: To compute on.
    """

    data: str = "drawings"
    data_root: str | None = None
    model: str = "basic_cnn"
    train_size: int | None = 240
    test_size: int | None = 500
    image_size: int | None = None
    epochs: int = 7
    batch_size: int = 16
    learning_rate: float = 1e-3
    snapshots: tuple[int, ...] = (50, 100)
    step_size: float | None = None
    target_share: float = 0.02
    calibration_images: int = 10
    draws: int = 2
    seeds: int = 1
    seed: int = 0
    device: str = "cpu"


SIZES: dict[str, dict[str, Any]] = {
    "drawings": {},
    "digits": {
        "train_size": 400,
        "test_size": None,
        "epochs": 10,
        "batch_size": 32,
        "calibration_images": 32,
        "draws": 5,
    },
    "cifar10": {
        "train_size": 5000,
        "test_size": 2000,
        "epochs": 20,
        "batch_size": 128,
        "calibration_images": 128,
        "draws": 10,
    },
}

REASONS = {
    "drawings": "chosen so that the whole demo takes under two minutes on one processor core",
    "cifar10": "chosen to take about 20 minutes on two processor cores; on a GPU, take all 45,000",
}


def for_data(data: str, **changes: Any) -> DemoSettings:
    """Return the settings for a data set, with some changed.

    Args:
        data: "drawings", "digits", "cifar10", or an image folder, which takes all its images and
            else CIFAR-10's values.
        **changes: Fields of `DemoSettings`; None keeps the data set's value.

    Example:
        >>> for_data("cifar10", epochs=5).train_size
        5000
    """
    # The sizes of the user's own images are unknown, so all of them are used.
    sizes = SIZES.get(data, {**SIZES["cifar10"], "train_size": None, "test_size": None})
    changed = {name: value for name, value in changes.items() if value is not None}
    return replace(DemoSettings(data=data), **{**sizes, **changed})


def reason_for_sizes(settings: DemoSettings) -> str:
    """Why the sizes were chosen; "" where the caller chose one of them."""
    usual = for_data(settings.data)
    names = ("model", "train_size", "test_size", "epochs", "batch_size", "snapshots")
    if any(getattr(settings, name) != getattr(usual, name) for name in names):
        return ""
    return REASONS.get(settings.data, "")
