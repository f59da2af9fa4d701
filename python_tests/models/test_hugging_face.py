"""Image classifiers of transformers: their folder's record, and no code from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sign_ext.models import hugging_face, open_network, parse_network_name, recorded_normalization
from sign_ext.training import load_checkpoint, save_checkpoint

PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "image_mean": [0.5, 0.25, 0.75],
    "image_std": [0.25, 0.5, 0.125],
    "size": {"shortest_edge": 41},
}
MEAN, STD = (127.5, 63.75, 191.25), (63.75, 127.5, 31.875)


@pytest.mark.parametrize(
    ("change", "mean", "std"),
    [
        ({}, MEAN, STD),
        ({"do_rescale": False}, PREPROCESSOR["image_mean"], PREPROCESSOR["image_std"]),
        ({"rescale_factor": 0.0078125}, (64, 32, 96), (32, 64, 16)),
        ({"do_normalize": False}, (0, 0, 0), (255, 255, 255)),
        ({"image_mean": 0.5, "image_std": 0.5}, (127.5,) * 3, (127.5,) * 3),
    ],
)
def test_normalisation_in_pixel_units(change: dict, mean: Any, std: Any) -> None:
    """A preprocessor computes (x · rescale_factor − mean) / std."""
    settings = {**PREPROCESSOR, **change}
    found = hugging_face.normalization(settings, 3)
    assert found is not None
    np.testing.assert_allclose(found, [mean, std], rtol=1e-9)


def test_no_record_of_normalisation() -> None:
    assert hugging_face.normalization({}, 3) is None
    assert hugging_face.normalization({"do_normalize": True, "image_mean": [0.5]}, 3) is None


@pytest.mark.parametrize(
    ("preprocessor", "config", "side"),
    [
        (PREPROCESSOR, {"image_size": 7}, (41, 41)),
        ({"size": {"height": 40, "width": 48}}, {}, (40, 48)),
        ({"size": 64}, {}, (64, 64)),
        (
            {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}}
            | {"do_center_crop": True},
            {},
            (48, 48),
        ),
        ({"size": {"shortest_edge": 64}, "crop_size": 48, "do_center_crop": False}, {}, (64, 64)),
        ({}, {"image_size": 32}, (32, 32)),
        ({}, {"image_size": [32, 40]}, (32, 40)),
        ({}, {}, None),
    ],
)
def test_image_sizes(preprocessor: dict, config: dict, side: tuple[int, int] | None) -> None:
    assert hugging_face.image_side(preprocessor, config) == side


def test_class_names_and_counts() -> None:
    config = {"id2label": {"0": "ant", "1": "bee"}}
    assert hugging_face.class_names(config) == ("ant", "bee")
    assert hugging_face.count_classes(config) == 2
    assert hugging_face.class_names({"id2label": {0: "LABEL_0", 1: "LABEL_1"}}) is None
    assert hugging_face.class_names({}) is None
    assert hugging_face.count_classes({"num_labels": 5}) == 5
    assert hugging_face.count_classes({}) is None


def test_keys_that_name_code_are_left_out_everywhere() -> None:
    config = {
        "model_type": "vit",
        "auto_map": {"AutoConfig": "evil.Config"},
        "attn_implementation": "org/kernel",
        "_attn_implementation": "org/kernel",
        "_attn_implementation_internal": "org/kernel",
        "backbone_config": {"_experts_implementation": "org/kernel", "depth": 3},
        "parts": [{"use_pretrained_backbone": True, "width": 4}],
    }
    assert hugging_face.without_code(config) == {
        "model_type": "vit",
        "backbone_config": {"depth": 3},
        "parts": [{"width": 4}],
    }


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("absent/net", r"no such folder.*hf download absent/net"),
        ("../absent", "no such folder"),
        ("empty", r"holds no config\.json"),
    ):
        with pytest.raises(ValueError, match=message):
            hugging_face.folder_of(name)
    for content, message in (("{", "not valid JSON"), ("{}", "no model_type"), ("[]", "no model")):
        (tmp_path / "empty" / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            open_network("hf:empty")


def test_a_network_in_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are laid out as huggingface_hub documents: refs, and snapshots by commit."""
    pytest.importorskip("huggingface_hub")
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--org--net"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "resnet", "num_channels": 3}))
    (snapshot / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert hugging_face.folder_of("org/net") == snapshot
    found = recorded_normalization(parse_network_name("hf:org/net"))
    assert found is not None
    np.testing.assert_allclose(found, [MEAN, STD], rtol=1e-9)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Any]:
    """A tiny ResNet that transformers saved, and the network."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 12],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "ant", 1: "bee", 2: "cat"},
    )
    network = transformers.ResNetForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return tmp_path / "net", network


def test_a_folder_opens_with_its_weights_and_comes_back_without_it(
    folder: tuple[Path, Any], tmp_path: Path, torch_rng: torch.Generator
) -> None:
    path, network = folder
    said: list[str] = []
    model, config = open_network(f"hf:{path}", say=said.append)
    images = torch.rand(2, 3, 41, 41, generator=torch_rng) * 255
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (MEAN, STD))
    wanted = network(pixel_values=(images - mean) / std).logits
    torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-5)
    assert config["model"]["image_shape"] == [3, 41, 41]
    assert config["class_names"] == ["ant", "bee", "cat"]
    assert len(said) == 2
    save_checkpoint(tmp_path / "run" / "model.safetensors", model, config)
    path.rename(tmp_path / "away")
    loaded, stored = load_checkpoint(tmp_path / "run")
    torch.testing.assert_close(loaded(images), model(images))
    assert stored == config
    assert loaded.class_names == ("ant", "bee", "cat")


def test_another_number_of_classes(folder: tuple[Path, Any]) -> None:
    path, network = folder
    with pytest.raises(ValueError, match="have 3 outputs, and 5 are asked for"):
        open_network(f"hf:{path}", num_classes=5)
    model, config = open_network(f"hf:{path}", num_classes=5, new_head=True)
    assert model(torch.zeros(2, 3, 41, 41)).shape == (2, 5)
    assert "class_names" not in config
    kept = network.state_dict()["resnet.embedder.embedder.convolution.weight"]
    assert torch.equal(
        model.state_dict()["network.model.resnet.embedder.embedder.convolution.weight"], kept
    )


def test_options_are_entries_of_the_configuration(folder: tuple[Path, Any]) -> None:
    path, _ = folder
    _, config = open_network(f"hf:{path}", options={"hidden_act": "gelu"})
    assert config["model"]["hf_config"]["hidden_act"] == "gelu"
    assert config["model"]["options"] == {"hidden_act": "gelu"}
    with pytest.raises(ValueError, match=r"'hidden_acts' is not an entry.*mean 'hidden_act'"):
        open_network(f"hf:{path}", options={"hidden_acts": "gelu"})


def test_weights_in_a_file_for_a_network_of_transformers(
    folder: tuple[Path, Any], tmp_path: Path
) -> None:
    path, network = folder
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"weights of hf:.* cannot be loaded"):
        open_network(f"hf:{path}")
    model, _ = open_network(f"hf:{path}", weights=tmp_path / "pytorch_model.bin")
    for name, value in network.state_dict().items():
        assert torch.equal(model.network.model.state_dict()[name], value)


def test_code_in_a_folder_is_not_run(folder: tuple[Path, Any], tmp_path: Path) -> None:
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    (path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config["auto_map"] = {
        "AutoConfig": "evil.Config",
        "AutoModelForImageClassification": "evil.Model",
    }
    config["attn_implementation"] = config["_attn_implementation"] = "org/kernel"
    (path / "config.json").write_text(json.dumps(config))
    _, found = open_network(f"hf:{path}")
    assert "auto_map" not in found["model"]["hf_config"]
    config["model_type"] = "evil"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"knows no network of type 'evil'.*FILE\.py:FUNCTION"):
        open_network(f"hf:{path}")
    assert not (tmp_path / "ran").exists()


def test_a_crafted_record_runs_no_code(
    folder: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = folder
    model, config = open_network(f"hf:{path}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config["model"]["hf_config"] |= {
        "auto_map": {"AutoModelForImageClassification": "evil.Model"},
        "_name_or_path": str(tmp_path),
    }
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    load_checkpoint(tmp_path)
    config["model"]["hf_config"] = {
        "model_type": "timm_wrapper",
        "architecture": "resnet10t",
        "model_args": {"checkpoint_path": "secret.pth"},
    }
    save_checkpoint(tmp_path / "model.safetensors", model, config)
    with pytest.raises(ValueError, match="use timm:resnet10t"):
        load_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_without_transformers_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet"}))
    with pytest.raises(ModuleNotFoundError, match=r"sign-ext\[huggingface\]"):
        open_network(f"hf:{tmp_path}")
