"""The page: every part is there, nothing is loaded from elsewhere, and numbers are the metrics'."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sign_ext.experiments.demo.comparison import compare
from sign_ext.report.demo_page import render_page
from sign_ext.report.plots import Samples

CLASSES = ("round", "<square>")
METHODS = ("classical", "classical_same_steps", "sign")


def evaluation(accuracy: float) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "per_class": {CLASSES[0]: accuracy, CLASSES[1]: None},
        "pixels_off_mean": accuracy - 0.1,
        "pixels_off_std": 0.0123,
        "noise_mean": accuracy - 0.2,
        "noise_std": 0.0456,
        "draws": 3,
        "images": 50,
    }


def training(epochs: int) -> dict[str, Any]:
    rows = [
        {
            "epoch": e,
            "train_loss": 1 / e,
            "train_accuracy": 0.5,
            "validation_loss": 1 / e,
            "validation_accuracy": 0.5 + 0.01 * e,
            "steps": 7 * e,
        }
        for e in range(1, epochs + 1)
    ]
    return {
        "history": rows,
        "best_epoch": epochs,
        "best_validation_accuracy": 0.9,
        "steps": 7 * epochs,
        "seconds": 1.0,
    }


def make_metrics(seeds: int = 1) -> dict[str, Any]:
    row = {"step_size": 4.5, "rms": 5.1, "largest": 40.0, "share_negative": 0.25}
    row |= {"accuracy": 0.5, "confidence": 0.75, "diverged": False}
    gone = dict.fromkeys(row) | {"step_size": 9e9, "diverged": True}
    calibration = {"rows": [row, gone], "proposed": 4.5, "steps": 4, "target_share": 0.02}
    change = {"rms": 3.21, "largest": 17.0, "share_negative": 0.111}
    runs = [
        {
            "seed": seed,
            "calibration": {**calibration, "pixel_range": 255.0, "images": 12},
            "step_size": 4.5,
            "change": {"2": change, "4": change},
            "training": {name: training(3 + i) for i, name in enumerate(METHODS)},
            "evaluation": {
                name: evaluation(0.5 + 0.1 * i + 0.02 * seed) for i, name in enumerate(METHODS)
            },
        }
        for seed in range(seeds)
    ]
    return {
        "settings": {"model": "basic_cnn", "seeds": seeds, "draws": 3, "snapshots": [2, 4]},
        "sizes_because": "chosen for a test",
        "augmentation": {"name": "Classical", "horizontal_flip": False},
        "data": {
            "name": "shapes",
            "note": "two & a half shapes",
            "class_names": list(CLASSES),
            "image_shape": [3, 5, 7],
            "train": 20,
            "validation": 10,
            "test": 50,
            "train_fingerprint": "0" * 64,
        },
        "runs": runs,
        "comparison": compare([run["evaluation"] for run in runs], 50).to_dict(),
        "seconds": {"training": 61.0},
        "command": "sign-ext demo --out 'a <b>'",
        "machine": {"device": "cpu", "threads": 2},
        "versions": {"torch": "9.8.7"},
    }


@pytest.fixture
def samples(torch_rng: torch.Generator) -> Samples:
    images = 255 * torch.rand(2, 3, 5, 7, generator=torch_rng)
    moved = {k: images + 9 * torch.randn(2, 3, 5, 7, generator=torch_rng) for k in (2, 4)}
    return Samples(CLASSES, images, moved)


class Reader(HTMLParser):
    """Collects a page's tags and text, and the addresses that a browser would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_loads_nothing(samples: Samples) -> None:
    page = render_page(make_metrics(), samples)
    for _, attributes in Reader(page).tags:
        for name in ("src", "srcset", "href", "data", "poster"):
            address = attributes.get(name)
            assert address is None or address.startswith("data:")
    assert not re.search(r"url\(|@import|https?://", page)
    assert "<script" not in page


def test_every_part_is_there(samples: Samples) -> None:
    reader = Reader(render_page(make_metrics(), samples))
    for heading in (
        "What SIGN does to an image",
        "Classical training against SIGN",
        "Training curves",
        "Class by class",
        "The step size",
        "How this was made",
    ):
        assert heading in reader.text
    for text in ("sign-ext demo --out 'a <b>'", "two & a half shapes", "9.8.7", "diverges"):
        assert text in reader.text  # and so names with < and & are escaped
    for name in ("headline", "meaning"):
        assert make_metrics()["comparison"][name] in reader.text


def test_the_page_leads_with_the_result_and_its_meaning(samples: Samples) -> None:
    metrics = make_metrics()
    page = render_page(metrics, samples)
    lead = page[page.index("</h1>") : page.index("What SIGN does to an image")]
    assert 0 < lead.index(metrics["comparison"]["headline"]) < lead.index("Signed Input")
    assert lead.index(metrics["comparison"]["meaning"]) < lead.index("Signed Input")


def test_page_is_accessible(samples: Samples) -> None:
    reader = Reader(render_page(make_metrics(), samples))
    pictures = reader.all("img")
    assert len(pictures) == 2 * 4 + 3  # two images in four versions, three figures
    assert all(picture["alt"] for picture in pictures)
    assert all(header["scope"] in ("row", "col") for header in reader.all("th"))
    assert len(reader.all("caption")) == len(reader.all("table"))
    assert reader.all("html") == [{"lang": "en"}]
    labels = {attributes["id"] for attributes in reader.all("h2")}
    assert {section["aria-labelledby"] for section in reader.all("section")} == labels


def test_numbers_are_those_of_the_metrics(samples: Samples) -> None:
    text = " ".join(Reader(render_page(make_metrics(), samples)).text.split())
    # SIGN's accuracies 0.7, 0.6 and 0.5 with the deviation over draws; the clean one has none.
    assert "Clean50.060.070.0 50 pixels off" in text
    assert "40.0 ± 1.250.0 ± 1.260.0 ± 1.2" in text
    assert "30.0 ± 4.640.0 ± 4.650.0 ± 4.6" in text
    assert "round50.060.070.0" in text
    assert "<square>–––" in text
    assert "standard error is 6.5 points" in text  # √(0.7·0.3/50)
    assert "1 seed, 61 s on 2 CPU threads" in text


def test_several_seeds_show_their_spread(samples: Samples) -> None:
    text = " ".join(Reader(render_page(make_metrics(seeds=2), samples)).text.split())
    # Seeds differ by 0.02: mean 0.71 and sample deviation 0.02/√2.
    assert "51.0 ± 1.461.0 ± 1.471.0 ± 1.4" in text
    assert "standard deviation over seeds" in text


def test_sample_pictures_hold_the_pixels(samples: Samples) -> None:
    page = render_page(make_metrics(), samples)
    pictures = Reader(page).all("img")[:4]
    shown = []
    for picture in pictures:
        source = picture["src"] or ""
        data = base64.b64decode(source.removeprefix("data:image/png;base64,"))
        shown.append(np.asarray(Image.open(io.BytesIO(data))).astype(float))
    before = samples.originals[0].permute(1, 2, 0).numpy()
    after = samples.snapshots[4][0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(shown[0], before, atol=0.51)
    np.testing.assert_allclose(shown[2], after.clip(0, 255), atol=0.51)
    delta = np.clip(128 + (after - before) / samples.scale * 127, 0, 255)
    np.testing.assert_allclose(shown[3], delta, atol=0.51)
    assert [picture["alt"] for picture in pictures] == [
        "round, before",
        "round, after K = 2",
        "round, after K = 4",
        "round, change δ after K = 4",
    ]
