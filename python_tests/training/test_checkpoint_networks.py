"""Checkpoints of networks from other libraries and of the user's code, which they never import."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from sign_ext.models import open_network
from sign_ext.training import load_checkpoint, save_checkpoint

CODE = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("imported").touch()

def make(num_classes=3, width=5):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, num_classes),
    )
"""


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timm:resnet10t", {"options": {"drop_rate": 0.125}}),
        ("torchvision:mobilenet_v3_small", {"normalize": "0.5 0.25"}),
        ("timm:resnet10t", {"normalize": "none", "aleatoric": True}),
        ("basic_cnn", {"normalize": "imagenet", "options": {"dropout": 0.25}}),
    ],
)
def test_a_network_of_a_library_comes_back(
    tmp_path: Path, name: str, arguments: dict[str, Any], same_weights, torch_rng: torch.Generator
) -> None:
    model, config = open_network(name, num_classes=4, image_shape=(3, 33, 35), **arguments)
    config["class_names"] = ["a", "b", "c", "d"]
    for asked in (None, name):
        save_checkpoint(tmp_path / "model.safetensors", model, config)
        loaded, stored = load_checkpoint(tmp_path, model=asked)
        assert stored == config
        assert same_weights(loaded, model)
        assert loaded.class_names == ("a", "b", "c", "d")
        assert not any(module.training for module in loaded.modules())
        images = torch.rand(2, 3, 33, 35, generator=torch_rng) * 255
        first, second = (net(images) for net in (model, loaded))
        if arguments.get("aleatoric"):
            first, second = torch.cat(first, dim=1), torch.cat(second, dim=1)
        torch.testing.assert_close(first, second)
    with pytest.raises(ValueError, match=r"holds the network .* 'timm:resnet18' is asked for"):
        load_checkpoint(tmp_path, model="timm:resnet18")


def test_a_network_that_needs_values_to_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_weights
) -> None:
    """Some versions of timm compute depths of layers with tensors: no network without memory."""
    model, config = open_network("timm:resnet10t", num_classes=4, image_shape=33)
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    create = timm.create_model

    def with_values(*arguments: Any, **options: Any) -> nn.Module:
        torch.linspace(0, 1, 3)[1].item()
        return create(*arguments, **options)

    monkeypatch.setattr("timm.create_model", with_values)
    assert same_weights(load_checkpoint(tmp_path)[0], model)


@pytest.fixture
def own(tmp_path: Path) -> tuple[str, Path]:
    """A checkpoint of a user's network, whose file tells when it is imported."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "nets.py").write_text(CODE)
    name = f"{folder / 'nets.py'}:make"
    model, config = open_network(
        name, num_classes=4, image_shape=9, options={"width": 6}, normalize="imagenet"
    )
    save_checkpoint(tmp_path / "run" / "model.safetensors", model, config)
    (folder / "imported").unlink()
    return name, tmp_path / "run"


def test_the_users_code_is_imported_only_when_its_name_is_repeated(
    own: tuple[str, Path], tmp_path: Path
) -> None:
    name, run = own
    with pytest.raises(ValueError, match="does not import by itself") as caught:
        load_checkpoint(run)
    assert f"--model {name}" in str(caught.value)
    for other in (name.replace("make", "other"), "basic_cnn", "os:system", "timm:resnet10t"):
        with pytest.raises(ValueError, match="is asked for: give the recorded name"):
            load_checkpoint(run, model=other)
    assert not (tmp_path / "code" / "imported").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, config = load_checkpoint(run, model=name)
    assert (tmp_path / "code" / "imported").exists()
    assert model(torch.zeros(2, 3, 9, 9)).shape == (2, 4)
    assert config["model"]["name"] == name


def test_a_file_that_changed_or_moved_is_told(own: tuple[str, Path], tmp_path: Path) -> None:
    name, run = own
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "nets.py"
    (tmp_path / "code" / "nets.py").rename(moved)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_checkpoint(run, model=f"{moved}:make")
    assert (moved.parent / "imported").exists()
    assert not (tmp_path / "code" / "imported").exists()
    moved.write_text(CODE + "# a comment\n")
    with pytest.warns(UserWarning, match=r"nets\.py has changed since .* was written"):
        load_checkpoint(run, model=f"{moved}:make")
    moved.write_text(
        CODE.replace("AdaptiveAvgPool2d(1)", "AdaptiveAvgPool2d(2)").replace(
            "Linear(width,", "Linear(4 * width,"
        )
    )
    with (
        pytest.warns(UserWarning, match="has changed"),
        pytest.raises(ValueError, match="do not match model"),
    ):
        load_checkpoint(run, model=f"{moved}:make")
    with pytest.raises(ValueError, match="there is no file"):
        load_checkpoint(run, model=name)


def crafted(folder: Path, **spec: Any) -> Path:
    """Write a checkpoint of any content, as somebody else could."""
    full = {"num_classes": 2, "image_shape": [3, 8, 8], "options": {}, **spec}
    text = json.dumps({"model": full})
    path = folder / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"sign_ext.config": text})
    return path


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "os:mkdir",
        "trap:make",
        "trap.py:make",
        "./trap.py:make",
        "{folder}/trap.py:make",
        "hf:{folder}",
        "timm:hf-hub:org/net",
        "timm:../trap",
        "timm:local-dir:{folder}",
        "torchvision:trap.make",
        "trap",
        "",
    ],
)
def test_a_crafted_checkpoint_imports_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "trap.py").write_text(CODE)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "trap",
                "auto_map": {
                    "AutoConfig": "trap.make",
                    "AutoModelForImageClassification": "trap.make",
                },
            }
        )
    )
    text = name.format(folder=tmp_path)
    for options in ({}, {"path": str(tmp_path / "made")}):
        path = crafted(tmp_path, name=text, options=options)
        with pytest.raises((ValueError, ModuleNotFoundError)):
            load_checkpoint(path)
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("timm:resnet10t", {"checkpoint_path": "secret.pth"}),
        ("timm:resnet10t", {"pretrained": True}),
        ("timm:resnet10t", {"pretrained_cfg": {"file": "secret.pth"}}),
        ("timm:resnet10t", {"cache_dir": "/"}),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
    ],
)
def test_a_crafted_checkpoint_opens_and_downloads_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, option: dict
) -> None:
    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("timm.models._builder.load_pretrained", refuse)
    monkeypatch.setattr("timm.models._factory.load_checkpoint", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    path = crafted(tmp_path, name=name, options=option)
    with pytest.raises(ValueError, match=f"'{next(iter(option))}' is no option of {name} here"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"normalization": {"mean": [0.0], "std": [0.0]}}, "std not 0"),
        ({"normalization": {"mean": [0.0]}}, r"model\.normalization\.std is missing"),
        ({"normalization": "imagenet"}, r"model\.normalization is 'imagenet'"),
        ({"sha256": "12"}, r"model\.sha256 is '12'"),
        ({"hf_config": []}, r"model\.hf_config is \[\]"),
        ({"options": {"block": "BasicBlock"}}, "cannot be built"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, part: dict, message: str) -> None:
    path = crafted(tmp_path, name="timm:resnet10t", **part)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)


def test_weights_given_as_a_checkpoint_point_to_the_right_options(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(ValueError, match=r"--model NAME --weights .*resnet18\.pth instead of"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"--model NAME --weights .*net\.safetensors"):
        load_checkpoint(tmp_path / "net.safetensors")
