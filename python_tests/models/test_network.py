"""Networks by name from every source: their weights, sizes, normalisation, and what is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from sign_ext.models import build_model, open_network
from sign_ext.models.aleatoric import AleatoricOutput
from sign_ext.models.network_name import parse_network_name
from sign_ext.models.normalize import Normalize
from sign_ext.models.source import Source

IMAGENET = 255 * np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)])
TIMM, TORCHVISION = "timm:resnet10t", "torchvision:mobilenet_v3_small"


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests of this file."""


@pytest.fixture
def said() -> list[str]:
    return []


def normalised(images: Tensor, constants: np.ndarray = IMAGENET) -> Tensor:
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in constants)
    return ((images.double() - mean) / std).float()


def save_wrapped(path: Path, network: nn.Module) -> str:
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, path)
    return str(path)


def test_timm_with_weights_in_a_wrapped_file(
    tmp_path: Path, said: list[str], torch_rng: torch.Generator
) -> None:
    """The number of classes comes from the file, the normalisation from timm."""
    network = timm.create_model("resnet10t", num_classes=3).eval()
    path = save_wrapped(tmp_path / "net.pth", network)
    model, config = open_network(TIMM, weights=path, image_shape=33, say=said.append)
    images = torch.rand(2, 3, 33, 33, generator=torch_rng) * 255
    torch.testing.assert_close(model(images), network(normalised(images)), rtol=1e-4, atol=1e-5)
    assert not any(module.training for module in model.modules())
    spec = config["model"]
    np.testing.assert_allclose(list(spec.pop("normalization").values()), IMAGENET)
    assert spec == {
        "name": TIMM,
        "num_classes": 3,
        "image_shape": [3, 33, 33],
        "options": {},
        "aleatoric": False,
    }
    assert config["weights"]["unwrapped"] == ["state_dict", "module."]
    json.dumps(config)
    assert "86 tensors" in said[0]
    assert "state_dict, module." in said[0]
    assert "mean 123.7, 116.3, 103.5" in said[1]
    assert "timm's record of resnet10t, because " in said[1]
    assert "net.pth records none" in said[1]
    assert "--normalize MEAN STD, or none (in Python normalize=(mean, std))" in said[1]
    assert len(said) == 2


def test_what_the_file_records_comes_before_the_librarys(tmp_path: Path, said: list[str]) -> None:
    network = timm.create_model("resnet10t", num_classes=3).eval()
    own = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
    path = tmp_path / "net.pth"
    torch.save({"model": network.state_dict(), "config": own}, path)
    shared: dict[str, Any] = {"weights": path, "image_shape": 33}
    _, config = open_network(TIMM, **shared, say=said.append)
    found = list(config["model"]["normalization"].values())
    np.testing.assert_allclose(found, 255 * np.array([own["mean"], own["std"]]))
    assert f"as recorded in {path} (config)" in said[1]
    # What is given comes before both.
    _, config = open_network(TIMM, **shared, normalize="imagenet")
    np.testing.assert_allclose(list(config["model"]["normalization"].values()), IMAGENET)
    _, config = open_network(TIMM, **shared, normalize="none")
    assert config["model"]["normalization"] is None


def test_random_weights_get_the_librarys_without_a_doubt(said: list[str]) -> None:
    open_network(TIMM, num_classes=3, image_shape=33, say=said.append)
    assert said[-1].endswith("from timm's record of resnet10t")


def test_weights_whose_head_is_of_another_size(tmp_path: Path, said: list[str]) -> None:
    network = timm.create_model("resnet10t", num_classes=3)
    arguments: dict[str, Any] = {
        "weights": save_wrapped(tmp_path / "net.pth", network),
        "num_classes": 5,
        "image_shape": 33,
    }
    with pytest.raises(ValueError, match=r"has 3 outputs and the network's 5.*--num-classes 3"):
        open_network(TIMM, **arguments)
    model, config = open_network(TIMM, **arguments, new_head=True, say=said.append)
    assert config["model"]["num_classes"] == 5
    assert model.network.fc.weight.shape == (5, 512)
    assert torch.equal(model.network.conv1[0].weight, network.conv1[0].weight)
    assert "new weights for the last layer: fc.bias, fc.weight" in said
    with pytest.raises(ValueError, match="network's 6"):  # twice as many as classes
        open_network(TIMM, **{**arguments, "num_classes": 3}, aleatoric=True)


def test_torchvision_gets_its_recorded_normalisation(torch_rng: torch.Generator) -> None:
    torch.manual_seed(3)
    model, config = open_network(TORCHVISION, num_classes=4, image_shape=(3, 33, 47))
    torch.manual_seed(3)
    network = torchvision.models.mobilenet_v3_small(num_classes=4).eval()
    images = torch.rand(2, 3, 33, 47, generator=torch_rng) * 255
    torch.testing.assert_close(model(images), network(normalised(images)), rtol=1e-4, atol=1e-5)
    assert config["model"]["image_shape"] == [3, 33, 47]
    assert "weights" not in config


@pytest.mark.parametrize("aleatoric", [False, True])
def test_ours_are_drawn_as_build_model_draws_them(aleatoric: bool) -> None:
    arguments: dict[str, Any] = {"num_classes": 3, "image_shape": (3, 12, 20)}
    torch.manual_seed(5)
    model, config = open_network(
        "basic_cnn", options={"dropout": 0.25}, aleatoric=aleatoric, **arguments
    )
    torch.manual_seed(5)
    wanted = build_model("basic_cnn", dropout=0.25, aleatoric=aleatoric, **arguments)
    assert model.state_dict().keys() == wanted.state_dict().keys()
    for name, value in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert config == {
        "model": {
            "name": "basic_cnn",
            "num_classes": 3,
            "image_shape": [3, 12, 20],
            "options": {"dropout": 0.25},
            "aleatoric": aleatoric,
        }
    }
    assert isinstance(model(torch.zeros(2, 3, 12, 20)), AleatoricOutput) == aleatoric


def test_sizes_and_classes_that_are_not_given_are_the_recorded_ones() -> None:
    source = Source(parse_network_name("timm:resnet10t"), {})
    assert source.image_shape == (3, 176, 176)
    assert source.default_classes == 1000
    source = Source(parse_network_name("torchvision:inception_v3"), {})
    assert source.image_shape == (3, 299, 299)
    source = Source(parse_network_name("basic_cnn"), {})
    assert source.image_shape == (3, 32, 32)


@pytest.mark.parametrize(
    "name", ["timm:vit_tiny_patch16_224", "torchvision:vit_b_32", "timm:resnet10t"]
)
def test_layers_that_depend_on_the_size_are_built_for_it(name: str) -> None:
    with torch.device("meta"):
        network = Source(parse_network_name(name), {}, (3, 64, 64)).build(3)
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("timm:deit_tiny_distilled_patch16_224", {"head", "head_dist"}),
        ("torchvision:googlenet", {"fc", "aux1.fc2", "aux2.fc2"}),
        ("torchvision:squeezenet1_1", {"classifier.1"}),
        ("basic_cnn", {"classifier"}),
    ],
)
def test_the_head_is_found_by_what_depends_on_the_classes(name: str, head: set[str]) -> None:
    found = Source(parse_network_name(name), {}).head(3)
    assert {each.rpartition(".")[0] for each in found} == head


@pytest.mark.parametrize(
    ("normalize", "mean", "std", "words"),
    [
        ("imagenet", IMAGENET[0], IMAGENET[1], "ImageNet's, mean 123.7"),
        ("0.5,0.25,0.5 0.5", (127.5, 63.75, 127.5), (127.5,) * 3, "units of 0–1"),
        ((0.5, 0.25), (127.5,) * 3, (63.75,) * 3, "units of 0–1"),
        (((120, 110, 100), (60, 50, 40)), (120, 110, 100), (60, 50, 40), "units of 0–255"),
        (("0,0,0", "255,255,255"), (0, 0, 0), (255, 255, 255), "units of 0–255"),
        ("none", None, None, "none, the network gets images as they are"),
    ],
)
def test_a_stated_normalisation(normalize, mean, std, words: str, said: list[str]) -> None:
    model, config = open_network(
        "basic_cnn", num_classes=2, image_shape=8, normalize=normalize, say=said.append
    )
    found = config["model"]["normalization"] if normalize != ("0,0,0", "255,255,255") else None
    if mean is None:
        assert isinstance(model.normalize, nn.Identity)
        assert found is None
    else:
        np.testing.assert_allclose(model.normalize.mean.flatten(), mean, rtol=1e-6)
        np.testing.assert_allclose(model.normalize.std.flatten(), std, rtol=1e-6)
        if found is not None:
            np.testing.assert_allclose([found["mean"], found["std"]], [mean, std])
    assert said[0] == "basic_cnn has new random weights"
    assert words in said[1]
    assert len(said) == 2


@pytest.mark.parametrize("normalize", ["imagnet", "0.5", "0.5 0.5 0.5", "a,b 1,2", (0.5,)])
def test_another_normalisation_is_refused(normalize) -> None:
    with pytest.raises(ValueError, match="accepted: auto, none, imagenet, or MEAN STD"):
        open_network("basic_cnn", image_shape=8, normalize=normalize)


NETS = """
import torch
from torch import nn

class Normalize(nn.Module):
    def __init__(self, mean, std):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x):
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (self.mean, self.std))
        return (x - mean) / std

def plain(num_classes=4, width=5):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )

def normalising(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)):
    return nn.Sequential(Normalize(mean, std), *plain())

def of_timm():
    import timm
    return timm.create_model("resnet10t", num_classes=4)
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    path = tmp_path / "my nets.py"
    path.write_text(NETS)
    return str(path)


def test_a_network_of_the_users(nets: str, said: list[str], torch_rng: torch.Generator) -> None:
    images = torch.rand(2, 3, 9, 11, generator=torch_rng) * 255
    torch.manual_seed(1)
    model, config = open_network(
        f"{nets}:plain",
        num_classes=7,
        image_shape=(3, 9, 11),
        options={"width": 6},
        normalize="imagenet",
        say=said.append,
    )
    logits = model(images)
    assert logits.shape == (2, 7)
    torch.testing.assert_close(logits, model.network(normalised(images)), rtol=1e-4, atol=1e-5)
    assert config["model"]["options"] == {"width": 6}
    assert len(config["model"]["sha256"]) == 64
    with pytest.raises(ValueError, match=r"no preprocessing is recorded.*--normalize imagenet"):
        open_network(f"{nets}:plain", image_shape=9)
    with pytest.raises(ValueError, match="size of its images is not recorded"):
        open_network(f"{nets}:plain", normalize="imagenet")
    with pytest.raises(ValueError, match="has 4 outputs and num_classes is 3"):
        open_network(f"{nets}:normalising", num_classes=3, image_shape=9)
    with pytest.raises(ValueError, match="twice as many outputs"):
        open_network(f"{nets}:normalising", image_shape=9, aleatoric=True)


def test_what_a_users_network_records_is_used(nets: str, said: list[str]) -> None:
    model, config = open_network(f"{nets}:of_timm", image_shape=33, say=said.append)
    np.testing.assert_allclose(model.normalize.mean.flatten(), IMAGENET[0], rtol=1e-6)
    assert "timm's record of this ResNet" in said[0]
    assert config["model"]["num_classes"] == 4


@pytest.mark.parametrize(
    ("constants", "added"),
    [
        ({}, True),
        ({"mean": (120.0, 110.0, 100.0), "std": (60.0, 50.0, 40.0)}, False),
    ],
)
def test_a_network_that_normalises_itself(
    nets: str, said: list[str], constants: dict, added: bool, torch_rng: torch.Generator
) -> None:
    """It keeps its normalisation, after x/255 if that is for values of 0–1."""
    model, config = open_network(
        f"{nets}:normalising", image_shape=9, options=constants, say=said.append
    )
    images = torch.rand(2, 3, 9, 9, generator=torch_rng) * 255
    wanted = model.network(images / 255 if added else images)
    torch.testing.assert_close(model(images), wanted, rtol=1e-5, atol=1e-6)
    assert isinstance(model.normalize, Normalize) == added
    assert (config["model"]["normalization"] is not None) == added
    assert "the network's own first module" in said[0]
    assert ("division by 255" in said[0]) == added


def test_weights_for_a_users_network(nets: str, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"image_shape": 9, "normalize": "imagenet"}
    saved, _ = open_network(f"{nets}:plain", num_classes=6, **shared)
    torch.save(saved.network.state_dict(), tmp_path / "a.pth")
    model, config = open_network(f"{nets}:plain", weights=tmp_path / "a.pth", **shared)
    assert config["model"]["num_classes"] == 6
    assert torch.equal(model.network[4].weight, saved.network[4].weight)
    # A checkpoint of this package brings its normalisation along.
    torch.save(saved.state_dict(), tmp_path / "b.pth")
    model, _ = open_network(f"{nets}:plain", weights=tmp_path / "b.pth", image_shape=9)
    np.testing.assert_allclose(model.normalize.mean.flatten(), IMAGENET[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "timm:resnet10"}, "timm has no network 'resnet10', did you mean 'resnet10t'"),
        ({"name": "timm:resnet10t.c9_in1k"}, "did you mean 'resnet10t.c3_in1k'"),
        ({"name": "torchvision:resnet81"}, "torchvision has no network.*'resnet18'"),
        ({"name": "torchvision:fcn_resnet50"}, "torchvision has no network"),
        (
            {"name": TIMM, "options": {"drop_rat": 0.1}},
            "'drop_rat' is not an option of timm:resnet10t, did you mean 'drop_rate'",
        ),
        (
            {"name": "torchvision:resnet18", "options": {"group": 2}},
            "'group' is not an option of torchvision:resnet18, did you mean 'groups'",
        ),
        ({"name": "basic_cnn", "options": {"drop": 0.1}}, "Did you mean 'dropout'"),
        ({"name": TIMM, "options": {"pretrained": True}}, "weights='pretrained'"),
        ({"name": TIMM, "options": {"checkpoint_path": "x"}}, "weights=FILE"),
        ({"name": "torchvision:resnet18", "options": {"weights": "DEFAULT"}}, "pretrained"),
        ({"name": TIMM, "num_classes": 0}, "num_classes=0; accepted: 1 or more"),
        ({"name": TIMM, "image_shape": (33, 33)}, "image_shape="),
        ({"name": "timm:inception_v3", "image_shape": 9}, "does not take images of 3×9×9"),
        ({"name": "basic_cnn", "weights": "pretrained"}, "no weights are published for it"),
        ({"name": "math:sqrt", "weights": "pretrained"}, "loads its weights itself"),
    ],
)
def test_what_cannot_be_built_is_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_network(**arguments)


def test_published_weights_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """torchvision finds the file where it would have put the download."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.mobilenet_v3_small().eval()
    address = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.url
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / address.rpartition("/")[2])
    arguments: dict[str, Any] = {"weights": "pretrained", "image_shape": 33}
    model, config = open_network(TORCHVISION, **arguments, say=said.append)
    tag = "MobileNet_V3_Small_Weights.IMAGENET1K_V1"
    assert config["weights"] == {"pretrained": tag}
    assert config["model"]["num_classes"] == 1000
    assert tag in said[0]
    assert torch.equal(model.network.classifier[3].weight, network.classifier[3].weight)
    with pytest.raises(ValueError, match="have 1000 outputs, and 3 are asked for"):
        open_network(TORCHVISION, **arguments, num_classes=3)
    model, _ = open_network(TORCHVISION, **arguments, num_classes=3, new_head=True)
    assert model.network.classifier[3].weight.shape[0] == 3
    assert torch.equal(model.network.classifier[0].weight, network.classifier[0].weight)


def test_published_weights_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    with pytest.raises(RuntimeError, match=r"unreachable[^$]*--weights FILE\): https://") as caught:
        open_network(TIMM, weights="pretrained")
    assert "huggingface.co/timm/resnet10t" in str(caught.value)


def test_a_normalisation_before_a_networks_own_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "from sign_ext.models import Normalize\n"
        "from sign_ext.models.normalize import IMAGENET\n"
        "def net():\n"
        "    return nn.Sequential(Normalize(*IMAGENET), nn.Flatten(), nn.Linear(75, 3))\n"
    )
    for normalize in ("imagenet", "0.5,0.5,0.5 0.2,0.2,0.2"):
        with pytest.raises(
            ValueError, match=r"normalise images twice: give none \(--normalize none"
        ):
            open_network(f"{file}:net", image_shape=5, normalize=normalize)
    for normalize in ("auto", "none"):
        open_network(f"{file}:net", image_shape=5, normalize=normalize)


def test_new_random_weights_are_said(said: list[str], tmp_path: Path) -> None:
    open_network(TIMM, num_classes=3, image_shape=33, say=said.append)
    assert f"{TIMM} has new random weights" in said
