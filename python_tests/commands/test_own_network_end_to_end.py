"""A timm network with weights in a wrapped .pth and a folder of photographs: every command.

The numbers are compared with the network as its owner would run it: timm's module, and images
that are normalised by hand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command_parts import from_stdout
from image_folders import read_pixels
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from sign_ext.cli import main
from sign_ext.store import load_transformed

NAME = "test_resnet"  # timm's smallest; it records a mean and std of 0.5, and 160 pixels
SIZE = 32
CLASSES = ("ant", "bee", "cat")
STEP = 2000.0
TWO_STEPS = ("--steps", "2", "--snapshots", "1", "2", "--step-size", str(STEP))
PARTS = {"train": 7, "val": 3, "test": 5}


def write_photos(root: Path) -> Path:
    """ROOT/SPLIT/CLASS/NUMBER.png: noise, with more of one colour for each class."""
    rng = np.random.default_rng(5)
    for part, count in PARTS.items():
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 206, (SIZE, SIZE, 3))
                pixels[..., label] += 50
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


def read_part(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """float32 images (N, 3, H, W) in 0–255 and labels (N), in the order of their names."""
    files = sorted((root / part).glob("*/*.png"))
    labels = [CLASSES.index(file.parent.name) for file in files]
    return torch.cat([read_pixels(file) for file in files]), torch.tensor(labels)


def normalized(images: Tensor) -> Tensor:
    """What timm's transforms do to an image of this network: to −1 … 1."""
    return (images / 255 - 0.5) / 0.5


def train_by_hand(photos: Path) -> nn.Module:
    """Train a network as its owner would, without sign_ext."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = timm.create_model(NAME, num_classes=len(CLASSES))
        images, labels = read_part(photos, "train")
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(12):
            optimizer.zero_grad()
            functional.cross_entropy(network(normalized(images)), labels).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("own") / "photos")


@pytest.fixture(scope="module")
def network(photos: Path) -> nn.Module:
    return train_by_hand(photos)


@pytest.fixture(scope="module")
def by_name(photos: Path, network: nn.Module) -> list[str]:
    """The options that name the network, its weights and the photographs."""
    path = photos.parent / "weights.pth"
    wrapped = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 12, "state_dict": wrapped}, path)
    model = ["--model", f"timm:{NAME}", "--weights", str(path)]
    return [*model, "--data", str(photos), "--image-size", str(SIZE)]


@pytest.fixture(scope="module")
def store(photos: Path, by_name: list[str]) -> Path:
    out = photos.parent / "store"
    assert main(["transform", *by_name, *TWO_STEPS, "--out", str(out)]) == 0
    return out


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((network(normalized(images)).argmax(1) == labels).double().mean())


def test_calibrate(by_name, photos, network, capsys) -> None:
    assert main(["calibrate", *by_name, "--steps", "2", "--step-sizes", "1", "9", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    untouched = next(row for row in found["rows"] if row["step_size"] == 0)
    assert untouched["accuracy"] == pytest.approx(accuracy(network, *read_part(photos, "val")))
    assert found["proposed"] > 0
    told = found["network"]
    assert (told["name"], told["num_classes"]) == (f"timm:{NAME}", 3)
    assert told["image_shape"] == [3, SIZE, SIZE]
    assert told["normalization"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert told["weights"]["unwrapped"] == ["state_dict", "module."]
    for words in ("state_dict", "module.", "127.5", "3 classes", "32×32"):
        assert words in printed.err
    assert printed.err.count("does not name its classes") == 1


def test_transform_adds_the_gradient_of_the_network(store, photos, network) -> None:
    made = load_transformed(store)
    assert made.class_names == CLASSES
    images, labels = read_part(photos, "train")
    assert torch.equal(made.labels, labels)
    images = images.double().requires_grad_()
    double = timm.create_model(NAME, num_classes=len(CLASSES)).double().eval()
    double.load_state_dict(network.state_dict())
    features = double.forward_features(normalized(images))
    double.forward_head(features, pre_logits=True).sum().backward()
    assert images.grad is not None
    change = STEP * images.grad
    assert float(change.abs().max()) > 5
    assert torch.allclose(made.tensor(1).double(), images.detach() + change, atol=0.01)


def test_the_manifest_says_where_the_network_is_from(store, by_name, capsys) -> None:
    from hashlib import sha256

    recipe = json.loads((store / "manifest.json").read_text())["recipe"]
    weights = Path(by_name[3])
    assert recipe["model"]["name"] == f"timm:{NAME}"
    assert recipe["model"]["normalization"] == {"mean": [127.5] * 3, "std": [127.5] * 3}
    assert recipe["model"]["weights"]["sha256"] == sha256(weights.read_bytes()).hexdigest()
    assert "checkpoint" not in recipe
    again = [*TWO_STEPS, "--out", str(store)]
    assert main(["transform", *by_name, *again, "--json"]) == 0
    told = from_stdout(capsys)
    assert (told["made"], told["kept"], told["network"]["name"]) == (0, 1, f"timm:{NAME}")
    other = ["--normalize", "imagenet", *again]
    assert main(["transform", *by_name, *other]) == 1
    assert "normalization" in capsys.readouterr().err


def test_verify(store) -> None:
    assert main(["verify", str(store)]) == 0


def test_train_on_the_store_and_evaluate(store, by_name, photos, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    arguments = ["--sign", str(store), "--epochs", "1", "--batch-size", "21"]
    assert main(["train", *by_name, *arguments, "--out", str(out), "--json"]) == 0
    assert from_stdout(capsys)["steps"] == 3
    config = json.loads((out / "model.json").read_text())
    assert config["class_names"] == list(CLASSES)
    assert config["model"]["name"] == f"timm:{NAME}"
    assert config["initial_weights"]["unwrapped"] == ["state_dict", "module."]
    assert main(["evaluate", "--checkpoint", str(out), "--draws", "1", "--json"]) == 0
    assert from_stdout(capsys)["accuracy"] == pytest.approx(accuracy(*rebuilt(out, photos)))


def rebuilt(run: Path, photos: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """What `train` left, loaded into timm's module by hand, and the test images."""
    from safetensors.torch import load_file

    network = timm.create_model(NAME, num_classes=len(CLASSES)).eval()
    tensors = load_file(run / "model.safetensors")
    own = {k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")}
    network.load_state_dict(own)
    return (network, *read_part(photos, "test"))


def test_evaluate_by_name(by_name, photos, network, capsys) -> None:
    assert main(["evaluate", *by_name, "--draws", "1", "--json"]) == 0
    found: dict[str, Any] = from_stdout(capsys)
    assert found["accuracy"] == pytest.approx(accuracy(network, *read_part(photos, "test")))
    assert set(found["per_class"]) == set(CLASSES)
    assert found["network"]["name"] == f"timm:{NAME}"


def test_transform_finds_the_step_size_itself(by_name, tmp_path, capsys) -> None:
    out = tmp_path / "auto"
    arguments = ["--split", "validation", "--steps", "2", "--step-size", "auto", "--out", str(out)]
    assert main(["transform", *by_name, *arguments, "--json"]) == 0
    printed = capsys.readouterr()
    rms = json.loads(printed.out)["change"]["2"]["rms"]
    assert 0.01 < rms / 255 < 0.04  # calibrate aims at 2% of the pixel range
    assert printed.err.count("does not name its classes") == 1
