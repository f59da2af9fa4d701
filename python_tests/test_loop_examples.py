"""The examples of docs/loops.md run, on a folder of photographs made on the spot."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from sign_ext.store import load_transformed

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
CLASSES = ("cat", "dog", "owl")
TRAIN, OTHERS, SIDE = 3, 1, 64
# Example → the packages that it needs beside torch and timm.
NEEDS = {
    "plain_loop": (),
    "lightning_trainer": ("lightning",),
    "hf_trainer": ("transformers", "accelerate", "datasets"),
    "timm_transforms": (),
    "on_the_fly": (),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/{train,val,test}/{three classes}, the weights of Φ, and the store."""
    Image = pytest.importorskip("PIL.Image")
    timm = pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    folder = tmp_path_factory.mktemp("loops")
    rng = np.random.default_rng(11)
    for split, count in (("train", TRAIN), ("val", OTHERS), ("test", OTHERS)):
        for label, name in enumerate(CLASSES):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                values = rng.integers(0, 200, (SIDE, SIDE, 3), dtype=np.uint8)
                values[..., label] += 50  # a class a colour
                Image.fromarray(values).save(place / f"{number}.png")
    torch.manual_seed(0)
    network = timm.create_model("resnet18", num_classes=3)
    torch.save(network.state_dict(), folder / "phi.pth")
    return folder


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None):
    """Run an example in the folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(name: str) -> None:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")

    if not (folder / "store" / "manifest.json").exists():
        run("make_store")
    return run


def test_the_store_of_an_image_folder(run, folder):
    store = load_transformed(folder / "store")
    assert store.steps == (5, 10)
    names = [f"{name}/{number}.png" for name in CLASSES for number in range(TRAIN)]
    assert list(store.keys) == names
    assert store.manifest.image_shape == (3, SIDE, SIDE)
    assert store.class_names == CLASSES


@pytest.mark.parametrize("name", NEEDS)
def test_an_example_trains(name, run, folder, capfd):
    for package in NEEDS[name]:
        pytest.importorskip(package)
    capfd.readouterr()
    run(name)
    printed = capfd.readouterr().out
    losses = [float(each) for each in re.findall(r"loss (\d+\.\d+)", printed)]
    assert losses, printed
    assert all(0 < loss < 20 for loss in losses)
    images = 3 * len(CLASSES) * TRAIN  # originals and two versions
    batches = 2 * -(-images // 16)  # of 16, in two epochs
    says = {
        "plain_loop": f"{images} training images, matched by paths of 9 images and their labels",
        "lightning_trainer": f"{2 * -(-2 * len(CLASSES) * TRAIN // 16)} steps",
        "hf_trainer": f"{batches} steps on {images} images",
        "timm_transforms": "epoch 2: ",
        "on_the_fly": "epoch 2: K = ",
    }
    assert says[name] in printed


def test_the_page_shows_every_example():
    page = (EXAMPLES.parent / "loops.md").read_text(encoding="utf-8")
    shown = re.findall(r"literalinclude} examples/(\w+)\.py", page)
    assert sorted(shown) == sorted(path.stem for path in EXAMPLES.glob("*.py"))
    assert set(shown) == {"make_store", *NEEDS}
