"""Settings: what they accept, and the steps and rates that follow from them."""

import math

import pytest
import torch
from torch import nn

from sign_ext.training import TrainSettings, steps_per_epoch


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "epochs.*at least 1.*0"),
        ({"epochs": 2.5}, "epochs.*2.5"),
        ({"batch_size": True}, "batch_size.*True"),
        ({"learning_rate": 0.0}, "learning_rate.*above 0"),
        ({"learning_rate": math.nan}, "learning_rate.*nan"),
        ({"learning_rate": "fast"}, "learning_rate.*'fast'"),
        ({"weight_decay": -1e-4}, "weight_decay.*at least 0"),
        ({"max_steps": 0}, "max_steps.*None sets no cap"),
        ({"seed": -1}, "seed"),
        ({"optimizer": "adamm"}, "optimizer.*adam, adamw, sgd.*Did you mean"),
        ({"schedule": "cosin"}, "schedule.*'cosine'"),
        ({"compile": "yes"}, "compile must be True or False; got 'yes'"),
        ({"precision": "float16"}, "precision.*bfloat16"),
    ],
)
def test_senseless_settings_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        TrainSettings(**options)


@pytest.mark.parametrize(
    ("images", "batch", "steps"),
    [(128, 128, 1), (129, 128, 1), (130, 128, 2), (1, 128, 1), (5, 1, 5), (1000, 128, 8)],
)
def test_steps_per_epoch(images, batch, steps):
    assert steps_per_epoch(images, batch) == steps


def test_total_steps_is_capped():
    assert TrainSettings(epochs=3, batch_size=10).total_steps(25) == 9
    assert TrainSettings(epochs=3, batch_size=10, max_steps=7).total_steps(25) == 7
    assert TrainSettings(epochs=3, batch_size=10, max_steps=70).total_steps(25) == 9


def test_rates():
    constant = TrainSettings(learning_rate=0.5)
    assert [constant.rate_at(step, 4) for step in range(4)] == [0.5] * 4
    cosine = TrainSettings(learning_rate=0.5, schedule="cosine")
    wanted = [0.5 * math.cos(math.pi * step / 8) ** 2 for step in range(4)]
    assert [cosine.rate_at(step, 4) for step in range(4)] == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_one_step_of_each_optimizer_follows_its_formula(name):
    start, gradient, rate, decay = 2.0, 0.5, 0.1, 0.01
    weight = nn.Parameter(torch.tensor([start]))
    settings = TrainSettings(optimizer=name, learning_rate=rate, weight_decay=decay)
    optimizer = settings.build_optimizer([weight])
    weight.grad = torch.tensor([gradient])
    optimizer.step()
    # Adam's first step is rate · sign(g), whatever the size of g (up to eps).
    wanted = {
        "adam": start - rate,
        "adamw": start * (1 - rate * decay) - rate,
        "sgd": start - rate * (1 + 0.9) * (gradient + decay * start),
    }[name]
    assert weight.item() == pytest.approx(wanted, rel=1e-6)
