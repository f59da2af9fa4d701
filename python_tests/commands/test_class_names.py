"""Classes are matched by their names: the right value, or an error that shows the difference."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from command_parts import stdout_of
from image_folders import PARTS, SIZE, read_pixels, write_images, write_network
from torch import nn

from sign_ext.cli import main
from sign_ext.data import ImageSet, load_data
from sign_ext.data.classes import match_classes, unique_names
from sign_ext.evaluation import evaluate, measure_uncertainty
from sign_ext.store import load_transformed
from sign_ext.training import TrainSettings, load_checkpoint, train

ANIMALS = ("ant", "bee", "cat")


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    return write_images(tmp_path / "photos", ANIMALS, rng)


def accuracy_by_name(folder: Path, network: Path, names: tuple[str, ...]) -> dict[str, float]:
    """Class → the share of its test images for which the network's largest output has its name."""
    model, _ = load_checkpoint(network)
    right: Counter[str] = Counter()
    for path in sorted((folder / "test").glob("*/*.png")):
        with torch.no_grad():
            best = int(model(read_pixels(path)).argmax())
        right[path.parent.name] += names[best] == path.parent.name
    return {name: count / PARTS["test"] for name, count in right.items()}


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("cat", "ant", "bee")])
def test_evaluate_goes_by_the_names(names, photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", names)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", "--json"]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    wanted = accuracy_by_name(photos, network, names)
    assert found["per_class"] == pytest.approx(wanted)
    assert found["accuracy"] == pytest.approx(sum(wanted.values()) / 3)
    assert ("ant 0 → 1, bee 1 → 2, cat 2 → 0" in printed.err) == (names != ANIMALS)


def test_a_test_set_may_lack_classes_of_the_network(photos, tmp_path, torch_rng, capsys):
    names = ("dog", "bee", "ant", "cat", "eel")
    network = write_network(tmp_path / "net", names)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", "--json"]
    assert main(["evaluate", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)["per_class"]
    wanted = accuracy_by_name(photos, network, names)
    assert found == {"dog": None, "eel": None, **{k: pytest.approx(v) for k, v in wanted.items()}}


@pytest.mark.parametrize("command", ["evaluate", "calibrate", "transform"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("ant", "bee", "zebu"), "label 2 is cat in .*photos, zebu in the network"),
        (("Ant", "Bee", "Cat"), "label 0 is ant in .*, Ant in the network"),
        (("0", "1", "2"), "label 0 is ant in .*, 0 in the network"),
        (("ant", "ant", "bee"), "label 1 is bee in .*, ant in the network"),
        (("ant", "bee"), "label 2 is cat in .*photos only.*3 classes, the network in .* 2"),
    ],
)
def test_other_classes_are_refused(command, names, said, photos, tmp_path, capsys):
    network = write_network(tmp_path / "net", names)
    arguments = [command, "--checkpoint", str(network), "--data", str(photos)]
    arguments += ["--out", str(tmp_path / "store")] if command == "transform" else []
    assert main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, error)
    assert ("--same-classes" in error) == (len(names) == 3)
    assert not (tmp_path / "store").exists()


def test_classes_are_compared_before_an_image_is_decoded(photos, tmp_path, capsys):
    for file in photos.rglob("*.png"):
        file.write_bytes(b"")
    network = write_network(tmp_path / "net", ("ant", "bee", "zebu"))
    assert main(["evaluate", "--checkpoint", str(network), "--data", str(photos)]) == 1
    assert "label 2 is cat in" in capsys.readouterr().err.splitlines()[-1]


def test_the_user_may_say_that_the_classes_are_the_same(photos, tmp_path, torch_rng, capsys):
    names = ("Ameise", "Biene", "Katze")
    network = write_network(tmp_path / "net", names)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", "--json"]
    assert main(["evaluate", *arguments, "--same-classes"]) == 0
    by_position = accuracy_by_name(photos, network, ANIMALS)
    found = json.loads(capsys.readouterr().out)["per_class"]
    assert found == pytest.approx(dict(zip(names, by_position.values(), strict=True)))


def test_a_checkpoint_without_names_loads_and_that_is_said(photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", None, 3)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--draws", "1", "--json"]
    assert main(["evaluate", *arguments]) == 0
    printed = capsys.readouterr()
    assert "does not name its classes" in printed.err
    wanted = accuracy_by_name(photos, network, ANIMALS)
    assert json.loads(printed.out)["per_class"] == pytest.approx(wanted)
    assert not hasattr(load_checkpoint(network)[0], "class_names")


def test_calibrate_counts_accuracy_by_the_names(photos, tmp_path, torch_rng, capsys):
    names = ("bee", "cat", "ant")
    network = write_network(tmp_path / "net", names)
    arguments = ["--checkpoint", str(network), "--data", str(photos), "--split", "test"]
    assert main(["calibrate", *arguments, "--steps", "1", "--step-sizes", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    untouched = next(row for row in rows if row["step_size"] == 0)
    wanted = accuracy_by_name(photos, network, names)
    assert untouched["accuracy"] == pytest.approx(sum(wanted.values()) / 3)


def transform_arguments(network: Path, data: Path, out: Path) -> list[str]:
    where = ["--checkpoint", str(network), "--data", str(data), "--out", str(out)]
    return ["transform", *where, "--steps", "1", "--step-size", "9"]


def train_arguments(data: Path, out: Path, *more: str) -> list[str]:
    where = ["--data", str(data), "--image-size", str(SIZE), "--out", str(out)]
    return ["train", *where, "--model", "basic_cnn", "--epochs", "1", *more]


def test_a_store_keeps_the_names_and_training_compares_them(photos, tmp_path, torch_rng, capsys):
    network = write_network(tmp_path / "net", ("cat", "ant", "bee"))  # its order is not the data's
    assert main(transform_arguments(network, photos, tmp_path / "store")) == 0
    store = load_transformed(tmp_path / "store")
    assert store.class_names == ANIMALS
    assert [ANIMALS[label] for label in store.labels] == [key.split("/")[1] for key in store.keys]
    for part in PARTS:  # the same pixels and labels, another animal
        (photos / part / "cat").rename(photos / part / "cow")
    capsys.readouterr()
    sign = ("--sign", str(tmp_path / "store"))
    assert main(train_arguments(photos, tmp_path / "run", *sign)) == 1
    error = capsys.readouterr().err
    assert "label 2 is cat in" in error
    assert "cow in photos/train" in error


def test_a_run_is_not_resumed_with_other_classes(photos, tmp_path, capsys):
    assert main(train_arguments(photos, tmp_path / "run")) == 0
    config = json.loads((tmp_path / "run/model.json").read_text())
    assert config["class_names"] == list(ANIMALS)
    for part in PARTS:
        (photos / part / "bee").rename(photos / part / "bug")
    capsys.readouterr()
    assert main(train_arguments(photos, tmp_path / "run", "--resume")) == 1
    assert "class_names.1: bee in the folder, bug now" in capsys.readouterr().err


@pytest.fixture
def animals(rng: np.random.Generator) -> ImageSet:
    pixels = torch.from_numpy(rng.integers(0, 256, (24, 3, SIZE, SIZE), dtype=np.uint8))
    return ImageSet(pixels, torch.arange(24) % 3, ANIMALS, "animals/test")


def test_evaluate_in_python_goes_by_the_names(animals, tmp_path, torch_rng):
    names = ("cat", "ant", "bee")
    model, _ = load_checkpoint(write_network(tmp_path / "net", names))
    assert model.class_names == names
    with torch.no_grad():
        predicted = [names[i] for i in model(animals.float()).argmax(1).tolist()]
    right = [a == ANIMALS[i] for a, i in zip(predicted, animals.labels.tolist(), strict=True)]
    found = evaluate(model, animals, draws=1)
    assert found.accuracy == pytest.approx(np.mean(right))
    for label, name in enumerate(ANIMALS):
        assert found.per_class[name] == pytest.approx(np.mean(right[label::3]))
    assert evaluate(nn.DataParallel(model), animals, draws=1) == found
    renamed = dataclasses.replace(animals, class_names=("ant", "bee", "zebu"))
    for measure in (evaluate, measure_uncertainty):
        with pytest.raises(ValueError, match="label 2 is zebu in animals/test, bee in"):
            measure(model, renamed)
    model.class_names = renamed.class_names
    assert len(evaluate(model, renamed, draws=1).per_class) == 3


def test_train_in_python_notes_the_names(animals):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 3))
    train(model, animals, animals, TrainSettings(epochs=1, learning_rate=1e-6))
    assert model.class_names == ANIMALS
    with pytest.raises(ValueError, match="label 0 is cat in b, ant in the network"):
        evaluate(model, dataclasses.replace(animals, class_names=("cat", "dog", "ant"), name="b"))


def test_many_differences_are_counted():
    names = tuple(f"n{i:04d}" for i in range(1000))
    with pytest.raises(ValueError, match=r"label 7 is .*; and 992 more") as caught:
        match_classes(names, tuple(f"m{i}" for i in range(1000)), ("a", "b"))
    assert len(str(caught.value)) < 1000
    assert match_classes(names, names, ("a", "b")) is None


ODD = ("[/x]dog", "all", "[red]cat", ":cat:", "dog", "caf\udce9")


@pytest.mark.parametrize("aleatoric", [False, True])
def test_odd_names_in_tables(aleatoric, tmp_path, rng, torch_rng):
    """Rich's markup, the name of another row, an emoji's code, a name that is not UTF-8."""
    folders = [name.replace("/", "∕") for name in ODD]
    photos = write_images(tmp_path / "[b]photos", folders, rng)
    from sign_ext.models import build_model
    from sign_ext.training import save_checkpoint

    shape = (3, SIZE, SIZE)
    spec = {"name": "basic_cnn", "num_classes": 6, "image_shape": list(shape), "options": {}}
    model = build_model("basic_cnn", num_classes=6, image_shape=shape, aleatoric=aleatoric)
    config = {"model": {**spec, "aleatoric": aleatoric}, "class_names": sorted(folders)}
    save_checkpoint(tmp_path / "net/model.safetensors", model, config)
    arguments = ["--checkpoint", str(tmp_path / "net"), "--data", str(photos), "--draws", "1"]
    table = stdout_of(["evaluate", *arguments]).decode("utf-8", "surrogateescape")
    for name in folders:
        assert name in table
    assert "[b]photos" in "".join(table.split())  # a long title is wrapped
    assert table.count(" all ") == (2 if aleatoric else 1)


def test_the_same_name_twice(animals):
    """Two classes of one name stay two rows, in every result."""
    names = ("dog", "dog", "dog (2)")
    assert unique_names(names) == ("dog", "dog (3)", "dog (2)")
    twice = dataclasses.replace(animals, class_names=names)

    class Second(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    found = evaluate(Second(), twice, draws=1)
    assert found.per_class == {"dog": 0.0, "dog (3)": 1.0, "dog (2)": 0.0}


def test_markup_in_a_class_name_of_a_tar(tmp_path, rng, torch_rng, capsys):
    """A folder cannot be called [/x]dog, but classes.txt can say so, and twice."""
    import io
    import tarfile

    from PIL import Image

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(12):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
            for ending, data in (("png", buffer.getvalue()), ("cls", b"%d" % (number % 3))):
                member = tarfile.TarInfo(f"{number}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    (tmp_path / "classes.txt").write_text("[/x]dog\n[/x]dog\n[bold]\n")
    network = write_network(tmp_path / "net", ("[/x]dog", "[/x]dog", "[bold]"))
    arguments = ["--checkpoint", str(network), "--data", str(tmp_path / "a.tar"), "--draws", "1"]
    assert load_data(tmp_path / "a.tar").class_names == ("[/x]dog", "[/x]dog", "[bold]")
    assert main(["evaluate", *arguments]) == 0
    table = capsys.readouterr().out
    for name in ("class [/x]dog ", "class [/x]dog (2)", "class [bold]"):
        assert name in table
