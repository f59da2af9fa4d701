"""The examples of "A folder of photographs" in docs/guide.md: without labels, and with a table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sign_ext import SignTransform, iterative_sign
from sign_ext.store import load_transformed, transform_to_store

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide.md"
SIZE = 8


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten JPEGs in one folder, of odd sizes; the working directory is the folder above."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        pixels = rng.integers(0, 256, (9 + i, 13, 3), dtype=np.uint8)
        image.fromarray(pixels).save(folder / f"IMG_{i:04d}.jpg")
    return folder


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 4), nn.Linear(4, 2)
    ).eval()


def section() -> str:
    text = PAGE.read_text(encoding="utf-8")
    return text.partition("## A folder of photographs")[2].partition("\n## ")[0]


def test_a_folder_without_labels(photos: Path, model: nn.Module) -> None:
    from PIL import Image

    (code,) = re.findall(r"```python\n(.*?)```", section(), re.DOTALL)
    assert "SIZE = 64" in code
    names = {"model": model}
    exec(code.replace("SIZE = 64", f"SIZE = {SIZE}"), names)
    made = sorted(path.name for path in Path("versions").iterdir())
    assert made == sorted(f"IMG_{i:04d}-K{k}.png" for i in range(10) for k in (50, 100))
    # One of them against its definition.
    with Image.open(photos / "IMG_0003.jpg") as file:
        original = np.array(file.convert("RGB").resize((SIZE, SIZE)), dtype=np.float32)
    images = torch.from_numpy(original).permute(2, 0, 1)[None]
    step_size = names["sign"].settings.step_size
    moved = iterative_sign(model, images, 50, step_size=step_size)[0].permute(1, 2, 0).numpy()
    with Image.open("versions/IMG_0003-K50.png") as file:
        found = np.array(file).astype(np.float32)
    assert np.abs(found - moved.clip(0, 255)).max() <= 0.51
    assert np.abs(found - original).max() > 1


def test_a_flat_folder_with_a_table_of_labels(photos: Path, model: nn.Module) -> None:
    """The lines of the table are those of the page, and the call is the one that it names."""
    from sign_ext.data import open_data

    lines = re.findall(r"^(file,label|IMG_\d+\.jpg,\w+)$", section(), re.MULTILINE)
    assert lines[0] == "file,label"
    assert re.fullmatch(r"IMG_\d{4}\.jpg,cat", lines[1])
    rows = [f"IMG_{i:04d}.jpg,{('cat', 'dog')[i % 2]}" for i in range(10)]
    Path("labels.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    assert 'open_data("photos", labels="labels.csv", image_size=64)' in section()
    source = open_data("photos", labels="labels.csv", image_size=SIZE)
    assert source.class_names == ("cat", "dog")
    transform_to_store(SignTransform(model, 2, step_size=100.0), source, "versions")
    train = load_transformed("versions").join(source)
    assert len(train) == 2 * len(source)
    wanted = [int(name.removesuffix(".jpg")[-1]) % 2 for name in source.keys(0, len(source))]
    assert [int(target) for _, target in (train[i] for i in range(len(source)))] == wanted
