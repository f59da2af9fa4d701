"""mixup against torchvision's own, and against λ·p + (1 − λ)·p' written out."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from sign_ext.augment import Augment, Classical, Mixup


def batch(n, generator, classes=5):
    images = torch.rand(n, 3, 7, 9, generator=generator) * 400 - 70  # as SIGN's, beyond 0–255
    return images, torch.randint(classes, (n,), generator=generator)


def drawn_lambda(images, mixed):
    """Solve mixed = λ·p + (1 − λ)·p' for λ, by least squares in float64."""
    p, q = images.double(), images.double().roll(1, 0)
    return float(((mixed.double() - q) * (p - q)).sum() / (p - q).square().sum())


def test_is_torchvisions_for_the_seed_that_is_drawn(torch_rng):
    images, labels = batch(6, torch_rng)
    generator = torch.Generator().manual_seed(11)
    mixed, targets = Mixup(5, alpha=0.4)(images, labels, generator)
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator.manual_seed(11))))
    wanted, wanted_targets = v2.MixUp(alpha=0.4, num_classes=5)(images, labels)
    assert torch.equal(mixed, wanted)
    assert torch.equal(targets, wanted_targets)


def test_images_and_one_hot_labels_are_blended_with_the_neighbour(torch_rng):
    images, labels = batch(5, torch_rng)
    before = images.clone()
    mixed, targets = Mixup(5)(images, labels, torch_rng)
    share = drawn_lambda(images, mixed)
    assert 0 <= share <= 1
    pixels, one_hot = images.double().numpy(), np.eye(5)[labels.numpy()]
    for i in range(5):
        wanted = share * pixels[i] + (1 - share) * pixels[i - 1]
        np.testing.assert_allclose(mixed[i].numpy(), wanted, atol=1e-4)
        wanted = share * one_hot[i] + (1 - share) * one_hot[i - 1]
        np.testing.assert_allclose(targets[i].numpy(), wanted, atol=1e-5)
    assert targets.dtype == mixed.dtype == torch.float32
    assert torch.equal(images, before)


def test_lambda_follows_the_beta_distribution():
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
    shares = [float(Mixup(2, 0.5)(images, labels, generator)[0][1]) for _ in range(400)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.var(shares) == pytest.approx(1 / 8, abs=0.02)  # Beta(α, α): 1 / (4·(2α + 1))


def test_one_image_is_blended_with_itself(torch_rng):
    images, _ = batch(1, torch_rng)
    mixed, targets = Mixup(3)(images, torch.tensor([2]), torch_rng)
    torch.testing.assert_close(mixed, images)
    torch.testing.assert_close(targets, torch.tensor([[0.0, 0.0, 1.0]]))


def test_the_generator_alone_decides_and_the_global_one_is_untouched(torch_rng):
    images, labels = batch(4, torch_rng)
    state = torch.random.get_rng_state()
    first, _ = Mixup(5)(images, labels, torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    again, _ = Mixup(5)(images, labels, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)
    Mixup(5)(images, labels, generator)
    next_one, _ = Mixup(5)(images, labels, generator)
    assert torch.equal(first, again)
    assert not torch.equal(first, next_one)


def test_probabilities_are_taken_as_they_are(torch_rng):
    images, _ = batch(3, torch_rng)
    probabilities = torch.softmax(torch.randn(3, 5, generator=torch_rng), dim=1)
    mixed, targets = Mixup(5)(images, probabilities, torch_rng)
    share = drawn_lambda(images, mixed)
    torch.testing.assert_close(
        targets, share * probabilities + (1 - share) * probabilities.roll(1, 0)
    )


def test_is_an_augment():
    assert isinstance(Mixup(2), Augment)
    assert Mixup.mixes_labels
    assert not hasattr(Classical, "mixes_labels")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_classes": 0}, "num_classes.*at least 1; got 0"),
        ({"num_classes": 2.0}, "num_classes.*2.0"),
        ({"num_classes": 2, "alpha": 0}, "alpha.*above 0; got 0"),
        ({"num_classes": 2, "alpha": float("nan")}, "alpha.*nan"),
        ({"num_classes": 2, "alpha": "1"}, "alpha.*'1'"),
    ],
)
def test_values_out_of_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Mixup(**values)


@pytest.mark.gpu
def test_generator_on_the_cpu_gives_the_same_images_on_the_gpu(torch_rng):
    images, labels = batch(8, torch_rng)
    state = torch.cuda.get_rng_state()
    on_gpu, targets = Mixup(5)(images.cuda(), labels.cuda(), torch.Generator().manual_seed(1))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    on_cpu, wanted = Mixup(5)(images, labels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-3, rtol=0)
    torch.testing.assert_close(targets.cpu(), wanted)
