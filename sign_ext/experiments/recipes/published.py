"""The numbers that the paper publishes: accuracies and AUC as shares, 0–1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def _row(numbers: str, names: tuple[str, ...] = (*CLASSES, "mean")) -> dict[str, float]:
    return dict(zip(names, map(float, numbers.split()), strict=True))


# Table 1: network → method → class or "mean" → accuracy.
TABLE1 = {
    "mobilenet_v2": {
        "classical": _row("0.834 0.940 0.850 0.691 0.858 0.758 0.914 0.875 0.909 0.921 0.8550"),
        "mixup": _row("0.870 0.902 0.861 0.793 0.810 0.716 0.886 0.884 0.935 0.927 0.8584"),
        "sign": _row("0.868 0.931 0.806 0.717 0.864 0.763 0.936 0.875 0.941 0.936 0.8637"),
    },
    "basic_cnn": {
        "deepaugment": _row("0.885 0.930 0.794 0.733 0.911 0.746 0.893 0.915 0.924 0.917 0.8648"),
        "deepaugment_sign": _row(
            "0.866 0.939 0.819 0.728 0.867 0.816 0.920 0.898 0.919 0.919 0.8691"
        ),
    },
}

# Section 3.1, ISIC-2017: method → split → AUC.
ISIC = {
    "none": {"validation": 0.7633, "test": 0.7611},
    "sign_alone": {"validation": 0.8131, "test": 0.7787},
}

# Section 3.1: network → accuracy when trained and tested on δ alone.
DELTA_ONLY = {"mobilenet_v2": 0.462}

# Table 2: method → row → class or "mean". "low" is the mean probability of correctly classified
# test images whose correct class has at most 0.5, "count" how many they are, "uncertainty" their
# uncertainty.
TABLE2 = {
    "classical": {
        "accuracy": _row("0.851 0.930 0.716 0.721 0.842 0.631 0.934 0.864 0.816 0.929 0.8234"),
        "low": _row("0.4325 0.4081 0.4370 0.4414 0.4346 0.4449 0.4402 0.4435 0.4244 0.4102 0.4370"),
        "count": _row("17 6 31 40 30 41 9 19 12 7 212"),
        "uncertainty": _row(
            "6.5198 5.6784 7.1620 7.3614 7.3126 7.5829 7.0295 7.5014 5.8672 6.1368 7.1265"
        ),
    },
    "mixup": {
        "accuracy": _row("0.866 0.900 0.707 0.625 0.819 0.689 0.913 0.912 0.910 0.919 0.8260"),
        "low": _row("0.3326 0.4394 0.4136 0.4110 0.4348 0.4175 0.4296 0.4053 0.4314 0.4376 0.4123"),
        "count": _row("30 15 46 93 50 59 25 27 12 6 363"),
        "uncertainty": _row(
            "3.4691 4.5749 4.2924 4.6358 4.3798 4.6574 4.3065 4.5253 4.6718 4.4918 4.4295"
        ),
    },
    "sign": {
        "accuracy": _row("0.864 0.949 0.807 0.725 0.849 0.764 0.895 0.918 0.926 0.894 0.8591"),
        "low": _row("0.4292 0.4571 0.4468 0.4199 0.4275 0.4576 0.4535 0.4574 0.4984 0.4322 0.4428"),
        "count": _row("2 1 4 6 2 3 3 3 1 1 26"),
        "uncertainty": _row(
            "6.4461 8.4259 6.1156 5.9603 5.7440 6.7875 6.4557 6.8555 8.9375 8.4732 6.5668"
        ),
    },
}

# Section 3.2: the smallest correct-class probability among correctly classified images.
THRESHOLDS = {"classical": 0.26, "mixup": 0.1, "sign": 0.33}

_OOD = ("automobile", "bird", "cat", "dog", "frog", "mean")
# Table 3, in the form of Table 2; classes without such images are omitted.
TABLE3: dict[str, dict[str, dict[str, float]]] = {
    "classical": {
        "accuracy": _row("0.8163 0.5479 0.6800 0.3289 0.8300 0.5210", _OOD),
        "low": _row("0.4423 0.4225 0.4438 0.4135 0.4701 0.4240", _OOD),
        "count": _row("1 12 2 17 3 35", _OOD),
        "uncertainty": _row("5.9622 6.0362 8.0968 7.0100 7.4542 6.7464", _OOD),
    },
    "mixup": {
        "accuracy": _row("0.7551 0.4726 0.6800 0.2919 0.7900 0.4759", _OOD),
        "low": _row("0.4759 0.4314 0.4133 0.4250 0.3867 0.4256", _OOD),
        "count": _row("3 9 6 20 3 41", _OOD),
        "uncertainty": _row("4.8710 4.5847 4.4742 4.8388 3.8331 4.6584", _OOD),
    },
    "sign": {
        "accuracy": _row("0.9184 0.3973 0.7200 0.4497 0.8000 0.5490", _OOD),
        "low": {"automobile": 0.3854, "bird": 0.3125, "dog": 0.4611, "mean": 0.4162},
        "count": _row("1 1 0 3 0 5", _OOD),
        "uncertainty": {"automobile": 4.8829, "bird": 4.1209, "dog": 6.3664, "mean": 5.6206},
    },
}

# Table 4: NASNetMobile, trained classically and with MobileNetV2's samples.
TABLE4 = {
    "classical": _row("0.846 0.873 0.717 0.620 0.722 0.741 0.962 0.804 0.907 0.893 0.8085"),
    "sign": _row("0.858 0.927 0.813 0.672 0.829 0.740 0.897 0.898 0.934 0.910 0.8478"),
}

_CONDITIONS = ("normal", "pixels_off", "noise")
# Table 5: network → method → condition → accuracy.
TABLE5 = {
    "mobilenet_v2": {
        "classical": _row("0.8550 0.6672 0.6552", _CONDITIONS),
        "mixup": _row("0.8584 0.5970 0.6590", _CONDITIONS),
        "sign": _row("0.8637 0.6690 0.7122", _CONDITIONS),
    },
    "basic_cnn": {
        "deepaugment": _row("0.8648 0.8361 0.7875", _CONDITIONS),
        "deepaugment_sign": _row("0.8691 0.8479 0.7980", _CONDITIONS),
    },
}


def for_network(table: Mapping[str, T], network: str) -> T | None:
    """The numbers that a table of the paper has for a network, or None.

    The paper leaves details of its networks open, so a scale may have several candidates for one
    of them: a name that extends the paper's (`mobilenet_v2_stride8`) is such a candidate.

    Args:
        table: network → its numbers.
        network: its name in a scale.

    Example:
        >>> for_network(DELTA_ONLY, "mobilenet_v2_stride8"), for_network(DELTA_ONLY, "basic_cnn")
        (0.462, None)
    """
    candidates = (row for name, row in table.items() if f"{network}_".startswith(f"{name}_"))
    return next(candidates, None)
