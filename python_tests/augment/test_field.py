"""Augmentations of the field against torchvision's own, with our randomness."""

import pytest
import torch
from torchvision.transforms import v2

from sign_ext.augment import (
    Adversarial,
    Augment,
    AugMix,
    Classical,
    Compose,
    CutMix,
    Distilled,
    RandAugment,
    TrivialAugment,
)
from sign_ext.augment.field import as_bytes, share_clipped
from sign_ext.training.run_folder import describe_part

THEIRS = {
    TrivialAugment(bins=11): v2.TrivialAugmentWide(11),
    RandAugment(operations=3, magnitude=5): v2.RandAugment(3, 5),
    AugMix(severity=2, width=2): v2.AugMix(severity=2, mixture_width=2),
}


def batch(n, generator, classes=5):
    images = torch.rand(n, 3, 9, 7, generator=generator) * 400 - 70  # as SIGN's, beyond 0–255
    return images, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("augment", THEIRS, ids=lambda each: type(each).__name__)
def test_each_image_gets_torchvisions_operations_on_bytes(augment, torch_rng):
    images, labels = batch(6, torch_rng)
    before = images.clone()
    assert isinstance(augment, Augment)
    changed, same = augment(images, labels, torch.Generator().manual_seed(7))
    seed = torch.randint(2**31, (), generator=torch.Generator().manual_seed(7))
    with torch.random.fork_rng():
        torch.manual_seed(int(seed))
        wanted = [THEIRS[augment](image) for image in images.round().clamp(0, 255).byte()]
    assert torch.equal(changed, torch.stack(wanted).float())
    assert changed.dtype == torch.float32
    assert torch.equal(same, labels)
    assert torch.equal(images, before)
    again, _ = augment(images, labels, torch.Generator().manual_seed(7))
    other, _ = augment(images, labels, torch.Generator().manual_seed(8))
    assert torch.equal(changed, again)
    assert not torch.equal(changed, other)


def test_cutmix_is_torchvisions_and_its_labels_follow_the_area(torch_rng):
    images, labels = batch(5, torch_rng)
    mixed, targets = CutMix(5, alpha=0.7)(images, labels, torch.Generator().manual_seed(3))
    own = (mixed == images).all(dim=1)
    others = (mixed == images.roll(1, 0)).all(dim=1)
    assert bool((own | others).all())
    area = own.flatten(1).double().mean(dim=1)
    for i in range(5):
        wanted = torch.zeros(5, dtype=torch.float64)
        wanted[labels[i]] += area[i]
        wanted[labels[i - 1]] += 1 - area[i]
        assert torch.allclose(targets[i].double(), wanted, atol=1e-6)


def test_the_global_generator_stays_as_it_was(torch_rng):
    images, labels = batch(3, torch_rng)
    state = torch.get_rng_state()
    for augment in (*THEIRS, CutMix(5)):
        augment(images, labels, torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_no_images_stay_none():
    empty = torch.empty(0, 3, 4, 4)
    assert TrivialAugment()(empty, torch.empty(0), torch.Generator())[0].shape == empty.shape


def test_bytes_are_rounded_and_clipped():
    values = torch.tensor([-3.0, -0.4, 0.5, 1.5, 254.6, 300.0])
    assert as_bytes(values).tolist() == [0, 0, 0, 2, 255, 255]
    assert share_clipped(values) == pytest.approx(2 / 6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: TrivialAugment(bins=1), "bins must be an integer, 2 or more; got 1"),
        (lambda: RandAugment(operations=0), "operations"),
        (lambda: RandAugment(magnitude=31), "magnitude must be an integer, 0 to 30"),
        (lambda: AugMix(severity=11), "severity"),
        (lambda: AugMix(width=True), "width"),
        (lambda: CutMix(0), "num_classes"),
        (lambda: CutMix(3, alpha=0), "alpha"),
        (lambda: Adversarial(torch.nn.Identity(), epsilon=0), "epsilon"),
        (lambda: Adversarial(torch.nn.Identity(), steps=0), "steps"),
        (lambda: Distilled(torch.nn.Identity(), 3, weight=0), "weight"),
        (lambda: Distilled(torch.nn.Identity(), 3, temperature=-1), "temperature"),
    ],
)
def test_numbers_out_of_range_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_teachers_probabilities_are_mixed_into_labels_and_images_stay(torch_rng):
    teacher = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(189, 5)
    )
    images, labels = batch(6, torch_rng)
    augment = Distilled(teacher, 5, weight=0.3, temperature=2.0)
    same, targets = augment(images, labels, torch.Generator())
    assert same is images
    logits = images.double().flatten(1) @ teacher[2].weight.double().T + teacher[2].bias.double()
    wanted = 0.3 * torch.softmax(logits / 2.0, dim=1)
    wanted[torch.arange(6), labels] += 0.7
    assert torch.allclose(targets.double(), wanted, atol=1e-5)
    assert teacher.training
    assert not targets.requires_grad
    both = Compose((Classical(), augment))
    assert describe_part(both)["parts"]["1"] == {
        "class": "Distilled",
        "num_classes": 5,
        "weight": 0.3,
        "temperature": 2.0,
    }


@pytest.mark.parametrize("steps", [1, 3])
def test_attacked_batches_raise_the_loss_of_the_network_and_leave_it_alone(steps, torch_rng):
    torch.manual_seed(4)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(4 * 7 * 5, 5),
    )
    images, labels = batch(7, torch_rng)
    clipped = images.clamp(0, 255)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    augment = Adversarial(model, epsilon=5.0, steps=steps)
    attacked, same = augment(images, labels, torch.Generator().manual_seed(2))
    assert same is labels
    assert float((attacked - clipped).abs().max()) <= 5.0 + 1e-3
    assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 255
    assert model.training
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    model.eval()
    losses = torch.nn.CrossEntropyLoss(reduction="none")
    with torch.no_grad():
        assert float((losses(model(attacked), labels) - losses(model(clipped), labels)).mean()) > 0
    again, _ = augment(images, labels, torch.Generator().manual_seed(2))
    assert torch.equal(again, attacked)
