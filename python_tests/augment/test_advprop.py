"""AdvProp against its definition: two passes, one an image's kind, through layers of their own."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sign_ext.augment import Adversarial, AdvProp, Augment, auxiliary_batch_norm
from sign_ext.augment.advprop import AuxiliaryBatchNorm
from sign_ext.data import ImageSet
from sign_ext.evaluation import predict
from sign_ext.experiments.stages.networks import Network, Train, load_trained
from sign_ext.experiments.stages.runner import StageRunner
from sign_ext.experiments.stages.sources import Source, Sources
from sign_ext.training import TrainSettings, train

CLASSES = 3
RATE = 0.05


@pytest.fixture
def model(seed) -> nn.Sequential:
    """A network whose batch normalisation is not at its initial values."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * 5 * 3, CLASSES),
    )
    with torch.no_grad():
        network[0].weight.mul_(1 / 64)
        network[1].weight.uniform_(0.5, 1.5)
        network[1].bias.uniform_(-0.3, 0.3)
    return network


@pytest.fixture
def batch(torch_rng) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(6, 3, 7, 5, generator=torch_rng) * 255
    return images, torch.arange(6) % CLASSES


def random(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_attack_is_on_the_auxiliary_layers(model, batch):
    images, labels = batch
    other = copy.deepcopy(model[1])
    with torch.no_grad():
        other.weight.neg_().mul_(2)
        other.running_mean.add_(1.0)
    with auxiliary_batch_norm(model):
        model[1].auxiliary.load_state_dict(other.state_dict())
        augment = AdvProp(model, epsilon=3.0, steps=2)
        assert isinstance(augment, Augment)
        both, targets = augment(images, labels, random())
        assert model.training
        assert not model[1].attacked
    alone = nn.Sequential(model[0], other, *model[2:])
    wanted, _ = Adversarial(alone, epsilon=3.0, steps=2)(images, labels, random())
    of_main, _ = Adversarial(model, epsilon=3.0, steps=2)(images, labels, random())
    assert torch.equal(both[:6], images)
    assert torch.equal(both[6:], wanted)
    assert not torch.equal(both[6:], of_main)
    assert torch.equal(targets, torch.cat((labels, labels)))


def test_a_step_lowers_the_sum_of_both_losses_each_through_its_own_layers(model, batch):
    images, labels = batch
    plain, seen = copy.deepcopy(model), []

    class Watched(AdvProp):
        def __call__(self, *given):
            seen.append(super().__call__(*given))
            return seen[-1]

    data = ImageSet(images, labels, ("a", "b", "c"), "x")
    settings = TrainSettings(epochs=1, batch_size=6, learning_rate=RATE, optimizer="sgd", seed=2)
    kept = {}
    with auxiliary_batch_norm(model):
        result = train(model, data, data, settings, augment=Watched(model, epsilon=5.0))
        kept |= {k: v.clone() for k, v in model[1].auxiliary.state_dict().items()}
    (both, targets) = seen[0]

    # By the definition, in float64: the same weights for both, but two layers to normalise.
    exact = plain.double()
    layers = exact[1], copy.deepcopy(exact[1])
    losses = []
    for layer, part, wanted in zip(layers, both.double().split(6), targets.split(6), strict=True):
        hidden = exact[3](F.relu(layer(exact[0](part))))
        losses.append(F.cross_entropy(exact[4](hidden), wanted))
    sum(losses).backward()
    assert result.history[0]["train_loss"] == pytest.approx(sum(losses).item(), rel=1e-5)
    assert 0 <= result.history[0]["train_accuracy"] <= 1
    with torch.no_grad():
        for parameter in (*exact.parameters(), *layers[1].parameters()):
            # Nesterov's first step is 1 + μ times the gradient's.
            parameter -= RATE * 1.9 * parameter.grad
    assert type(model[1]) is nn.BatchNorm2d
    for name, wanted in exact.state_dict().items():
        found = model.state_dict()[name].double()
        torch.testing.assert_close(found, wanted.double(), rtol=1e-4, atol=1e-6, msg=name)
    for name, wanted in layers[1].state_dict().items():
        torch.testing.assert_close(
            kept[name].double(), wanted.double(), rtol=1e-4, atol=1e-6, msg=name
        )
    assert not torch.allclose(layers[0].running_mean, layers[1].running_mean, rtol=1e-4)


def test_evaluation_uses_the_main_layers_and_they_stay(model, batch):
    images, _ = batch
    before = copy.deepcopy(model.state_dict())
    wanted = copy.deepcopy(model).eval()(images)
    with auxiliary_batch_norm(model):
        with torch.no_grad():
            model[1].auxiliary.weight.zero_()
        assert torch.equal(model.eval()(images), wanted)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], each) for name, each in before.items())


def test_a_layer_in_two_places_has_one_auxiliary_layer():
    layer = nn.BatchNorm2d(3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    with auxiliary_batch_norm(model):
        assert model[0] is model[2]
        assert sum(isinstance(each, AuxiliaryBatchNorm) for each in model.modules()) == 1
    assert model[0] is model[2] is layer


def test_what_cannot_be_is_said(model, batch):
    with (
        pytest.raises(ValueError, match="use the augmentation Adversarial"),
        auxiliary_batch_norm(nn.Linear(2, 2)),
    ):
        pass
    with pytest.raises(ValueError, match="inside of `with auxiliary_batch_norm"):
        AdvProp(model)(*batch, random())
    with pytest.raises(ValueError, match="epsilon"):
        AdvProp(model, epsilon=-1.0)
    with auxiliary_batch_norm(model), pytest.raises(ValueError, match="batch of 5 has no clean"):
        model.train()(batch[0][:5])


def test_a_stage_leaves_a_plain_network_that_was_selected_by_its_main_layers(tmp_path):
    sources = Sources()
    source = sources.with_fingerprint(Source("digits", 24, 30, 10, 16))
    settings = TrainSettings(epochs=2, batch_size=8, learning_rate=0.003, seed=1)
    network = Network("mobilenet_v2", {"width": 0.25})
    options = {"augment": ("classical",), "flips": False, "attack_steps": 1}
    stage = Train(source, 24, network, settings, auxiliary=True, **options)
    other = Train(source, 24, network, settings, **options)
    assert stage.key != other.key
    assert stage.flops() > other.flops()
    runner = StageRunner(tmp_path, torch.device("cpu"), sources.read)
    (outcome,) = runner.run([stage])
    assert sorted(path.name for path in outcome.folder.iterdir()) == [
        ".lock",
        "model.json",
        "model.safetensors",
        "stage.json",
    ]
    model = load_trained(outcome, torch.device("cpu"))
    assert not any(isinstance(each, AuxiliaryBatchNorm) for each in model.modules())
    validation = sources.read(source).validation
    right = predict(model, validation.images).argmax(dim=1) == validation.labels
    best = max(row["validation_accuracy"] for row in outcome.numbers["history"])
    assert float(right.double().mean()) == pytest.approx(best)
