"""Augmentations in sequence, and what a run's identity says of them."""

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
    given = torch.rand(5, 4, generator=torch_rng)
    assert Classical()(images, given, torch_rng)[1] is given


def test_without_parts_the_batch_itself(torch_rng):
    images, labels = batch(torch_rng)
    got, same = Compose(())(images, labels, torch_rng)
    assert got is images
    assert same is labels
    assert not Compose((Classical(),)).mixes_labels


@pytest.mark.parametrize("part", [Classical, "classical", None])
def test_what_is_no_augmentation_is_named(part):
    with pytest.raises(TypeError, match=r"parts\[1\] must be an augmentation"):
        Compose((Classical(), part))


def test_a_runs_identity_names_the_parts_and_their_options():
    from sign_ext.training.run_folder import describe_part

    told = describe_part(Compose((NoAugment(), Classical(max_shift=0.05), Mixup(7, 0.3))))
    assert json.loads(json.dumps(told)) == told
    assert told["class"] == "Compose"
    assert told["parts"]["0"] == {"class": "NoAugment"}
    assert told["parts"]["1"]["class"] == "Classical"
    assert told["parts"]["1"]["max_shift"] == 0.05
    assert told["parts"]["2"] == {"class": "Mixup", "num_classes": 7, "alpha": 0.3}
