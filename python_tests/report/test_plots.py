"""Figures of results: what they draw is the data, as files of the right kind, repeatably."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image
from results_example import CLASSES, METHODS, figures, png

from sign_ext.report.plots import (
    DARK,
    LIGHT,
    draw,
    expected_calibration_error,
    legend_shape,
    log_ticks,
    wrap,
)
from sign_ext.report.schema import Figure

SAMPLES, LINES, SCATTER, RELIABILITY = figures()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Any, ...]]]:
    """What matplotlib was asked to draw, by the method's name: arguments and keywords."""
    seen: dict[str, list[tuple[Any, ...]]] = {}

    def spy(name: str) -> None:
        original = getattr(Axes, name)

        def record(self: Axes, *args: Any, **kwargs: Any) -> Any:
            seen.setdefault(name, []).append((self, args, kwargs))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Axes, name, record)

    for name in ("plot", "scatter", "bar", "fill_between", "quiver", "contour"):
        spy(name)
    return seen


PLANE = Figure(
    "Figure 2",
    "",
    "",
    "plane",
    {
        "classes": ["upper", "lower"],
        "columns": 2,
        "panels": [
            {
                "title": "N",
                "x": [0.0, 1.0, 2.0],
                "y": [3.0, 4.0, 5.0],
                "label": [0, 1, 1],
                "curves": [{"x": [0.0, 2.0], "y": [1.0, 1.5], "label": 1}],
                "paths": [{"x": [0.0, 0.5], "y": [3.0, 3.5]}],
                "arrows": {"x": [0.0], "y": [0.0], "u": [1.0], "v": [-1.0]},
                "contour": {"x": [0.0, 1.0], "y": [0.0, 1.0], "z": [[-1.0, 1.0], [-1.0, 1.0]]},
            },
            {
                "title": "M",
                "x": [7.0],
                "y": [8.0],
                "label": [0],
                "curves": [],
                "rings": {"x": [7.0], "y": [8.0]},
            },
        ],
    },
)


@pytest.mark.parametrize("figure", [LINES, SCATTER, RELIABILITY, PLANE], ids=lambda f: f.kind)
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_drawings_are_repeatable_svg(figure: Figure, theme: Any) -> None:
    first, second = draw(figure, theme), draw(figure, theme)
    assert first == second
    root = ElementTree.fromstring(first.content)
    assert root.tag.endswith("svg")
    points = [float((root.get(side) or "").removesuffix("pt")) for side in ("width", "height")]
    np.testing.assert_allclose([first.width, first.height], np.array(points) * 4 / 3, atol=1)
    assert first.suffix == ".svg"
    assert theme.text.encode() in first.content
    assert b"<script" not in first.content


def test_a_background_is_drawn_when_asked_for() -> None:
    white = draw(LINES, LIGHT, background="#fffffe").content
    assert b"#fffffe" in white
    assert b"#fffffe" not in draw(LINES, LIGHT).content


def test_lines_and_bands_are_the_data(drawn: dict[str, list[tuple[Any, ...]]]) -> None:
    draw(LINES, LIGHT)
    lines = LINES.data["lines"]
    assert [kwargs["label"] for _, _, kwargs in drawn["plot"]] == [
        line["label"].replace("$", r"\$") for line in lines
    ]
    for line, (axes, args, _) in zip(lines, drawn["plot"], strict=True):
        np.testing.assert_allclose(args[0], line["x"])
        np.testing.assert_allclose(args[1], 100 * np.array(line["y"]))
        assert axes.get_ylabel() == "accuracy, %"
        assert axes.get_xscale() == "symlog"  # 0 is among the x
    banded = [line for line in lines if line["low"] is not None]
    for line, (_, args, _) in zip(banded, drawn["fill_between"], strict=True):
        np.testing.assert_allclose(args[1], 100 * np.array(line["low"]))
        np.testing.assert_allclose(args[2], 100 * np.array(line["high"]))


@pytest.mark.parametrize(
    ("x", "log_x", "scale"),
    [([1.0, 10.0], True, "log"), ([0.0, 0.0], True, "linear"), ([1.0, 10.0], False, "linear")],
)
def test_scales_and_gaps(
    x: list[float], log_x: bool, scale: str, drawn: dict[str, list[tuple[Any, ...]]]
) -> None:
    line = {"label": "a", "x": x, "y": [None, 0.5], "low": None, "high": None}
    data = {"x": "x", "y": "loss", "log_x": log_x, "percent": False, "lines": [line]}
    draw(Figure("F", "", "", "lines", data), LIGHT)
    ((axes, args, _),) = drawn["plot"]
    np.testing.assert_equal(args[1], [np.nan, 0.5])
    assert (axes.get_xscale(), axes.get_ylabel()) == (scale, "loss")


def test_points_are_the_data_by_class(drawn: dict[str, list[tuple[Any, ...]]]) -> None:
    draw(SCATTER, LIGHT)
    calls = drawn["scatter"]
    panels = SCATTER.data["panels"]
    assert len(calls) == len(panels) * len(CLASSES)
    for i, (_, args, kwargs) in enumerate(calls):
        panel, label = panels[i // len(CLASSES)], i % len(CLASSES)
        mine = np.array(panel["label"]) == label
        np.testing.assert_allclose(args[0], np.array(panel["x"])[mine])
        np.testing.assert_allclose(args[1], np.array(panel["y"])[mine])
        assert kwargs["label"] == CLASSES[label]
    looks = {(kwargs["color"], kwargs["marker"]) for _, _, kwargs in calls[: len(CLASSES)]}
    assert len({color for color, _ in looks}) == len({marker for _, marker in looks}) == 10


def test_a_plane_has_its_points_ways_arrows_and_boundary(
    drawn: dict[str, list[tuple[Any, ...]]],
) -> None:
    draw(PLANE, LIGHT)
    points = [(list(args[0]), list(args[1])) for _, args, _ in drawn["scatter"]]
    assert points == [
        *(([0.0], [3.0]), ([1.0, 2.0], [4.0, 5.0])),
        *(([7.0], [8.0]), ([], [])),
        ([7.0], [8.0]),  # the ring
    ]
    lines = [(args[0], args[1]) for _, args, _ in drawn["plot"]]
    assert lines == [([0.0, 2.0], [1.0, 1.5]), ([0.0, 0.5], [3.0, 3.5]), ([0.5], [3.5])]
    ((_, arrows, _),) = drawn["quiver"]
    assert [each.tolist() for each in arrows] == [[0.0], [0.0], [1.0], [-1.0]]
    ((_, (x, y, z, levels), _),) = drawn["contour"]
    assert (x, y, z.tolist(), levels) == ([0.0, 1.0], [0.0, 1.0], [[-1.0, 1.0]] * 2, [0.0])


def test_many_points_become_a_picture() -> None:
    many = figures(points=2000)[2]
    content = draw(many, LIGHT).content
    assert b"<image" in content
    assert len(content) < 600_000
    assert b"<image" not in draw(SCATTER, LIGHT).content


def test_bars_are_the_accuracies(drawn: dict[str, list[tuple[Any, ...]]]) -> None:
    draw(RELIABILITY, LIGHT)
    panels = RELIABILITY.data["panels"]
    for i, panel in enumerate(panels):
        (_, upper, _), (_, lower, _) = drawn["bar"][2 * i : 2 * i + 2]
        np.testing.assert_allclose(upper[0], 10 * np.arange(1, 10) + 5)  # the first bin is empty
        np.testing.assert_allclose(upper[1], 100 * np.array(panel["accuracy"][1:], dtype=float))
        counts = np.array(panel["count"])
        np.testing.assert_allclose(lower[1], 100 * counts / counts.sum())
    diagonal = drawn["plot"][0][1]
    assert diagonal[0] == diagonal[1] == [0, 100]


def test_calibration_error_is_the_weighted_gap(rng: np.random.Generator) -> None:
    count = rng.integers(0, 9, 7)
    count[3] = 0
    accuracy, confidence = rng.uniform(size=(2, 7))
    expected = np.average(np.abs(accuracy - confidence), weights=count)
    panel = {
        "count": count.tolist(),
        "accuracy": [None if n == 0 else a for n, a in zip(count, accuracy, strict=True)],
        "confidence": [None if n == 0 else c for n, c in zip(count, confidence, strict=True)],
    }
    found = expected_calibration_error(panel)
    assert found == pytest.approx(expected)
    assert (
        expected_calibration_error({"count": [0], "accuracy": [None], "confidence": [None]}) is None
    )


def test_samples_keep_their_pixels() -> None:
    rng = np.random.default_rng(7)
    names = ("red", "green", "blue")
    pixels = {"red": (250, 5, 5), "green": (5, 250, 5), "blue": (5, 5, 250)}
    flat = {}
    for name in names:
        buffer = io.BytesIO()
        Image.new("RGB", (3, 3), pixels[name]).save(buffer, format="PNG")
        flat[name] = base64.b64encode(buffer.getvalue()).decode()
    rows = [
        {"label": "all", "images": [flat[name] for name in names]},
        {"label": "one & noise", "images": [flat["blue"], png(rng)]},
    ]
    data = {"columns": list(names), "rows": rows}
    drawing = draw(Figure("F", "", "", "samples", data), DARK)
    picture = np.asarray(Image.open(io.BytesIO(drawing.content)).convert("RGB"))
    assert picture.shape[:2] == (drawing.height, drawing.width)
    assert drawing.suffix == ".png"
    areas = {name: np.all(picture == pixels[name], axis=2) for name in names}
    # Blue is there twice, in the third column above and in the first below.
    assert areas["blue"].sum() == pytest.approx(2 * areas["red"].sum(), rel=0.05)
    where = {name: np.argwhere(areas[name][: drawing.height // 2])[:, 1].mean() for name in names}
    assert where["red"] < where["green"] < where["blue"]
    assert tuple(picture[-1, -1]) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["samples", "lines", "scatter", "reliability", "plane"])
@pytest.mark.parametrize("data", [{}, {"rows": 3, "lines": [{}], "panels": [{}]}])
def test_data_of_another_kind_is_refused(kind: Any, data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"'Figure 9' is not that of kind '{kind}'.*schema"):
        draw(Figure("Figure 9", "", "", kind, data), LIGHT)


def test_images_that_are_none_are_refused() -> None:
    rows = [{"label": "a", "images": ["bm90IGEgcG5n"]}]
    broken = replace(SAMPLES, data={"columns": ["x"], "rows": rows})
    with pytest.raises(ValueError, match="'Figure 3'"):
        draw(broken, LIGHT)


def test_legends_and_titles_fit() -> None:
    assert legend_shape(METHODS, 6.4) == (3, 1)
    assert legend_shape(["a" * 80, "b"], 6.4) == (1, 2)
    lines = wrap("a long title with several words", 1.0).split("\n")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 9


@pytest.mark.parametrize("low", [0.003, 0.16, 1.0, 7.3])
@pytest.mark.parametrize("ratio", [1.0, 1.2, 3.0, 20.0, 900.0, 1e7, 1e15])
def test_ticks_of_a_logarithmic_axis_are_few_and_round(low: float, ratio: float) -> None:
    ticks = log_ticks(low, low * ratio)
    assert len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(low <= each <= low * ratio for each in ticks)
    if ratio > 5:
        assert len(ticks) >= 2
        assert all(f"{each:.0e}"[0] in "125" and float(f"{each:.0e}") == each for each in ticks)
