"""Objectives: their losses and logits, training with them, and a run's identity."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sign_ext.augment import Classical, NoAugment
from sign_ext.models import AleatoricHead, AleatoricOutput
from sign_ext.training import (
    Aleatoric,
    CrossEntropy,
    Objective,
    TrainSettings,
    load_checkpoint,
    train,
)
from sign_ext.training.epoch import DeviceSet, Trainer, validate
from sign_ext.training.objective import as_dtype

SETTINGS = TrainSettings(epochs=3, batch_size=16, max_steps=11)


def test_objectives_satisfy_the_protocol_and_check_their_samples():
    assert isinstance(CrossEntropy(), Objective)
    assert isinstance(Aleatoric(), Objective)
    assert Aleatoric().samples == 100
    for samples in (0, 2.5, True):
        with pytest.raises(ValueError, match="samples must be an integer of at least 1"):
            Aleatoric(samples)


def test_the_loss_of_an_epoch_is_that_of_the_formula(aleatoric_net, make_set):
    # A σ near 0 leaves cross-entropy of f.
    model, images = aleatoric_net(spread=-60.0), make_set(24)
    model[1], model[3] = nn.Identity(), nn.Identity()
    settings = TrainSettings(batch_size=8, learning_rate=1e-30)
    data = DeviceSet.place(images, torch.device("cpu"), torch.channels_last)
    optimizer = settings.build_optimizer(model.parameters())
    objective = Aleatoric(5)
    trainer = Trainer(model, optimizer, settings, NoAugment(), data, 3, objective)
    loss, accuracy, _ = trainer.run_epoch(1, 0, lambda done: None)
    with torch.no_grad():
        logits = model.double()(images.images.double()).logits.numpy()
    assert logits.shape == (24, 3)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    labels = images.labels.numpy()
    wanted = (-log_p[np.arange(24), labels].mean(), (logits.argmax(axis=1) == labels).mean())
    assert (loss, accuracy) == pytest.approx(wanted, rel=1e-4)
    assert validate(model.float(), data, objective) == pytest.approx(wanted, rel=1e-4)


def test_the_spread_is_learned_and_the_noise_takes_part(aleatoric_net, make_set, same_weights):
    runs = {}
    for samples in (1, 20):
        model = aleatoric_net()
        before = model[5].weight[3:].clone()
        result = train(model, make_set(), make_set(30, 1), SETTINGS, objective=Aleatoric(samples))
        assert not torch.equal(model[5].weight[3:], before)
        assert all(math.isfinite(row["validation_loss"]) for row in result.history)
        runs[samples] = model
    assert not same_weights(runs[1], runs[20])


def test_aleatoric_learns_labels_by_heart(aleatoric_net, make_set):
    images, model = make_set(48), aleatoric_net()
    model[3] = nn.Identity()
    settings = TrainSettings(epochs=80, batch_size=16, learning_rate=3e-3)
    result = train(model, images, images, settings, objective=Aleatoric(10))
    assert result.best_validation_accuracy == 1.0
    assert result.history[-1]["train_loss"] < 0.2 < result.history[0]["train_loss"]


def test_probabilities_as_targets(aleatoric_net, make_set):
    def soften(images, labels, generator):
        return images, F.one_hot(labels, 3).float()

    hard, soft = (
        train(aleatoric_net(), make_set(), make_set(30, 1), SETTINGS, augment=augment,
              objective=Aleatoric(7))
        for augment in (None, soften)
    )  # fmt: skip
    assert soft.history[0]["train_loss"] == pytest.approx(hard.history[0]["train_loss"], rel=1e-4)


@pytest.mark.parametrize("step", [3, 6, 9])
def test_a_resumed_aleatoric_run_equals_the_uninterrupted(
    aleatoric_net, make_set, tmp_path, same_weights, step
):
    def run(model, **options):
        sets = make_set(64), make_set(30, 1)
        options = {"augment": Classical(), "objective": Aleatoric(9), **options}
        return train(model, *sets, SETTINGS, **options)

    def stop(done, total):
        if done == step:
            raise KeyboardInterrupt

    whole, resumed = aleatoric_net(), aleatoric_net()
    torch.manual_seed(1)
    wanted = run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(aleatoric_net(), out=tmp_path, progress=stop)
    torch.manual_seed(2)  # the caller's generator has no effect
    got = run(resumed, out=tmp_path, resume=True)
    assert got.history == wanted.history
    assert same_weights(resumed, whole)


def test_another_objective_is_refused_and_the_checkpoint_names_it(
    aleatoric_net, make_set, tmp_path
):
    def run(objective, model=None):
        return train(
            model or aleatoric_net(), make_set(), make_set(30, 1), SETTINGS,
            objective=objective, out=tmp_path, resume=True,
        )  # fmt: skip

    @dataclass(frozen=True)
    class Squares:
        def loss(self, outputs, targets):
            return outputs.logits.square().mean()

        def logits(self, outputs):
            return outputs.logits

    run(Aleatoric(4))
    with pytest.raises(ValueError, match=r"objective\.samples: 4 in the folder, 5 now"):
        run(Aleatoric(5))
    with pytest.raises(ValueError, match=r"objective\.class: Aleatoric in the folder, .*Squares"):
        run(Squares())
    config = json.loads((tmp_path / "model.json").read_text())
    assert config["train"]["objective"] == {"class": "Aleatoric", "samples": 4}


def test_the_default_is_cross_entropy(make_net, make_set, tmp_path, same_weights):
    a, b = make_net(), make_net()
    train(a, make_set(), make_set(30, 1), SETTINGS, out=tmp_path)
    train(b, make_set(), make_set(30, 1), SETTINGS, objective=CrossEntropy())
    assert same_weights(a, b)
    config = json.loads((tmp_path / "model.json").read_text())
    assert config["train"]["objective"] == {"class": "CrossEntropy"}
    with pytest.raises(ValueError, match="does not say which model"):
        load_checkpoint(tmp_path)


def test_outputs_that_do_not_suit_the_objective_are_named(make_net, aleatoric_net, make_set):
    sets = make_set(), make_set(30, 1)
    with pytest.raises(ValueError, match=r"AleatoricOutput; .*objective=Aleatoric\(\)"):
        train(aleatoric_net(), *sets, SETTINGS)
    with pytest.raises(ValueError, match=r"Tensor; .*build_model\(\.\.\., aleatoric=True\)"):
        train(make_net(), *sets, SETTINGS, objective=Aleatoric())
    wide = nn.Sequential(nn.Flatten(), nn.Linear(300, 8), AleatoricHead())
    with pytest.raises(ValueError, match=r"logits \(1, 4\) for one image.*num_classes=3"):
        train(wide, *sets, SETTINGS, objective=Aleatoric())


def test_outputs_are_converted_part_by_part():
    pair = as_dtype(AleatoricOutput(torch.zeros(2, 3), torch.ones(2, 3)), torch.float64)
    assert isinstance(pair, AleatoricOutput)
    assert pair.logits.dtype == pair.sigma.dtype == torch.float64
    assert as_dtype(torch.zeros(2), torch.bfloat16).dtype == torch.bfloat16
