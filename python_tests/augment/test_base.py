"""No augmentation, several in sequence, and how a run records them."""

import json

import pytest
import torch

from sign_ext.augment import Augment, Classical, Compose, Mixup, NoAugment


def batch(generator):
    return torch.rand(5, 3, 9, 7, generator=generator) * 255, torch.tensor([2, 0, 1, 1, 0])


def test_parts_are_applied_from_left_to_right_with_one_generator(torch_rng):
    images, labels = batch(torch_rng)
    first, second = Classical(max_shift=0.3), Classical(horizontal_flip=False)
    got, same = Compose((first, second))(images, labels, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    wanted, _ = second(*first(images, labels, generator), generator)
    assert torch.equal(got, wanted)
    assert same is labels
    other, _ = Compose((second, first))(images, labels, torch.Generator().manual_seed(4))
    assert not torch.equal(got, other)


def test_labels_are_mixed_last(torch_rng):
    images, labels = batch(torch_rng)
    both = Compose([Classical(), Mixup(3)])
    mixed, targets = both(images, labels, torch_rng)
    assert mixed.shape == images.shape
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(5))
    assert both.mixes_labels
    assert isinstance(both, Augment)
    for wrong in ((Mixup(3), Classical()), (both, NoAugment())):
        with pytest.raises(ValueError, match=r"parts\[0\] is \w+, which mixes labels.*to the end"):
            Compose(wrong)


def test_classical_passes_probabilities_through(torch_rng):
    images, _ = batch(torch_rng)
    probabilities = torch.rand(5, 4, generator=torch_rng)
    assert Classical()(images, probabilities, torch_rng)[1] is probabilities


def test_without_parts_the_batch_is_returned(torch_rng):
    images, labels = batch(torch_rng)
    got, same = Compose(())(images, labels, torch_rng)
    assert got is images
    assert same is labels
    assert not Compose((Classical(),)).mixes_labels


@pytest.mark.parametrize("part", [Classical, "classical", None])
def test_anything_but_an_augmentation_is_refused(part):
    with pytest.raises(TypeError, match=r"parts\[1\] must be an augmentation"):
        Compose((Classical(), part))


def test_a_run_records_the_parts_and_their_options():
    from sign_ext.training.run_folder import describe_part

    recorded = describe_part(Compose((NoAugment(), Classical(max_shift=0.05), Mixup(7, 0.3))))
    assert json.loads(json.dumps(recorded)) == recorded
    assert recorded["class"] == "Compose"
    assert recorded["parts"]["0"] == {"class": "NoAugment"}
    assert recorded["parts"]["1"]["class"] == "Classical"
    assert recorded["parts"]["1"]["max_shift"] == 0.05
    assert recorded["parts"]["2"] == {"class": "Mixup", "num_classes": 7, "alpha": 0.3}


def test_no_augment_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    images = torch.rand(2, 3, 4, 4)
    assert NoAugment()(images, torch.zeros(2), generator)[0] is images
    assert torch.equal(generator.get_state(), state)
