"""attack, and evaluate --adversarial: what they count, write, go on with and refuse."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_parts import TINY, from_stdout
from image_folders import read_pixels, write_images

from sign_ext.cli import main
from sign_ext.commands.shared import reporting_steps
from sign_ext.data import load_data
from sign_ext.store import AttackIteration, load_transformed
from sign_ext.training import load_checkpoint

CLASSES = ("ape", "bee", "cod")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learnt 15 random images in three classes by heart."""
    folder = tmp_path_factory.mktemp("attack")
    photos = write_images(folder / "photos", CLASSES, np.random.default_rng(7))
    arguments = ["train", "--data", str(photos), "--model", "basic_cnn", "--image-size", "8"]
    arguments += ["--epochs", "40", "--batch-size", "5", "--out", str(folder / "network")]
    assert main(arguments) == 0
    return folder / "network"


@pytest.fixture(scope="module")
def photos(network: Path) -> Path:
    """Two of the classes, so that they have other numbers; all images but one known by heart."""
    learnt, photos = network.parent / "photos" / "train", network.parent / "two"
    for name in ("bee", "cod"):
        shutil.copytree(learnt / name, photos / "test" / name)
        shutil.copytree(learnt / name, photos / "train" / name)
    (photos / "test" / "bee" / "0.png").replace(photos / "test" / "cod" / "bee.png")
    return photos


@pytest.fixture
def given(photos: Path, network: Path) -> list[str]:
    return ["--checkpoint", str(network), "--data", str(photos)]


def robust_by_hand(
    checkpoint: Path, images: torch.Tensor, attacked: torch.Tensor, labels: torch.Tensor
) -> tuple[int, int]:
    """Images answered correctly as they are, and of these after the attack."""
    model, _ = load_checkpoint(checkpoint)
    with torch.no_grad():
        before, after = (model(each).argmax(1) == labels for each in (images, attacked))
    return int(before.sum()), int((before & after).sum())


def test_the_store_holds_the_attacked_images_and_the_counts_are_those_of_it(
    given: list[str],
    photos: Path,
    network: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "adversarial"
    arguments = ["attack", *given, "--epsilon", "60", "--steps", "3", "--out", str(out), "--json"]
    assert main(arguments) == 0
    found = from_stdout(capsys)
    store = load_transformed(out)
    assert store.steps == (3,)
    assert store.class_names == CLASSES[1:]  # the data set's, so that it can be joined
    images = torch.cat([read_pixels(photos / key) for key in store.keys])
    attacked = store.tensor(3)
    moved = (attacked - images).abs()
    assert 59 < moved.max() <= 60.001
    assert attacked.min() >= 0
    assert attacked.max() <= 255
    own = store.labels + 1  # ape is the network's first class
    correct, robust = robust_by_hand(network, images, attacked, own)
    total = 10
    assert robust < correct < total  # or the counts say nothing
    assert (found["images"], found["correct"], found["robust"]) == (total, correct, robust)
    assert found["robust_accuracy"] == robust / total
    error = (robust * (total - robust) / total**3) ** 0.5
    assert found["robust_accuracy_error"] == pytest.approx(error)
    recorded = store.recipe["settings"]
    assert recorded["attack"] == "pgd"
    assert recorded["objective"] == "cross_entropy"
    assert (recorded["norm"], recorded["epsilon"], recorded["update"]) == ("linf", 60, "sign")
    assert recorded["step_size"] == pytest.approx(2.5 * 60 / 3)
    assert (recorded["seed"], recorded["restarts"]) == (0, 1)

    # Without a store the same images are attacked from the same starts, whatever the batches.
    assert main([*arguments[:-3], "--json", "--batch-size", "2"]) == 0
    again = from_stdout(capsys)
    assert [again[name] for name in ("correct", "robust")] == [correct, robust]


def test_attack_goes_on_with_the_same_settings_only(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "store"
    arguments = ["attack", *given, "--steps", "2", "--out", str(out), "--shard-size", "4"]
    assert main([*arguments, "--epsilon", "4"]) == 0
    assert "robust" in capsys.readouterr().out
    whole = {path.name: path.read_bytes() for path in out.glob("*.safetensors")}
    assert len(whole) == 3
    (out / "shard-000001.safetensors").unlink()
    assert main([*arguments, "--epsilon", "4"]) == 0
    assert "made 1 shard, 2 existed" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.glob("*.safetensors")} == whole
    for changed, name in (
        (["--epsilon", "5"], "settings.epsilon: 4.0 in the store, 5.0 now"),
        (["--epsilon", "4", "--objective", "margin"], "settings.objective: cross_entropy in the"),
        (["--epsilon", "4", "--seed", "1"], "settings.seed: 0 in the store, 1 now"),
    ):
        assert main([*arguments, *changed]) == 1
        assert name in capsys.readouterr().err
    assert main([*arguments, "--epsilon", "5", "--overwrite"]) == 0
    assert load_transformed(out).recipe["settings"]["epsilon"] == 5


def test_a_transformed_store_is_not_taken_for_an_attacked_one(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*given, "--out", str(tmp_path / "store"), "--split", "test", "--steps", "1"]
    assert main(["transform", *arguments]) == 0
    assert main(["attack", *arguments, "--epsilon", "1"]) == 1
    assert "made with other settings" in capsys.readouterr().err


def test_where_none_are_robust_the_error_is_an_interval(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["attack", *given, "--epsilon", "100", "--steps", "20"]
    assert main([*arguments, "--json"]) == 0
    found = from_stdout(capsys)
    assert found["robust"] == found["robust_accuracy_error"] == 0
    # Wilson's interval of 0 of n is 0 to z²/(n + z²).
    assert found["robust_accuracy_interval"] == pytest.approx([0, 1.96**2 / (10 + 1.96**2)], 1e-3)
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert "0.0 to 27.8" in told.out
    assert "none of 10" in told.out
    assert "of 20 steps" not in told.out
    assert "K = 20 steps of 12.5 from a random start" in told.out
    assert "grey level" not in told.err
    assert main(["evaluate", *given, "--draws", "1", "--adversarial", "100"]) == 0
    assert "none of 10" in capsys.readouterr().out


def test_a_radius_of_pixels_in_0_to_1_is_doubted(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attack", *given, "--epsilon", "0.031", "--steps", "1"]) == 0
    told = capsys.readouterr().err
    assert told.count("papers call 8/255, or 0.031, is epsilon=8 (--epsilon 8)") == 1
    assert main(["evaluate", *given, "--draws", "1", "--adversarial", "0.03"]) == 0
    assert "epsilon=0.03 is less than one grey level" in capsys.readouterr().err


def test_progress_of_parts_is_that_of_the_whole(network: Path) -> None:
    seen: list[tuple[int, int]] = []
    model, _ = load_checkpoint(network)
    attack = AttackIteration(model, epsilon=4, steps=3, restarts=2)
    for positions in (torch.arange(4), torch.arange(4, 6)):
        steps = reporting_steps(lambda *each: seen.append(each), attack, positions, 6)
        labels = torch.zeros(len(positions)).long()
        attack.run(torch.rand(len(positions), 3, 8, 8) * 255, labels, positions, progress=steps)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {6 * 3 * 2}
    assert (4 * 6, 36) in seen
    assert seen[-1] == (36, 36)


def test_towards_a_class(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attack", *given, "--epsilon", "60", "--steps", "20", "--json"]
    assert main([*arguments, "--target", "bee"]) == 0
    found = from_stdout(capsys)
    assert found["others"] == 6  # cod, among them the one that is a bee
    assert found["reached"] == 6
    assert main([*arguments[:-1], "--target", "bee"]) == 0
    told = capsys.readouterr().out
    assert "from a random start, towards bee" in told
    assert "other classes, now bee" in told
    assert main([*arguments, "--target", "bea"]) == 2
    assert "'bea' is not a class, did you mean 'bee'? accepted: ape, bee, cod" in (
        capsys.readouterr().err
    )


def test_more_restarts_leave_fewer_robust_and_the_misclassified_can_stay(
    given: list[str], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["attack", *given, "--epsilon", "2", "--steps", "1", "--json"]
    counts = []
    for restarts in ("1", "6"):
        assert main([*arguments, "--restarts", restarts]) == 0
        counts.append(from_stdout(capsys)["robust"])
    assert counts[1] <= counts[0]
    out = tmp_path / "store"
    assert main([*arguments, "--only-correct", "--out", str(out)]) == 0
    found = from_stdout(capsys)
    store = load_transformed(out)
    images = torch.cat([read_pixels(photos / key) for key in store.keys])
    still = (store.tensor(1) == images).flatten(1).all(1)
    assert int(still.sum()) == found["images"] - found["correct"] > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--epsilon", "0"], "--epsilon is '0'; accepted: a number above 0"),
        (["--epsilon", "-8"], "--epsilon"),
        (["--epsilon", "inf"], "--epsilon"),
        (["--epsilon", "255"], "pixels are 0 to 255"),
        (["--epsilon", "8", "--step-size", "0"], "--step-size"),
        (["--epsilon", "8", "--norm", "l1"], "accepted: linf, l2"),
        (["--epsilon", "8", "--dtype", "float16"], "--dtype goes with --out"),
        (["--epsilon", "8", "--shard-size", "3"], "--shard-size goes with --out"),
        (["--epsilon", "8", "--restarts", "2", "--start", "image"], "begin at the same point"),
        (["--epsilon", "8", "--target", "bee", "--only-correct"], "does not go with --target"),
        ([], "--epsilon is required"),
    ],
)
def test_wrong_options(
    given: list[str], wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attack", *given, *wrong]) == 2
    assert message in capsys.readouterr().err


def test_classes_that_the_network_lacks_are_refused(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_images(tmp_path / "others", ("ape", "dog"), np.random.default_rng(0))
    arguments = ["attack", "--checkpoint", str(network), "--data", str(other), "--epsilon", "8"]
    assert main(arguments) == 1
    assert "have different classes" in capsys.readouterr().err


def test_an_aleatoric_network_has_no_logits_to_attack(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "net")
    train = [
        "train",
        *TINY,
        "--model",
        "basic_cnn",
        "--epochs",
        "1",
        "--aleatoric",
        "2",
        "--out",
        out,
    ]
    assert main([*train, "--out", out]) == 0
    for command in (["attack", "--epsilon", "8"], ["evaluate", "--adversarial", "8"]):
        capsys.readouterr()
        assert main([*command, "--checkpoint", out, "--data", "digits"]) == 2
        assert "aleatoric" in capsys.readouterr().err


def test_evaluate_shows_what_attack_counts(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    some = [*given, "--seed", "3"]
    assert main(["evaluate", *some, "--draws", "1", "--adversarial", "1", "60", "--json"]) == 0
    found: dict[str, Any] = from_stdout(capsys)
    weak, strong = found["adversarial"]
    assert (weak["attack"]["epsilon"], strong["attack"]["epsilon"]) == (1, 60)
    assert strong["attack"]["step_size"] == 15
    assert weak["accuracy"] == strong["accuracy"] == found["accuracy"]
    assert strong["robust"] <= weak["robust"] <= weak["correct"]
    assert strong["robust"] < strong["correct"]
    assert main(["attack", *some, "--epsilon", "60", "--json"]) == 0
    assert from_stdout(capsys)["robust"] == strong["robust"]
    assert main(["evaluate", *some, "--draws", "1", "--adversarial", "60"]) == 0
    assert "adversarial, ε = 60" in capsys.readouterr().out
    assert main(["evaluate", *some, "--adversarial", "8", "300"]) == 2
    assert "--adversarial is 300" in capsys.readouterr().err


def test_without_adversarial_evaluate_says_nothing_of_it(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = ["--checkpoint", str(trained), "--data", "digits", "--test-size", "10"]
    assert main(["evaluate", *some, "--draws", "1", "--json"]) == 0
    assert "adversarial" not in from_stdout(capsys)


def test_an_image_that_cannot_be_read_is_left_out_of_store_and_counts(
    network: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = shutil.copytree(photos, tmp_path / "photos")
    (photos / "test" / "bee" / "1.png").write_bytes(b"no image")
    given = ["attack", "--checkpoint", str(network), "--data", str(photos), "--epsilon", "4"]
    assert main([*given, "--steps", "1"]) == 1
    assert "1.png" in capsys.readouterr().err
    for out in ([], ["--out", str(tmp_path / "store")]):
        assert main([*given, "--steps", "1", "--on-error", "skip", "--json", *out]) == 0
        assert from_stdout(capsys)["images"] == 9
    assert len(load_transformed(tmp_path / "store")) == 9


def test_the_training_set_is_attacked_where_that_is_asked_for(
    trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    arguments = ["attack", *TINY, "--checkpoint", str(trained), "--epsilon", "8", "--steps", "2"]
    assert main([*arguments, "--split", "train", "--out", str(out)]) == 0
    train = load_data("digits", seed=3, train_size=40, image_size=16).train
    store = load_transformed(out)
    assert torch.equal(store.labels, train.labels)
    assert float((store.tensor(2) - train.float()).abs().max()) <= 8.001
    # What `train --sign` takes: versions of training images.
    again = ["train", *TINY, "--model", "basic_cnn", "--epochs", "1", "--sign", str(out)]
    assert main([*again, "--out", str(tmp_path / "net")]) == 0
