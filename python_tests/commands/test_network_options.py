"""Networks by every kind of name, their weights and normalisation; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_parts import from_stdout
from image_folders import SIZE, read_pixels, write_images, write_network
from torch import nn

from sign_ext.cli import main
from sign_ext.store import load_transformed

CLASSES = ("ant", "bee", "cat")
NETWORKS = """
import torch
from torch import nn

def small(num_classes=3, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(),
                         nn.Linear(width * 36, num_classes))

def trained():
    network = small()
    network.load_state_dict(torch.load("small.pth", weights_only=True))
    return network
"""


@pytest.fixture
def place(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, torch_rng: None
) -> Path:
    """A folder to be in: photos/, own_networks.py, and the weights of its network in small.pth."""
    write_images(tmp_path / "photos", CLASSES, rng)
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    torch.save(small().state_dict(), tmp_path / "small.pth")
    monkeypatch.syspath_prepend(str(tmp_path))  # puts sys.path back afterwards
    monkeypatch.chdir(tmp_path)
    return tmp_path


def small(width: int = 4) -> nn.Sequential:
    """The network of own_networks.py, whose weights tell the classes of random images apart."""
    layers = nn.Conv2d(3, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(width * 36, 3)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        layers[3].weight.mul_(20)
    return network


def logits_by_hand(place: Path, mean: float, std: float) -> torch.Tensor:
    """float32 (9, 3): logits of the test images, normalised by hand."""
    network = small().eval()
    network.load_state_dict(torch.load(place / "small.pth", weights_only=True))
    files = sorted((place / "photos/test").glob("*/*.png"))
    with torch.no_grad():
        return network((torch.cat([read_pixels(file) for file in files]) - mean) / std)


def accuracy_by_hand(place: Path, mean: float, std: float) -> float:
    wanted = torch.arange(3).repeat_interleave(3)
    return float((logits_by_hand(place, mean, std).argmax(1) == wanted).double().mean())


def evaluated(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    where = ("--data", "photos", "--image-size", str(SIZE), "--draws", "1", "--json")
    assert main(["evaluate", *where, *arguments]) == 0
    found: dict[str, Any] = from_stdout(capsys)
    return found


NORMALIZED = [
    (("none",), 0, 1),
    (("127.5,127.5,127.5", "51,51,51"), 127.5, 51),
    (("0.5,0.5,0.5", "0.2,0.2,0.2"), 127.5, 51),
]


@pytest.mark.parametrize(("given", "mean", "std"), NORMALIZED)
def test_own_function_with_each_normalization(given, mean, std, place, capsys) -> None:
    model = ["--model", "own_networks:small", "--weights", "small.pth", "--normalize", *given]
    found = evaluated(capsys, *model)
    assert found["accuracy"] == pytest.approx(accuracy_by_hand(place, mean, std))
    told = found["network"]
    assert (told["name"], told["num_classes"]) == ("own_networks:small", 3)
    assert told["image_shape"] == [3, SIZE, SIZE]
    if given == ("none",):
        assert not told.get("normalization")
    else:
        assert told["normalization"] == {
            "mean": pytest.approx([mean] * 3),
            "std": pytest.approx([std] * 3),
        }


def test_a_function_may_load_its_weights_itself(place, capsys) -> None:
    found = evaluated(capsys, "--model", "own_networks.py:trained", "--normalize", "none")
    assert found["accuracy"] == pytest.approx(accuracy_by_hand(place, 0, 1))
    assert "weights" not in found["network"]


def test_own_function_is_trained_and_named_again(place, capsys) -> None:
    """What `train` leaves rebuilds with --model, and not without; a store can be made with it."""
    model = ["--model", "own_networks.py:small", "--model-options.width", "5"]
    data = ["--data", "photos", "--image-size", str(SIZE)]
    again = ["--normalize", "0.5,0.5,0.5", "0.2,0.2,0.2", "--epochs", "1", "--out", "run"]
    assert main(["train", *model, *data, *again]) == 0
    config = json.loads((place / "run/model.json").read_text())
    assert config["model"]["options"] == {"width": 5}
    assert "initial_weights" not in config
    assert main(["evaluate", "--checkpoint", "run"]) == 1
    assert "--model" in capsys.readouterr().err.splitlines()[-1]
    assert main(["evaluate", "--checkpoint", "run", "--model", "own_networks:small"]) == 1
    assert "own_networks.py:small" in capsys.readouterr().err.splitlines()[-1]
    repeated = ["--checkpoint", "run", "--model", "own_networks.py:small"]
    assert main(["evaluate", *repeated, "--draws", "1", "--json"]) == 0
    assert from_stdout(capsys)["network"]["normalization"]["std"] == pytest.approx([51.0] * 3)
    made = ["--steps", "1", "--step-size", "0.1", "--layer", "2", "--out", "store"]
    assert main(["transform", *repeated, *made]) == 0
    recipe = load_transformed("store").recipe
    assert recipe["checkpoint"]["model"] == config["model"]
    assert recipe["settings"]["layer"] == "network.2"  # the network's own name for it is 2


def test_ours_by_name_with_the_weights_of_a_checkpoint(place, capsys) -> None:
    write_network(place / "net", CLASSES)
    by_checkpoint = evaluated(capsys, "--checkpoint", "net")
    by_name = evaluated(
        capsys, "--model", "basic_cnn", "--weights", "net/model.safetensors", "--num-classes", "3"
    )
    assert by_name["accuracy"] == by_checkpoint["accuracy"]
    assert by_name["per_class"] == by_checkpoint["per_class"]


def test_a_head_of_another_size_is_new_in_train_only(place, capsys) -> None:
    ten = nn.Sequential(*list(small())[:-1], nn.Linear(4 * 36, 10))
    torch.save(ten.state_dict(), "ten.pth")
    named = ["--model", "own_networks:small", "--weights", "ten.pth", "--normalize", "none"]
    data = ["--data", "photos", "--image-size", str(SIZE)]
    assert main(["evaluate", *named, *data, "--num-classes", "3"]) != 0
    error = capsys.readouterr().err.splitlines()
    assert any("10" in line and line.startswith("sign-ext: error") for line in error)
    assert main(["evaluate", *named, *data]) == 1  # ten classes, and photos of three
    advised = capsys.readouterr().err
    assert f"sign-ext {' '.join(['train', *named, '--image-size', '8', *data[:2]])}" in advised
    assert "--checkpoint DIR --model own_networks:small" in advised
    train = ["--epochs", "1", "--learning-rate", "1e-9", "--out", "run"]
    assert main(["train", *named, *data, *train]) == 0
    assert "new weights for the last layer" in capsys.readouterr().err
    from safetensors.torch import load_file

    kept = {k.removeprefix("network."): v for k, v in load_file("run/model.safetensors").items()}
    assert torch.allclose(kept["0.weight"], ten[0].weight, atol=1e-6)
    assert kept["3.weight"].shape == (3, 4 * 36)
    assert main(["evaluate", "--checkpoint", "run", *named[:2], "--draws", "1"]) == 0


def test_a_run_is_resumed_with_the_same_network_only(place, capsys) -> None:
    data = ["--data", "photos", "--image-size", str(SIZE), "--normalize", "none"]
    run = ["train", *data, "--epochs", "1", "--out", "run"]
    torch.save(small().state_dict(), "other.pth")
    assert main([*run, "--model", "own_networks:small", "--weights", "small.pth"]) == 0
    capsys.readouterr()
    same = ["--model", "own_networks:small", "--weights"]
    assert main([*run, "--resume", *same, "small.pth"]) == 0
    assert main([*run, "--resume", *same, "other.pth"]) == 1
    assert "network.initial_weights.sha256: " in capsys.readouterr().err
    assert main([*run, "--resume", "--model", "own_networks.py:small"]) == 1
    error = capsys.readouterr().err
    assert "network.name: own_networks:small in the folder, own_networks.py:small now" in error


@pytest.mark.parametrize(
    ("name", "size"), [("timm:test_resnet", 160), ("torchvision:shufflenet_v2_x0_5", 224)]
)
def test_info_of_a_library_network_with_new_weights(name, size, capsys) -> None:
    assert main(["info", "--model", name, "--num-classes", "7", "--json"]) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["network"]["image_shape"] == [3, size, size]
    assert told["network"]["num_classes"] == 7
    assert len(told["network"]["normalization"]["mean"]) == 3
    assert "network." in str(told["sign"])
    assert "new random weights" in printed.err


def test_an_aleatoric_network_of_timm(place, capsys) -> None:
    data = ["--data", "photos", "--image-size", "32"]
    train = ["--model", "timm:test_resnet", "--epochs", "1", "--aleatoric", "2", "--out", "run"]
    assert main(["train", *data, *train]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", "run", "--draws", "1", "--json"]) == 0
    assert "sigma" in from_stdout(capsys)


OURS = ["--model", "basic_cnn", "--data", "photos"]
MINE = ["--model", "own_networks:small", "--data", "photos", "--image-size", "8"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["evaluate"], 2, "--checkpoint is required, or --model"),
        (["calibrate", "--data", "photos"], 2, "--checkpoint is required, or --model"),
        (["info", "--weights", "small.pth"], 2, "--checkpoint is required, or --model"),
        (["bench", "--images", "2"], 2, "--checkpoint is required, or --model"),
        (["evaluate", "--checkpoint", "small.pth"], 2, "--weights small.pth"),
        (
            ["transform", "--checkpoint", "small.pth", "--model", "timm:resnet18", "--out", "o"],
            2,
            "name both: --model timm:resnet18 --weights small.pth",
        ),
        (["evaluate", "--checkpoint", "net", "--model", "basic_cnn"], 2, "leave out --model"),
        (["evaluate", "--checkpoint", "net", "--weights", "small.pth"], 2, "--weights goes with"),
        (["evaluate", "--checkpoint", "net", "--normalize", "none"], 2, "--normalize goes with"),
        (["evaluate", "--checkpoint", "net", "--num-classes", "3"], 2, "--num-classes goes with"),
        (["evaluate", *OURS], 2, "give --weights FILE"),
        (["calibrate", "--model", "timm:resnet18", "--data", "photos"], 2, "FILE or pretrained"),
        (["evaluate", "--model", "timm:resnet81", "--data", "photos"], 2, "timm:resnet81"),
        (["train", "--model", "resnet18", "--data", "photos", "--out", "o"], 2, "timm:resnet18"),
        (
            ["train", "--model", "timm:resnet81", "--data", "photos", "--out", "o"],
            2,
            "did you mean",
        ),
        (["evaluate", "--model", "basic_cnn", "--weights", "small.pth"], 2, "--data is required"),
        (["evaluate", *MINE, "--weights", "small.pth"], 2, "--normalize"),
        (["evaluate", *MINE, "--weights", "none.pth", "--normalize", "none"], 2, "none.pth"),
        (["evaluate", *MINE, "--weights", "smal.pth"], 2, "did you mean 'small.pth'?"),
        (["evaluate", *MINE, "--normalize", "half"], 2, "auto, none, imagenet, or MEAN STD"),
        (["evaluate", *MINE, "--normalize", "1", "2", "3"], 2, "or MEAN STD"),
        (["evaluate", *MINE, "--normalize", "0.5,0.5,0.5", "x"], 2, "or MEAN STD"),
        (["evaluate", *MINE, "--normalize", "none", "--model-options.wide", "5"], 2, "width"),
        (["evaluate", *OURS, "--weights", "pretrained"], 2, "pretrained"),
    ],
)
def test_what_is_refused(arguments, code, says, place, capsys) -> None:
    write_network(place / "net", CLASSES)
    assert main(arguments) == code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("sign-ext: error: ")]
    assert len(lines) == 1
    assert says in lines[0]
    assert captured.out == ""
    assert not (place / "o").exists()
