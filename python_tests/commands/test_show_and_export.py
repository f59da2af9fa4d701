"""`sign-ext show`, `export` and `evaluate --corruptions`, on forty real digits."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_parts import TINY, from_stdout
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sign_ext.cli import main
from sign_ext.commands.corruption_options import parse
from sign_ext.store import load_transformed


def shown(trained: Path, out: Path, *more: str) -> int:
    common = ["--checkpoint", str(trained), "--data", "digits", "--image-size", "16"]
    return main(["show", *common, "--steps", "1", "3", "--out", str(out), *more])


def test_show_writes_a_page_and_says_what_it_shows(trained, tmp_path, capsys):
    out, board = tmp_path / "new/page.html", tmp_path / "board"
    words = ["--classes", "seven", "three", "--images-per-class", "2", "--methods", "heat_map"]
    assert shown(trained, out, *words, "--step-size", "30", "--tensorboard", str(board)) == 0
    text = out.read_text()
    assert re.findall(r"<h3>([^<]+)<span>", text) == ["seven", "seven", "three", "three"]
    assert text.count("data:image/png;base64,") == 4 * 5 + 1  # and the scale of colours
    printed = capsys.readouterr().out
    assert "3 steps of size 30 move the 4 images by" in printed
    assert printed.splitlines()[-1] == str(out)
    assert "--step-size 30.0" in text or "--step-size 30" in text
    events = EventAccumulator(str(board))
    events.Reload()
    tags = events.Tags()
    assert len(tags["images"]) == 4 * 5
    assert set(tags["histograms"]) == {"grey levels", "change in grey levels"}
    written = {each.step: each.value for each in events.Scalars("change/rms")}
    assert set(written) == {1, 3}
    assert f"by {written[3]:.3g} grey levels" in printed
    assert [each.name for each in out.parent.iterdir()] == ["page.html"]


def test_show_json_and_picture_agree_with_the_images(trained, tmp_path, capsys):
    out = tmp_path / "one.png"
    assert shown(trained, out, "--classes", "five", "--step-size", "auto", "--json") == 0
    found = from_stdout(capsys)
    with Image.open(out) as image:
        assert image.width > 600
    assert [each["steps"] for each in found["change"]] == [1, 3]
    # auto: 2% of 255 after the largest K, found to within its tolerance
    assert found["change"][1]["rms"] == pytest.approx(5.1, rel=0.1)
    [image] = found["images"]
    assert image["class"] == "five"
    assert set(image["answers"]) == {"0", "1", "3"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "page.txt"], "a file name that ends in .html, .png"),
        (["--values", "all", "--methods", "masked_image"], "--values all has signs"),
        (["--methods", "gradcam"], "accepted: overlay, heat_map"),
        (["--opacity", "2"], "accepted: 0 to 1"),
        (["--outlier-percentile", "200"], "100 at most"),
        (["--classes", "sevn"], "did you mean 'seven'?"),
        (["--images-per-class", "30"], "at most 64"),
        (["--colormap", "infernal"], "a name of matplotlib's"),
    ],
)
def test_show_refuses(trained, tmp_path, capsys, words, message):
    assert shown(trained, tmp_path / "page.html", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*"))


def test_export_prints_what_is_lost(transformed, tmp_path, capsys):
    out = tmp_path / "png"
    assert main(["export", str(transformed), "--to", "png", "--out", str(out), "--json"]) == 0
    found = from_stdout(capsys)
    store = load_transformed(transformed)
    for k in store.steps:
        x = store.tensor(k).double().numpy()
        loss = found["loss"][str(k)]
        assert loss["below"] == int((x < 0).sum())
        rounding = np.sqrt(np.mean((np.clip(x, 0, 255) - np.rint(np.clip(x, 0, 255))) ** 2))
        assert loss["rounding_rms"] == pytest.approx(rounding, rel=1e-9)
    pixels = np.rint(np.clip(store.tensor(2)[3].numpy(), 0, 255)).transpose(1, 2, 0)
    name = store.class_names[int(store.labels[3])]
    path = out / f"K002/{name}" / f"{store.keys[3].rpartition('/')[2]}.png"
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.array(image), pixels)
    assert main(["export", str(transformed), "--to", "png", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "all of it existed" in printed.err
    assert "rms rounding" in printed.out
    assert main(["export", str(transformed), "--to", "npy", "--out", str(out)]) == 1
    assert "--to was png, now npy" in capsys.readouterr().err


def test_export_refuses_to_write_into_the_store(transformed, capsys):
    words = ["--to", "png", "--out", str(transformed / "png")]
    assert main(["export", str(transformed), *words]) == 2
    assert "lies in the store" in capsys.readouterr().err


def evaluated(trained: Path, *more: str) -> int:
    words = ["--checkpoint", str(trained), *TINY, "--test-size", "30", "--draws", "2"]
    words = [word for word in words if word not in ("--train-size", "40")]
    return main(["evaluate", *words, *more])


def test_evaluate_corruptions_as_table_json_and_plot(trained, tmp_path, capsys):
    plot = tmp_path / "plots/a.png"
    words = ["--sigma", "10", "40", "--pixels", "20", "--plot", str(plot)]
    words += ["--corruptions", "contrast:2", "impulse_noise"]
    assert evaluated(trained, *words, "--json") == 0
    found = from_stdout(capsys)
    rows = [(each["name"], each["strength"], each["draws"]) for each in found["corruptions"]]
    assert rows[:4] == [
        ("pixels_off", 20, 2),
        ("noise", 10.0, 2),
        ("noise", 40.0, 2),
        ("contrast", 2, 1),
    ]
    assert rows[4:] == [("impulse_noise", s, 2) for s in range(1, 6)]
    assert found["corruptions"][1]["mean"] == found["noise_mean"]
    with Image.open(plot) as image:
        assert image.width > 1000
    assert evaluated(trained, "--sigma", "3", "--corruptions", "contrast:2") == 0
    table = capsys.readouterr().out
    for row in ("50 pixels off", "Gaussian noise, σ = 3", "contrast, severity 2"):
        assert row in table


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--corruptions", "contrasts"], "did you mean 'contrast'?"),
        (["--corruptions", "none"], "leave the option out: then the accuracy on clean images"),
        (["--corruptions", "contrast:6"], "accepted: contrast:1 to contrast:5"),
        (["--pixels", "257"], "accepted: 0 to 256"),
        (["--sigma", "-1"], "--sigma"),
        (["--plot", "plot.jpg"], "accepted: a file name that ends in .png"),
    ],
)
def test_evaluate_refuses(trained, capsys, words, message):
    assert evaluated(trained, *words) == 2
    assert message in capsys.readouterr().err


def test_corruptions_are_listed_once():
    assert parse(("contrast:3", "contrast")) == [("contrast", s) for s in (3, 1, 2, 4, 5)]
    assert len(parse(("all",))) == 50
    assert parse(("all:2",))[0] == ("gaussian_noise", 2)


def test_the_export_of_a_store_is_json_that_says_how_it_was_made(transformed, tmp_path):
    assert main(["export", str(transformed), "--to", "npy", "--out", str(tmp_path / "n")]) == 0
    about = json.loads((tmp_path / "n/export.json").read_text())
    assert about["recipe"] == load_transformed(transformed).recipe
