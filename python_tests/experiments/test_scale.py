"""Scales are read from YAML, and what they cannot mean is refused by name."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from sign_ext.experiments.names import EXPERIMENTS
from sign_ext.experiments.registry import RECIPES
from sign_ext.experiments.scale import SCALES, load_scale, scale_from


def record(name="smoke"):
    return yaml.safe_load((files("sign_ext") / "configs" / f"{name}.yaml").read_text("utf-8"))


@pytest.mark.parametrize("name", SCALES)
def test_every_scale_is_whole(name):
    scale = load_scale(name)
    assert scale.name == name
    needed = {"cifar10"} if scale.only else {"cifar10", "isic"}
    assert needed <= set(scale.tasks)
    assert set(scale.experiments) | set(scale.only) <= set(RECIPES)


def test_the_paper_scale_is_the_papers():
    scale = load_scale("paper")
    assert scale.sign.snapshots == (50, 100)
    assert (scale.pixels, scale.sigma, scale.seeds) == (50, 10.0, 10)
    assert scale.tasks["cifar10"].batch_size == 128
    assert scale.tasks["isic"].batch_size == 32
    assert scale.tasks["cifar10"].train_size is None
    epochs = {name: network.epochs for name, network in scale.networks.items()}
    assert epochs.pop("basic_cnn") == 200
    assert set(epochs.values()) == {100}


def test_names_and_recipes_are_the_same_in_the_same_order():
    assert list(EXPERIMENTS) == list(RECIPES)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(sead=1), "sead"),
        (lambda r: r["tasks"]["cifar10"].update(batchsize=1), r"tasks\.cifar10.*batch_size"),
        (lambda r: r["networks"]["basic_cnn"].pop("epochs"), r"networks\.basic_cnn lacks epochs"),
        (lambda r: r["networks"]["basic_cnn"].update(epochs=0), "epochs"),
        (lambda r: r["networks"]["basic_cnn"].update(phi_epochs=0), r"basic_cnn\.phi_epochs"),
        (lambda r: r.update(only=["table9"]), "only names 'table9'; accepted: figure1"),
        (lambda r: r["networks"]["basic_cnn"].update(task="cifar"), r"basic_cnn\.task"),
        (lambda r: r.update(sign=3), "sign must be a mapping"),
        (lambda r: r.pop("search"), "search"),
        (lambda r: r.pop("seeds"), "lacks seeds"),
    ],
)
def test_what_means_nothing_is_named(change, said):
    given = record()
    change(given)
    with pytest.raises(ValueError, match=said):
        scale_from("mine.yaml", given)


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**record(), "seeds": 7}))
    scale = load_scale(str(path))
    assert (scale.name, scale.seeds) == ("mine", 7)
    path.write_text("a: [")
    with pytest.raises(ValueError, match=r"mine\.yaml is not YAML"):
        load_scale(str(path))
    with pytest.raises(FileNotFoundError, match="smoke, small, medium, gpu, paper"):
        load_scale("papper")
