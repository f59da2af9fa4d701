"""What the demo does by default, and the sizes that suit each data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does; `for_data` gives sizes that suit a data set.

    Args:
        data: A name or folder for `load_data`.
        data_root: Where the data set's files are.
        model: A name for `build_model`, for Φ and for the networks that are compared.
        train_size: Training images; None takes all.
        test_size: Test images; None takes all.
        image_size: Height and width in pixels; None takes the data set's.
        epochs: Passes over the training set, for Φ, classical and SIGN alike.
        batch_size: Images a gradient step.
        learning_rate: Of Adam.
        snapshots: K of the transformed versions that join the training set (the paper: 50, 100).
        step_size: Of SIGN; None proposes one on validation images.
        target_share: The proposal's rms change, as a share of the pixel range.
        calibration_images: Validation images the proposal is made on.
        draws: How often pixels and noise are drawn in the evaluation.
        seeds: Repetitions with other initial weights and batch orders.
        seed: The first seed; it also chooses the subsets of the data.
        device: Where to compute.
    """

    data: str = "digits"
    data_root: str | None = None
    model: str = "basic_cnn"
    train_size: int | None = 400
    test_size: int | None = None
    image_size: int | None = None
    epochs: int = 20
    batch_size: int = 32
    learning_rate: float = 1e-3
    snapshots: tuple[int, ...] = (50, 100)
    step_size: float | None = None
    target_share: float = 0.02
    calibration_images: int = 32
    draws: int = 10
    seeds: int = 1
    seed: int = 0
    device: str = "cpu"


SIZES: dict[str, dict[str, Any]] = {
    "digits": {},
    "cifar10": {
        "train_size": 5000,
        "test_size": 2000,
        "batch_size": 128,
        "calibration_images": 128,
    },
}

WHY = {
    "digits": "chosen so that the whole demo takes under three minutes on two processor cores",
    "cifar10": "chosen to take about 20 minutes on two processor cores; on a GPU, take all 45,000",
}


def for_data(data: str, **changes: Any) -> DemoSettings:
    """Return the settings that suit a data set, with some changed.

    Args:
        data: "digits", "cifar10" or an image folder (which gets CIFAR-10's sizes).
        **changes: Fields of `DemoSettings`; None leaves the suited value.

    Example:
        >>> for_data("cifar10", epochs=5).train_size
        5000
    """
    suited = {"train_size": None, "test_size": None} if data not in SIZES else {}
    suited = {**SIZES["cifar10"], **suited} if data not in SIZES else SIZES[data]
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(DemoSettings(data=data), **{**suited, **given})


def why_these_sizes(settings: DemoSettings) -> str:
    """Say why the sizes are what they are; nothing where the caller chose one of them."""
    suited = for_data(settings.data)
    names = ("model", "train_size", "test_size", "epochs", "batch_size", "snapshots")
    if any(getattr(settings, name) != getattr(suited, name) for name in names):
        return ""
    return WHY.get(settings.data, "")
