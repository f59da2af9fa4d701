"""Controls: what each keeps of SIGN's δ and what it takes away, against δ written out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sign_ext.data import ImageSet
from sign_ext.experiments.planner import METHODS, MOMENTUM
from sign_ext.experiments.reproduce import Reproduction
from sign_ext.experiments.scale import load_scale
from sign_ext.experiments.stages.controls import Changed, MatchStep, Untrained, other_positions
from sign_ext.experiments.stages.networks import (
    PHI_SEEDS,
    Network,
    Train,
    Transform,
    load_trained,
)
from sign_ext.experiments.stages.sources import Source
from sign_ext.store import load_transformed
from sign_ext.training import TrainSettings

STEPS = (5, 10)


@pytest.fixture
def transform() -> Transform:
    phi = Train(Source("digits"), 40, Network("basic_cnn"), TrainSettings(seed=1))
    return Transform(phi, None, 2.0, STEPS)


class Store(Transform):
    """SIGN's versions as if they had been computed."""

    def images(self, context: SimpleNamespace) -> Mapping[int, Tensor]:
        return context.versions


def changed(manner: str, torch_rng: torch.Generator, seed: int = 0):
    """(δ by K, changed δ by K, the stage's numbers) in float64."""
    pixels = torch.randint(0, 256, (23, 3, 5, 7), generator=torch_rng, dtype=torch.uint8)
    images = ImageSet(pixels, torch.arange(23) % 2, ("a", "b"), "x/train")
    phi = Train(Source("digits"), 23, Network("basic_cnn"), TrainSettings(seed=1))
    sign = Store(phi, None, 1.0, STEPS)
    versions = {
        k: pixels.float() + k * torch.randn(pixels.shape, generator=torch_rng) for k in STEPS
    }
    for each in versions.values():
        each[0, 0, 0] = pixels[0, 0, 0].float()  # some variables do not move
    context = SimpleNamespace(
        data=lambda source: SimpleNamespace(part=lambda name: images), versions=versions
    )
    stage = Changed(sign, manner, seed)
    found = stage.images(context)
    numbers = stage.run(context, Path())
    originals = pixels.double()
    return (
        {k: each.double() - originals for k, each in versions.items()},
        {k: each.double() - originals for k, each in found.items()},
        numbers,
    )


def test_shuffled_deltas_are_those_of_other_images_the_same_ones_for_each_k(torch_rng):
    deltas, found, _ = changed("shuffled", torch_rng, seed=5)
    where = {}
    for k in STEPS:
        distance = (found[k][:, None] - deltas[k][None]).abs().amax(dim=(2, 3, 4))
        assert float(distance.amin(dim=1).max()) < 1e-3
        where[k] = distance.argmin(dim=1).tolist()
        assert sorted(where[k]) == list(range(23))
        assert all(i != j for i, j in enumerate(where[k]))
    assert where[5] == where[10]


@pytest.mark.parametrize("count", [2, 3, 17])
def test_nothing_keeps_its_place(count):
    for seed in range(20):
        positions = other_positions(count, seed)
        assert sorted(positions.tolist()) == list(range(count))
        assert not bool((positions == torch.arange(count)).any())


def test_negated_deltas_point_the_other_way(torch_rng):
    deltas, found, _ = changed("negated", torch_rng)
    for k in STEPS:
        assert torch.allclose(found[k], -deltas[k], atol=1e-3)


def test_signs_have_one_length_and_the_rms_of_delta(torch_rng):
    deltas, found, numbers = changed("signs", torch_rng)
    for k in STEPS:
        rms = float(deltas[k].square().mean().sqrt())
        assert float(found[k].square().mean().sqrt()) == pytest.approx(rms, rel=1e-4)
        assert numbers["change"][str(k)]["rms"] == pytest.approx(rms, rel=1e-4)
        moved = deltas[k] != 0
        assert torch.equal(found[k][moved].sign(), deltas[k][moved].sign())
        assert float(found[k][~moved].abs().max()) < 1e-3
        lengths = found[k][moved].abs()
        assert float(lengths.max() - lengths.min()) < 1e-3


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    return Reproduction(
        ["controls"], load_scale("smoke"), (0,), tmp_path_factory.mktemp("c")
    ).planner


def test_controls_differ_from_sign_in_one_thing(planner):
    sign = planner.train("basic_cnn", "sign", 0, protocol="steps")
    phi = sign.sign.phi
    keys = {sign.key}
    for method in (
        "noise",
        "shuffled",
        "negated",
        "signs",
        "other",
        "untrained",
        "input",
        "momentum",
    ):
        stage = planner.train("basic_cnn", method, 0, protocol="steps")
        assert dataclasses.replace(stage, sign=sign.sign).key == sign.key, method
        assert stage.train_images == sign.train_images
        keys.add(stage.key)
    assert len(keys) == 9
    other = planner.train("basic_cnn", "other", 0).sign
    assert other.phi.key == planner.phi("basic_cnn", 1).key
    assert other.source == phi.source != other.phi.source
    untrained = planner.train("basic_cnn", "untrained", 0).sign.phi
    assert isinstance(untrained, Untrained)
    assert untrained.settings.seed == phi.settings.seed == PHI_SEEDS
    at_input = planner.train("basic_cnn", "input", 0).sign
    assert (at_input.linearize_at, at_input.phi.key) == ("input", phi.key)
    assert isinstance(at_input.step, MatchStep)
    assert at_input.step.sign.key == sign.sign.key
    assert planner.train("basic_cnn", "momentum", 0).sign.momentum == MOMENTUM
    true_class = planner.train("basic_cnn", "true_class", 0).sign
    assert true_class.sign.key == sign.sign.key
    attacked = planner.train("basic_cnn", "adversarial", 0, protocol="steps")
    plain = planner.train("basic_cnn", "classical", 0, protocol="steps")
    assert dataclasses.replace(attacked, attack_steps=0).key == plain.key
    assert plain.flops() < attacked.flops() <= 3 * plain.flops()
    joined = planner.train("mobilenet_v2", "advprop", 0, protocol="steps")
    plain = planner.train("mobilenet_v2", "classical", 0, protocol="steps")
    assert dataclasses.replace(joined, attack_steps=0, auxiliary=False).key == plain.key
    assert joined.auxiliary
    # Twice the images, and one pass and its backward pass for the attack.
    assert joined.flops() == pytest.approx(plain.flops() * (2 + 2 / 3))
    distilled = planner.train("basic_cnn", "distilled", 0, protocol="steps")
    assert distilled.teacher.key == phi.key
    assert distilled.sign is None
    steps = distilled.settings.total_steps(distilled.train_images)
    assert steps == sign.settings.total_steps(sign.train_images)


def test_every_method_says_what_it_is():
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels)
    assert all(method.note for name, method in METHODS.items() if method.enlarges)


def test_matched_steps_move_images_as_far(tmp_path):
    from importlib.resources import files

    import yaml

    record = yaml.safe_load((files("sign_ext") / "configs" / "smoke.yaml").read_text("utf-8"))
    record["tasks"]["cifar10"] |= {"train_size": 60, "validation_size": 40, "test_size": 30}
    record["networks"]["basic_cnn"] |= {"epochs": 2, "learning_rates": []}
    record["sign"] |= {"target_shares": [], "target_share": 0.03}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(record))
    work = Reproduction(["controls"], load_scale(str(path)), (0,), tmp_path / "out")
    wanted = work.planner.train("basic_cnn", "sign", 0).sign
    last = max(record["sign"]["snapshots"])
    for method in ("untrained", "input", "momentum", "true_class"):
        found = work.planner.train("basic_cnn", method, 0).sign
        ours, theirs = work.runner.run([found, wanted])
        rms = theirs.numbers["change"][str(last)]["rms"]
        assert ours.numbers["change"][str(last)]["rms"] == pytest.approx(rms, rel=0.25), method
    # The last was the true class: each version raises its logit, in float64 too.
    context = work.runner.outcome(found).folder
    model = load_trained(work.runner.outcome(wanted.phi), torch.device("cpu")).double()
    train = work.planner.sources.read(found.sign.source).train
    rows = torch.arange(len(train))
    with torch.no_grad():
        before = model(train.images.double())[rows, train.labels]
        after = model(load_transformed(context).tensor(last).double())[rows, train.labels]
    assert float((after - before).min()) > 0
