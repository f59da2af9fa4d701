"""One epoch: its batches, its seeds, its numbers, and a loss that is not finite."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sign_ext.augment import NoAugment
from sign_ext.training import CrossEntropy, TrainSettings
from sign_ext.training.epoch import (
    DeviceSet,
    Trainer,
    TrainingDivergedError,
    batch_indices,
    derived_seed,
    validate,
)


def trainer_of(model, images, augment=None, **options):
    settings = TrainSettings(**options)
    data = DeviceSet.place(images, torch.device("cpu"), torch.channels_last)
    optimizer = settings.build_optimizer(model.parameters())
    total = settings.total_steps(len(images))
    return Trainer(model, optimizer, settings, augment or NoAugment(), data, total)


class Recorder:
    """An augmentation that records its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, images, labels, generator):
        self.batches.append((images.clone(), labels.clone()))
        return images, labels


@pytest.mark.parametrize(
    ("n", "batch", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 1, [1, 1, 1]), (3, 8, [3])]
)
def test_batches_cover_the_order_and_never_end_in_a_single_image(n, batch, sizes):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(n))
    batches = batch_indices(order, batch)
    assert [len(index) for index in batches] == sizes
    assert torch.equal(torch.cat(batches), order)


def test_every_image_is_seen_once_an_epoch_with_its_label_in_a_new_order(make_net, make_set):
    images, recorder = make_set(23), Recorder()
    trainer = trainer_of(make_net(), images, recorder, batch_size=8, epochs=2)
    orders = []
    for epoch in (1, 2):
        recorder.batches.clear()
        trainer.run_epoch(epoch, (epoch - 1) * 3, lambda done: None)
        seen = torch.cat([batch for batch, _ in recorder.batches])
        labels = torch.cat([label for _, label in recorder.batches])
        assert seen.dtype == torch.float32
        where = [int((images.float() == x).flatten(1).all(1).nonzero()[0, 0]) for x in seen]
        assert sorted(where) == list(range(23))
        assert torch.equal(labels, images.labels[where])
        orders.append(where)
    assert orders[0] != orders[1]


def test_loss_and_accuracy_of_a_still_model_are_those_of_the_whole_set(make_net, make_set):
    images = make_set(21)
    model = make_net(dropout=0.0)
    model[2] = nn.Identity()  # batch statistics would make the numbers depend on the batches
    # At a rate of 1e-30 the weights stay put in float32.
    trainer = trainer_of(model, images, batch_size=8, learning_rate=1e-30)
    loss, accuracy, steps = trainer.run_epoch(1, 0, lambda done: None)
    with torch.no_grad():
        logits = model.double()(images.images.double()).numpy()
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    labels = images.labels.numpy()
    assert loss == pytest.approx(-log_p[np.arange(21), labels].mean(), rel=1e-5)
    assert accuracy == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert steps == 3


def test_steps_equal_a_loop_written_by_hand(make_net, make_set):
    images = make_set(20)
    trained, by_hand = make_net(dropout=0.0), make_net(dropout=0.0)
    recorder = Recorder()
    trainer_of(trained, images, recorder, batch_size=8, optimizer="sgd").run_epoch(
        1, 0, lambda done: None
    )
    optimizer = torch.optim.SGD(by_hand.parameters(), 1e-3, momentum=0.9, nesterov=True)
    for batch, labels in recorder.batches:
        optimizer.zero_grad()
        F.cross_entropy(by_hand(batch), labels).backward()
        optimizer.step()
    for a, b in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_labels_may_be_probabilities(make_net, make_set):
    images = make_set(16)

    def soften(batch, labels, generator):
        return batch, F.one_hot(labels, 3).float()

    soft = trainer_of(make_net(), images, soften, batch_size=8)
    hard = trainer_of(make_net(), images, batch_size=8)
    got, wanted = soft.run_epoch(1, 0, print), hard.run_epoch(1, 0, print)
    assert got == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("bad_step", [1, 3])
def test_a_loss_that_is_not_finite_names_epoch_and_step(make_net, make_set, bad_step):
    calls = iter(range(1, 100))

    def poison(images, labels, generator):
        return images * (torch.nan if next(calls) == bad_step else 1.0), labels

    trainer = trainer_of(make_net(), make_set(40), poison, batch_size=8, epochs=3)
    with pytest.raises(TrainingDivergedError, match="learning_rate") as caught:
        trainer.run_epoch(2, 5, lambda done: None)
    assert (caught.value.epoch, caught.value.step) == (2, 5 + bad_step)


def test_validate_is_in_eval_mode_over_all_images(make_net, make_set):
    images = make_set(1030)  # more than two validation batches
    model = make_net()
    data = DeviceSet.place(images, torch.device("cpu"), torch.channels_last)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    loss, accuracy = validate(model, data, CrossEntropy())
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    with torch.no_grad():
        logits = model.eval().double()(images.images.double())
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    wanted = -log_p[torch.arange(1030), images.labels].mean()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert accuracy == pytest.approx(float((logits.argmax(1) == images.labels).double().mean()))


def test_a_model_that_works_in_place_leaves_the_data_alone(make_set):
    images = make_set(12, dtype=torch.float32)
    before = images.images.clone()

    class Halve(nn.Module):
        def forward(self, x):
            return x.mul_(0.5)

    model = nn.Sequential(Halve(), nn.Flatten(), nn.Linear(300, 3))
    data = DeviceSet.place(images, torch.device("cpu"), torch.contiguous_format)
    validate(model, data, CrossEntropy())
    trainer_of(model, images, batch_size=5).run_epoch(1, 0, lambda done: None)
    assert torch.equal(images.images, before)


def test_each_process_has_its_own_dropout_and_the_first_that_of_one():
    seeds = [derived_seed(3, 2, "model", rank) for rank in range(4)]
    assert seeds[0] == derived_seed(3, 2, "model")
    assert len(set(seeds)) == 4
    large = [derived_seed(2**40, 2, "model", rank) for rank in range(4)]
    assert len(set(large)) == 4
