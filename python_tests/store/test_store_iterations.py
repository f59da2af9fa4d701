"""Stores of other iterations than SIGN: adversarial images, and any objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from store_parts import SHAPE, make_net, make_source
from torch.nn import functional as F

from sign_ext import InputIteration, pgd
from sign_ext.data import ImageSource
from sign_ext.data.source import Targets
from sign_ext.store import AttackIteration, load_transformed, transform_to_store


def own_start(images: torch.Tensor, seed: int, restart: int, epsilon: float) -> torch.Tensor:
    """The starts of images at positions 0, 1, …, as the documentation says: uniform, clamped."""
    noise = []
    for position in range(len(images)):
        words = np.random.SeedSequence((seed, restart, position)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0]) >> 1)
        noise.append(torch.empty(SHAPE).uniform_(-1, 1, generator=generator))
    return (images + epsilon * torch.stack(noise)).clamp(0, 255)


def attacked_by_hand(
    images: torch.Tensor, labels: torch.Tensor, start: torch.Tensor, epsilon: float, step: float
) -> torch.Tensor:
    """Two L∞ steps of the margin in float64 autograd."""
    model, x = make_net().double(), start.double()
    for _ in range(2):
        x = x.requires_grad_()
        z = model(x)
        wrong = z.masked_fill(F.one_hot(labels, 3).bool(), -torch.inf).amax(1)
        (g,) = torch.autograd.grad((wrong - z[range(len(z)), labels]).sum(), x)
        low, high = images.double() - epsilon, images.double() + epsilon
        x = (x.detach() + step * g.sign()).clamp(low, high).clamp(0, 255)
    return x.float()


def make_attack(**options) -> AttackIteration:
    """Of the margin: the softmax of these large logits is 0 and 1 up to float32's rounding."""
    settings = {"epsilon": 6, "step_size": 4, "steps": 2, "seed": 9, "objective": "margin"}
    return AttackIteration(**{"model": make_net(), **settings, **options})


def test_the_store_holds_pgd_from_each_images_own_start(tmp_path):
    source = make_source()
    images, labels = source.read(0, 23).float(), torch.from_numpy(source.labels)
    transform_to_store(make_attack(), source, tmp_path / "s", shard_size=5)
    found = load_transformed(tmp_path / "s").tensor(2)
    start = own_start(images, 9, 0, 6)
    wanted = attacked_by_hand(images, labels, start, 6, 4)
    equal = (found - wanted).abs() < 1e-3  # but for signs of gradients that are almost 0
    assert equal.double().mean() > 0.999
    assert not torch.allclose(wanted, attacked_by_hand(images, labels, images, 6, 4), atol=0.1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_neither_shards_nor_batches_change_the_images(norm, tmp_path):
    source = make_source()
    options = {"norm": norm, "epsilon": 6 if norm == "linf" else 90, "restarts": 3}
    stores = []
    for number, (shard, batch) in enumerate([(23, 8), (5, 4), (1, 1)]):
        attack = make_attack(**options, batch_size=batch, backend="autograd")
        transform_to_store(attack, source, tmp_path / str(number), shard_size=shard)
        stores.append(load_transformed(tmp_path / str(number)).tensor(2))
    for other in stores[1:]:
        equal = (other - stores[0]).abs() < 1e-3
        assert equal.double().mean() > 0.999
    distance = (stores[0] - source.read(0, 23)).flatten(1)
    size = distance.abs().amax(1) if norm == "linf" else distance.norm(dim=1)
    assert size.max() <= options["epsilon"] + 1e-3
    assert size.min() > 0


@pytest.mark.parametrize("options", [{"restarts": 3}, {"target": 1, "only_correct": True}])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_store_holds_the_bytes_of_pgd(options, norm, tmp_path):
    source = make_source()
    attack = make_attack(norm=norm, batch_size=1, **options)
    transform_to_store(attack, source, tmp_path, shard_size=5)
    images, labels = source.read(0, 23).float(), torch.from_numpy(source.labels)
    target = options.get("target")
    aims = labels if target is None else torch.full_like(labels, target)
    common = {"epsilon": 6, "step_size": 4, "steps": 2, "seed": 9, "objective": "margin"}
    common |= {"restarts": options.get("restarts", 1), "targeted": target is not None}
    common |= {"only_correct": target is not None, "norm": norm, "batch_size": 1}
    order = torch.randperm(23, generator=torch.Generator().manual_seed(2))
    found = load_transformed(tmp_path).tensor(2)
    for rows in order.split(9):  # in any order and any parts
        part = pgd(make_net(), images[rows], aims[rows], indices=rows, **common)
        assert torch.equal(found[rows], part)


def test_restarts_from_the_same_point_are_refused():
    with pytest.raises(ValueError, match="restarts=2 without a random start"):
        make_attack(restarts=2, random_start=False)
    with pytest.raises(ValueError, match="epsilon must be above 0"):
        make_attack(epsilon=0)


def test_another_seed_makes_other_images_and_is_refused(tmp_path):
    source = make_source(8)
    transform_to_store(make_attack(), source, tmp_path)
    with pytest.raises(FileExistsError, match=r"settings.seed: 9 in the store, 8 now"):
        transform_to_store(make_attack(seed=8), source, tmp_path)
    first = load_transformed(tmp_path).tensor(2)
    transform_to_store(make_attack(seed=8), source, tmp_path, overwrite=True)
    assert not torch.equal(load_transformed(tmp_path).tensor(2), first)


def test_any_iteration_fills_a_store_with_its_snapshots(tmp_path):
    source = make_source(11)
    options = {"objective": "margin", "update": "l2", "step_size": 30.0, "project": ("l2", 70.0)}
    climb = InputIteration(make_net(), 4, snapshots=(1, 4), batch_size=4, **options)
    transform_to_store(climb, source, tmp_path, shard_size=4)
    store = load_transformed(tmp_path)
    images, labels = source.read(0, 11).float(), torch.from_numpy(source.labels)
    for step, wanted in climb.transform(images, labels).items():
        torch.testing.assert_close(store.tensor(step), wanted, rtol=1e-5, atol=1e-3)
    recorded = store.recipe["settings"]
    assert recorded["objective"] == "margin"
    assert recorded["update"] == "l2"
    assert recorded["project"] == ["l2", 70]
    assert recorded["snapshots"] == [1, 4]
    down = climb.with_options(objective="logit", step_size=-30.0)
    with pytest.raises(FileExistsError, match=r"settings.objective: margin in the store, logit"):
        transform_to_store(down, source, tmp_path)


def smallest_logit(output: torch.Tensor) -> torch.Tensor:
    return -output.amin(1)


def loss_of(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, labels, reduction="none")


@pytest.mark.parametrize("objective", [smallest_logit, loss_of])
def test_a_function_is_recorded_by_its_name(objective, tmp_path):
    source = make_source(5)
    climb = InputIteration(make_net(), 2, objective=objective, step_size=3.0)
    transform_to_store(climb, source, tmp_path)
    store = load_transformed(tmp_path)
    assert store.recipe["settings"]["objective"].endswith(f".{objective.__name__}")
    labels = torch.from_numpy(source.labels) if objective is loss_of else None
    wanted = climb.transform(source.read(0, 5).float(), labels)
    torch.testing.assert_close(store.tensor(2), wanted, rtol=1e-5, atol=1e-3)
    assert not torch.equal(store.tensor(2), source.read(0, 5).float())


def test_targets_that_are_no_classes_are_refused(tmp_path):
    plain = make_source(4)
    targets = Targets(torch.float32, (2,), lambda positions: torch.zeros(len(positions), 2))
    masks = ImageSource(**{**vars(plain), "class_names": (), "targets": targets})
    with pytest.raises(ValueError, match=r"targets of shape \(2,\).*needs one class an image"):
        transform_to_store(make_attack(), masks, tmp_path)


def test_labels_beyond_the_outputs_are_refused(tmp_path):
    attack = make_attack(network_labels=(0, 1, 7))
    with pytest.raises(ValueError, match="labels must be classes 0 to 2"):
        transform_to_store(attack, make_source(4), tmp_path)


def test_a_network_in_training_mode_is_attacked_as_it_answers_and_stays_in_it():
    model = torch.nn.Sequential(*make_net(), torch.nn.Dropout(0.9)).train()
    source = make_source(6)
    images, labels = source.read(0, 6).float(), torch.from_numpy(source.labels)
    attack = make_attack(model=model)
    found = attack.run(images, labels, torch.arange(6))[2]
    torch.testing.assert_close(found, make_attack().run(images, labels, torch.arange(6))[2])
    assert model.training
    assert model[-1].training
