"""`sign_ext.show` and the page: what is shown are the numbers, and nothing comes from elsewhere."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sign_ext
from sign_ext.report.show_figure import Look, figure_file, show_figure
from sign_ext.report.show_page import render_show
from sign_ext.report.shown import Answer, Shown, answers_of


def make_net(seed: int = 0, size: int = 6, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * size * size, 8), nn.ReLU(), nn.Linear(8, classes)
    )


def make_shown(answers: bool = True) -> Shown:
    originals = torch.full((2, 3, 4, 6), 100.0)
    moved = {5: originals + 1, 9: originals.clone()}
    moved[9][0, 0, 0, 0] = -20.0
    moved[9][1, 2, 3, 5] = 260.0
    said = {
        0: (Answer("cat", 0.5), Answer("<dog>", 0.7)),
        5: (Answer("cat", 0.6), Answer("<dog>", 0.8)),
        9: (Answer("<dog>", 0.9), Answer("<dog>", 0.9)),
    }
    names = ("train/cat/1.png", "train/<dog>/2.png")
    return Shown(originals, moved, ("cat", "<dog>"), names, said if answers else {}, 2.5)


def page(shown: Shown, **look) -> str:
    facts = {"network": "a & b", "step size": "2.5"}
    texts = {"title": "What SIGN does to <pets>", "about": "two images", "command": "sign-ext show"}
    return render_show(shown, Look(**look), facts=facts, **texts)


def pictures_of(html: str) -> list[np.ndarray]:
    found = re.findall(r'<figure><img src="data:image/png;base64,([^"]+)"', html)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_the_change_is_that_of_the_images():
    first, second = make_shown().changes()
    assert (first.steps, first.rms, first.largest, first.below, first.above) == (5, 1, 1, 0, 0)
    values = 2 * 3 * 4 * 6
    assert second.rms == pytest.approx(((120**2 + 160**2) / values) ** 0.5, rel=1e-12)
    assert second.largest == 160
    assert second.below == second.above == 1 / values


def test_findings_count_the_images_that_are_shown():
    said = " ".join(make_shown().findings())
    assert "9 steps of size 2.5 move the 2 images by" in said
    assert "answers otherwise for 1 of 2 images after 9 steps" in said
    assert "goes from 60% to 90%" in said
    assert "right about 2 of 2 images before, and 1 after" in said
    assert "answers" not in " ".join(make_shown(answers=False).findings())


def test_histograms_hold_every_value_once():
    shown = make_shown()
    edges, shares = shown.histogram()
    assert edges[0] == -20
    assert edges[-1] == 260
    assert list(shares) == ["before", "K = 5", "K = 9"]
    for values in shares.values():
        assert values.sum() == pytest.approx(1)
    assert shares["before"][np.searchsorted(edges, 100.0) - 1] == 1
    edges, shares = shown.change_histogram()
    assert (edges[0], edges[-1]) == (-160, 160)
    assert shares["K = 9"][0] == 0
    assert shares["K = 9"][-1] == pytest.approx(1 / 144)


@pytest.fixture(scope="module")
def html() -> str:
    return page(make_shown(), methods=("heat_map",))


def test_the_page_has_the_pixels_of_the_images(html):
    pictures = pictures_of(html)
    assert len(pictures) == 2 * 5
    before, five, nine, _delta, _heat = pictures[:5]
    assert (before == 100).all()
    assert (five == 101).all()
    assert nine[0, 0].tolist() == [0, 100, 100]  # −20, clipped
    assert (nine.reshape(-1, 3)[1:] == 100).all()


def test_the_page_loads_nothing_and_escapes_names(html):
    assert not re.search(r"<script|https?://|url\(|@import", re.sub(r"base64,[^\"]+", "", html))
    assert "<dog>" not in html
    assert "&lt;dog&gt;" in html
    assert html.count('class="turned"') == 1
    for word in ("K = 5", "K = 9", "a &amp; b", "prefers-color-scheme: dark", "width=device-width"):
        assert word in html


def test_a_network_without_classes_has_no_answers():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1))
    images = torch.rand(2, 3, 4, 4)
    assert answers_of(model, {0: images}, ()) == {}
    assert "What the network answers" not in page(make_shown(answers=False), methods=())


def test_answers_are_the_softmax_of_the_network():
    model, images = make_net(1), torch.rand(4, 3, 6, 6)
    found = answers_of(model, {0: images}, ("a", "b", "c"))[0]
    with torch.no_grad():
        probabilities = model(images).double().softmax(1)
    for answer, row in zip(found, probabilities, strict=True):
        assert answer.name == "abc"[int(row.argmax())]
        assert answer.probability == pytest.approx(float(row.max()), rel=1e-5)


def test_show_draws_what_iterative_sign_returns():
    model = make_net(2)
    images = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(3)) * 255
    figure = sign_ext.show(
        model, images, [2, 0], steps=(3, 1), step_size=4.0, class_names=("a", "b", "c")
    )
    expected = sign_ext.iterative_sign(model, images, 3, snapshots=(1, 3), step_size=4.0)
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(drawn) == 2 * 5
    for row, start in enumerate((0, 5)):
        for column, each in enumerate((images, expected[1], expected[3])):
            pixels = each[row].double().clamp(0, 255).round().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(drawn[start + column], pixels)
    texts = [axes.get_ylabel() for axes in figure.axes]
    assert texts[0] == "c"
    assert texts[5] == "a"


def test_images_in_shares_are_shown_in_grey_levels():
    model, images = make_net(4), torch.rand(1, 3, 6, 6) * 0.5
    figure = sign_ext.show(model, images, steps=(1,), step_size=1e-3, pixel_range=1.0)
    before = figure.axes[0].images[0].get_array()
    pixels = (images[0].double() * 255).float().round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(before, pixels)


def test_auto_moves_the_images_by_two_percent():
    model, images = make_net(5), torch.rand(3, 3, 6, 6) * 255
    figure = sign_ext.show(model, images, steps=(4,))
    proposed = sign_ext.SignTransform(model, 4).calibrate(images).proposed
    moved = sign_ext.iterative_sign(model, images, 4, step_size=proposed)
    pixels = moved[2].double().clamp(0, 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(figure.axes[2 * 4 + 1].images[0].get_array(), pixels)


@pytest.mark.parametrize(
    ("images", "changes", "words"),
    [
        (torch.rand(2, 3, 9), {}, "Other shapes have no picture"),
        (torch.rand(2, 4, 6, 6), {}, "accepted: (N, 3, H, W) or (N, 1, H, W)"),
        (torch.rand(65, 3, 6, 6), {}, "at most 64"),
        (torch.rand(2, 3, 6, 6), {"steps": ()}, "at least one number of steps"),
        (torch.rand(2, 3, 6, 6), {"labels": [1]}, "accepted: (2,)"),
        (torch.rand(2, 3, 6, 6), {"methods": ("gradcam",)}, "accepted: original, heat_map"),
        (torch.rand(2, 3, 6, 6), {"colormap": "none such"}, "a name of matplotlib's"),
    ],
)
def test_what_show_refuses_before_any_step(images, changes, words):
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("a step was taken")

    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its words are compared)
        sign_ext.show(Never(), images, **changes)
    assert words in str(caught.value)


def test_a_figure_is_the_same_file_each_time(tmp_path):
    one, two = (show_figure(make_shown(), Look(methods=())) for _ in range(2))
    files = [figure_file(each, tmp_path / "a.svg") for each in (one, two)]
    assert files[0] == files[1]
    assert files[0].startswith(b"<?xml")
    assert figure_file(one, tmp_path / "a.pdf").startswith(b"%PDF")
    with Image.open(io.BytesIO(figure_file(one, tmp_path / "a.png"))) as image:
        assert image.width > 700


def test_show_needs_matplotlib_and_says_so():
    """Of the packages of the harness only matplotlib, and what that needs itself."""
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = {"torchmetrics", "torchvision", "sklearn", "scipy", "pydantic", "jinja2", "rich", "timm"}
sys.meta_path.insert(0, Missing())
import torch, sign_ext
from torch import nn
model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 2))
images = torch.rand(1, 3, 2, 2) * 255
print(len(sign_ext.show(model, images, steps=(1,), step_size=1.0).axes))
for name in [each for each in sys.modules if each.partition(".")[0] == "matplotlib"]:
    del sys.modules[name]
BLOCKED.add("matplotlib")
try:
    sign_ext.show(model, images, steps=(1,), step_size=1.0)
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "6",
        "sign_ext.show draws with matplotlib, which is not installed: pip install matplotlib",
    ], done.stderr
