"""Settings as people read them."""

from __future__ import annotations

from sign_ext.experiments.scale import SCALES as KNOWN
from sign_ext.experiments.scale import load_scale
from sign_ext.report.wording import SCALES, format_settings, format_value


def test_settings_are_written_for_people() -> None:
    assert format_value({"a_b": [1, 2.50], "c": False, "d": ()}) == "a b: 1, 2.5, c: no, d: none"
    settings = {"epochs": 3, "nets": {"x_1": {"lr": 0.1}, "y": 2}, "step size of Φ_1": 4.5}
    assert format_settings(settings, (0, 1)) == [
        ("step size of Φ_1", "4.5"),
        ("epochs", "3"),
        ("nets: x 1", "lr: 0.1"),
        ("nets: y", "2"),
    ]
    assert format_settings({"s": {"3": 1.5, "5": 2.5}}, (3, 5)) == [("s", "1.5, 2.5 (one a seed)")]
    assert format_settings({"s": {}}) == [("s", "")]


def test_every_scale_but_the_papers_says_that_it_is_another() -> None:
    assert set(SCALES) == set(KNOWN) - {"paper"}
    for name in ("medium", "gpu"):
        scale = load_scale(name)
        task = scale.tasks[scale.networks[scale.primary].task]
        assert f"“{name}”: {task.train_size:,} training images a seed" in SCALES[name]
        assert task.test_size is None, "all test images"
