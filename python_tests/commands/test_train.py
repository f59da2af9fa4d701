"""`sign-ext train` with each augmentation, and with versions of random K."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_ext.augment import Operation, Policy, SubPolicy, save_policies
from sign_ext.cli import main
from sign_ext.commands.train import Options, open_stores, training_set
from sign_ext.data import load_data
from sign_ext.evaluation import predict_aleatoric
from sign_ext.store import load_transformed, save_transformed
from sign_ext.training import load_checkpoint

TINY = ("train", "--data", "digits", "--train-size", "40", "--image-size", "16", "--seed", "3")
TINY += ("--model", "basic_cnn", "--epochs", "1", "--batch-size", "20")
POLICIES = (Policy((SubPolicy(Operation("rotate", 0.5), Operation("noise", 0.1)),) * 5),)


def trained(out: Path, *arguments: str) -> dict[str, Any]:
    """The configuration of the checkpoint that a command line leaves."""
    assert main([*TINY, "--out", str(out), *arguments]) == 0
    config: dict[str, Any] = json.loads((out / "model.json").read_text())
    return config


def test_mixup(tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", "--augment", "mixup")["train"]["augment"]
    assert plain == {"class": "Mixup", "num_classes": 10, "alpha": 1.0}
    told = trained(tmp_path / "told", "--augment", "mixup", "--mixup-alpha", "0.2")
    assert told["train"]["augment"]["alpha"] == 0.2


def test_deepaugment_reads_its_policies(tmp_path: Path) -> None:
    path = tmp_path / "policies.yaml"
    save_policies(path, POLICIES)
    config = trained(tmp_path / "out", "--augment", "deepaugment", "--policies", str(path))
    told = config["train"]["augment"]
    assert told["class"] == "DeepAugment"
    first = told["policies"]["0"]["sub_policies"]["4"]["first"]
    assert first == {"class": "Operation", "name": "rotate", "magnitude": 0.5}


def test_digits_are_not_mirrored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = trained(tmp_path / "out", "--augment", "classical")["train"]["augment"]
    assert (told["horizontal_flip"], told["vertical_flip"]) == (False, False)
    assert "a mirrored digit is no digit" in capsys.readouterr().err


def test_a_network_that_has_not_learnt_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = [*TINY, "--learning-rate", "1e-9", "--out", str(tmp_path / "out"), "--json"]
    assert main(still) == 0
    told = capsys.readouterr()
    doubt = json.loads(told.out)["doubt_of_learning"]
    assert doubt.startswith("its best validation accuracy, ")
    assert f"this network is not shown to have learnt: {doubt}; try more --epochs" in told.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--augment", "deepaugment"], "needs --policies FILE.yaml"),
        (["--policies", "p.yaml"], "--policies needs --augment deepaugment; it is none"),
        (["--augment", "mixup", "--policies", "p.yaml"], "it is mixup"),
        (["--mixup-alpha", "1"], "--mixup-alpha needs --augment mixup; it is none"),
        (["--augment", "classical", "--mixup-alpha", "1"], "it is classical"),
        (["--augment", "mixup", "--mixup-alpha", "0"], "--mixup-alpha"),
        (["--augment", "cutout"], "--augment"),
        (["--sign-random-k"], "--sign-random-k needs --sign"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, "--out", str(tmp_path / "out"), *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "last.safetensors").exists()


def test_a_wrong_policy_file_fails_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policies.yaml"
    arguments = ["--augment", "deepaugment", "--policies", str(path)]
    assert main([*TINY, "--out", str(tmp_path / "out"), *arguments]) == 1
    assert "policies.yaml" in capsys.readouterr().err
    path.write_text("policies: [1]")
    assert main([*TINY, "--out", str(tmp_path / "out"), *arguments]) == 1
    assert "policies[0] must be a mapping" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_random_k_takes_one_version_of_each_image(tmp_path: Path) -> None:
    phi, folder = tmp_path / "phi", tmp_path / "transformed"
    trained(phi)
    arguments = ["transform", "--checkpoint", str(phi), "--train-size", "40", "--seed", "3"]
    arguments += ["--steps", "2", "--snapshots", "1", "2", "--step-size", "20"]
    assert main([*arguments, "--out", str(folder)]) == 0
    config = trained(tmp_path / "out", "--sign", str(folder), "--sign-random-k")
    assert config["data"]["images"] == 80
    assert config["sign"] == {"folders": [str(folder)], "mode": "add", "random_k": True}

    splits = load_data("digits", seed=3, train_size=40, image_size=16)
    originals, stores = splits.train, open_stores([str(folder)])
    options = Options(data="digits", model="basic_cnn", out="", sign=(str(folder),))
    both = training_set(options, splits, stores).images[40:].view(2, 40, 3, 16, 16)
    one = Options(data="digits", model="basic_cnn", out="", sign=(str(folder),), sign_random_k=True)
    joined = training_set(one, splits, stores)
    assert torch.equal(joined.images[:40], originals.float())
    same = (joined.images[40:] == both).flatten(2).all(dim=2)
    assert bool(same.any(dim=0).all())
    assert bool(same.any(dim=1).all())
    assert torch.equal(training_set(one, splits, stores).images, joined.images)


def test_of_a_store_of_all_images_those_of_the_training_set_are_taken(tmp_path: Path) -> None:
    phi, folder = tmp_path / "phi", tmp_path / "transformed"
    trained(phi)
    arguments = ["transform", "--checkpoint", str(phi), "--train-size", "40", "--seed", "3"]
    arguments += ["--split", "all", "--steps", "1", "--step-size", "20"]
    assert main([*arguments, "--out", str(folder)]) == 0
    store = load_transformed(folder)
    assert len(store) > 500  # validation and test images too
    config = trained(tmp_path / "out", "--sign", str(folder), "--sign-mode", "replace")
    assert config["data"]["images"] == 40
    splits = load_data("digits", seed=3, train_size=40, image_size=16)
    options = Options(data="digits", model="basic_cnn", out="", sign=(str(folder),))
    joined = training_set(options, splits, [store])
    assert torch.equal(joined.images[40:], store.tensor(1)[:40])
    assert torch.equal(joined.labels[40:], splits.train.labels)


@pytest.mark.parametrize(
    ("labels", "split", "says"),
    [
        (torch.rand(4, 3), "train", r"target for each image (float32, shape (3,)) in place of a"),
        (torch.tensor([0, 1, 0, 1]), "test", "holds versions of the test images"),
    ],
)
def test_a_store_that_no_classifier_can_be_trained_on_is_refused_before_data_is_read(
    labels: torch.Tensor,
    split: str,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = {"split": {"name": split}}
    save_transformed(tmp_path / "store", {1: torch.zeros(4, 3, 16, 16)}, labels, recipe=recipe)
    monkeypatch.delattr("sign_ext.commands.train.read_data")
    arguments = [*TINY, "--sign", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_aleatoric_network_is_trained_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, store = tmp_path / "out", tmp_path / "store"
    config = trained(out, "--aleatoric", "4")
    assert config["model"]["aleatoric"] is True
    assert config["train"]["objective"]["samples"] == 4
    capsys.readouterr()
    assert main(["evaluate", "--checkpoint", str(out), "--draws", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    model, _ = load_checkpoint(out)
    test = load_data("digits", image_size=16).test
    p = predict_aleatoric(model, test.images, samples=20).probabilities
    right = p.argmax(dim=1) == test.labels
    assert found["accuracy"] == pytest.approx(float(right.double().mean()))
    sure = p.gather(1, test.labels[:, None])[:, 0]
    assert found["low"]["total"]["count"] == int((right & (sure <= 0.5)).sum())
    assert main(["evaluate", "--checkpoint", str(out), "--draws", "2"]) == 0
    assert "correct with p ≤ 0.5" in capsys.readouterr().out
    # SIGN takes what both heads are read from.
    arguments = ["transform", "--checkpoint", str(out), "--data", "digits", "--train-size", "40"]
    arguments += ["--steps", "1", "--step-size", "100", "--seed", "3", "--out", str(store)]
    assert main(arguments) == 0
    assert trained(tmp_path / "again", "--aleatoric", "4", "--sign", str(store))
