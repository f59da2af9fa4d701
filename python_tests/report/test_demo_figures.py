"""Figures: what they draw is the numbers, they are files of the right kind, and are repeatable."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

from sign_ext.report import demo_figures
from sign_ext.report.plots import DARK, LIGHT, Samples


def make_run(accuracy: float) -> dict[str, Any]:
    # The longest run's last epoch is cut short: 3 steps after whole epochs of 10.
    steps = {
        "classical": [10, 20],
        "sign": [10, 20, 30],
        "classical_same_steps": [10, 20, 23],
    }
    return {
        "training": {
            name: {
                "history": [
                    {"steps": s, "validation_accuracy": s / 100, "train_loss": 1 / s} for s in where
                ],
                "best_epoch": len(where),
            }
            for name, where in steps.items()
        },
        "evaluation": {
            name: {
                "accuracy": accuracy,
                "pixels_off_mean": accuracy / 2,
                "noise_mean": accuracy / 4,
                "images": 100,
            }
            for name in steps
        },
    }


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[float], list[float]]]:
    """What is plotted as a line, by its label."""
    seen: dict[str, tuple[list[float], list[float]]] = {}
    plot = Axes.plot

    def spy(self: Axes, *args: Any, **kwargs: Any) -> Any:
        if "label" in kwargs:
            seen[kwargs["label"]] = (args[0], args[1])
        return plot(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", spy)
    return seen


def test_curves_are_the_history(lines: dict[str, Any]) -> None:
    svg = demo_figures.training_curves(make_run(0.5), "validation_accuracy", "acc", LIGHT)
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert lines["SIGN"] == ([10, 20, 30], pytest.approx([10, 20, 30]))
    assert lines["Classical"][0] == [10, 20]
    assert lines["Classical, same steps"][0] == [10, 20, 23]


def test_loss_of_a_cut_epoch_is_left_out(lines: dict[str, Any]) -> None:
    demo_figures.training_curves(make_run(0.5), "train_loss", "loss", DARK)
    assert lines["Classical, same steps"][0] == [10, 20]
    assert lines["SIGN"] == ([10, 20, 30], pytest.approx([0.1, 0.05, 1 / 30]))


def test_same_numbers_give_the_same_file() -> None:
    runs = [make_run(0.5)]
    assert demo_figures.accuracies(runs, LIGHT) == demo_figures.accuracies(runs, LIGHT)
    assert demo_figures.accuracies(runs, LIGHT) != demo_figures.accuracies(runs, DARK)


def test_standard_error_joins_test_set_and_seeds() -> None:
    mean, error = demo_figures.accuracy_with_error([make_run(0.8)], "sign", "accuracy")
    assert (mean, error) == pytest.approx((0.8, 0.04))  # √(0.8·0.2/100)
    mean, error = demo_figures.accuracy_with_error(
        [make_run(0.4), make_run(0.8)], "sign", "pixels_off"
    )
    seeds = ((0.4 - 0.2) / np.sqrt(2)) ** 2 / 2  # variance of the mean of 0.2 and 0.4
    assert mean == pytest.approx(0.3)
    assert error == pytest.approx(np.sqrt(0.3 * 0.7 / 100 + seeds))


def test_picture_for_the_readme_is_about_1200_pixels_wide() -> None:
    originals = torch.full((10, 3, 8, 8), 128.0)
    moved = {50: originals + 5, 100: originals + 10}
    names = tuple(f"class {i}" for i in range(10))
    picture = Image.open(
        io.BytesIO(demo_figures.samples_picture(Samples(names, originals, moved)))
    ).convert("RGB")
    assert picture.width == 1200
    assert 300 < picture.height < 800
    colours = {colour for _, colour in picture.getcolors(1 << 20) or []}
    assert {(128,) * 3, (133,) * 3, (138,) * 3, (255,) * 3} <= colours
