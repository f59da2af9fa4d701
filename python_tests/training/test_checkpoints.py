"""Checkpoints: what is saved is what is loaded, and what does not fit is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sign_ext.models import build_model
from sign_ext.training import checkpoints, load_checkpoint, save_checkpoint
from sign_ext.training.checkpoints import write_tensors

SPEC = {"name": "basic_cnn", "num_classes": 4, "image_shape": [3, 12, 20], "options": {}}
CONFIG = {"model": SPEC, "class_names": ["a", "b", "c", "d"], "train": {"note": "δ"}}


def model_of(spec=SPEC):
    return build_model("basic_cnn", num_classes=spec["num_classes"], image_shape=(3, 12, 20))


def test_round_trip_by_file_and_by_folder(tmp_path, same_weights):
    model = model_of().to(memory_format=torch.channels_last)
    path = tmp_path / "deep" / "model.safetensors"
    save_checkpoint(path, model, CONFIG)
    for where in (path, str(path), path.parent):
        loaded, config = load_checkpoint(where)
        assert same_weights(loaded, model)
        assert config == CONFIG
        assert not loaded.training
        assert all(p.is_contiguous() for p in loaded.parameters())
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == CONFIG
    assert load_file(path).keys() == model.state_dict().keys()
    images = torch.rand(3, 3, 12, 20) * 255
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_options_reach_the_model(tmp_path):
    spec = {**SPEC, "options": {"dropout": 0.125}}
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model_of(), {"model": spec})
    loaded, _ = load_checkpoint(path)
    rates = {m.p for m in loaded.modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.125}


def test_an_aleatoric_model_comes_back_with_its_head(tmp_path, same_weights):
    model = build_model("basic_cnn", num_classes=4, image_shape=(3, 12, 20), aleatoric=True)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, {"model": {**SPEC, "aleatoric": True}})
    loaded, _ = load_checkpoint(path)
    assert same_weights(loaded, model)
    images = torch.rand(3, 3, 12, 20) * 255
    for found, wanted in zip(loaded(images), model.eval()(images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    save_checkpoint(path, model, {"model": {**SPEC, "aleatoric": False}})
    with pytest.raises(ValueError, match=r"network\.classifier\.weight is \(8.*the model's \(4"):
        load_checkpoint(path)


def test_the_safetensors_file_is_complete_without_its_json(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model_of(), CONFIG)
    path.with_suffix(".json").unlink()
    assert load_checkpoint(path)[1] == CONFIG


@pytest.mark.parametrize("dies_in", ["write_tensors", "write_json"])
def test_a_kill_while_saving_over_another_leaves_one_that_loads(
    tmp_path, monkeypatch, same_weights, dies_in
):
    class Killed(BaseException):
        pass

    def die(*arguments):
        raise Killed

    path, old, new = tmp_path / "model.safetensors", model_of(), model_of()
    save_checkpoint(path, old, {**CONFIG, "which": "old"})
    monkeypatch.setattr(checkpoints, dies_in, die)
    with pytest.raises(Killed):
        save_checkpoint(path, new, {**CONFIG, "which": "new"})
    loaded, config = load_checkpoint(path)
    wanted = {"write_tensors": (old, "old"), "write_json": (new, "new")}[dies_in]
    assert same_weights(loaded, wanted[0])
    assert config["which"] == wanted[1]


def test_a_disagreeing_or_broken_json_is_named(tmp_path):
    path, side = tmp_path / "model.safetensors", tmp_path / "model.json"
    save_checkpoint(path, model_of(), CONFIG)
    side.write_text(json.dumps({**CONFIG, "class_names": ["x"]}))
    with pytest.raises(ValueError, match=r"model\.json is not the configuration of .*remove"):
        load_checkpoint(path)
    side.write_text("{")
    with pytest.raises(ValueError, match=r"model\.json is not valid JSON"):
        load_checkpoint(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at .*absent\.safetensors"):
        load_checkpoint(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors"):
        load_checkpoint(tmp_path)
    (tmp_path / "last.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="resume"):
        load_checkpoint(tmp_path)


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model_of(), CONFIG)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="no configuration of this package"):
        load_checkpoint(path)
    save_checkpoint(path, model_of(), {"note": "no model"})
    with pytest.raises(ValueError, match="does not say which model"):
        load_checkpoint(path)


def test_tensors_that_do_not_fit_the_configuration_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model_of(), {"model": {**SPEC, "num_classes": 5}})
    with pytest.raises(ValueError, match=r"is \(4.*the model's \(5"):
        load_checkpoint(path)
    save_checkpoint(path, torch.nn.Linear(2, 2), CONFIG)
    with pytest.raises(ValueError, match=r"is missing; .*; …"):
        load_checkpoint(path)
    more = model_of()
    more.register_buffer("extra", torch.zeros(1))
    save_checkpoint(path, more, CONFIG)
    with pytest.raises(ValueError, match=r"builds it: extra is not in the model\."):
        load_checkpoint(path)


def test_what_cannot_be_saved_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(ValueError, match=r"\.safetensors; got"):
        save_checkpoint(tmp_path / "model.pt", model_of(), CONFIG)
    with pytest.raises(ValueError, match="missing: options"):
        save_checkpoint(path, model_of(), {"model": {k: SPEC[k] for k in list(SPEC)[:3]}})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, model_of(), {"a": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(path, model_of(), {"a": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def test_tied_weights_are_written_in_full(tmp_path):
    layer = torch.nn.Linear(3, 3)
    tied = torch.nn.Sequential(layer, layer)
    tied[1].weight = tied[0].weight
    save_checkpoint(tmp_path / "tied.safetensors", tied, {})
    stored = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(stored["0.weight"], stored["1.weight"])


def test_tied_and_strided_tensors_are_written_in_full(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    path = tmp_path / "model.safetensors"
    write_tensors(path, {"a": weight, "b": weight, "c": weight.t()}, {"made": "here"})
    read = load_file(path)
    for name, expected in (("a", weight), ("b", weight), ("c", weight.t())):
        assert torch.equal(read[name], expected)
