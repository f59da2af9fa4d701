"""Augmentations by name."""

import pytest
import torch

from sign_ext.augment import AUGMENT_NAMES, Augment, Classical, NoAugment, build_augment


@pytest.mark.parametrize("name", AUGMENT_NAMES)
def test_every_name_builds_an_augment_that_keeps_shapes(name):
    augment = build_augment(name)
    assert isinstance(augment, Augment)
    images, labels = torch.rand(3, 3, 9, 7) * 255, torch.tensor([2, 0, 1])
    got, same = augment(images, labels, torch.Generator().manual_seed(0))
    assert got.shape == images.shape
    assert torch.equal(same, labels)


def test_names_give_their_classes_and_options():
    assert build_augment("none") == NoAugment()
    assert build_augment("classical", max_shift=0.05) == Classical(max_shift=0.05)


def test_no_augment_draws_nothing():
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    images = torch.rand(2, 3, 4, 4)
    assert NoAugment()(images, torch.zeros(2), generator)[0] is images
    assert torch.equal(generator.get_state(), state)


def test_unknown_names_and_options_get_the_closest():
    with pytest.raises(ValueError, match=r"'clasical'.*'classical'.*none, classical"):
        build_augment("clasical")
    with pytest.raises(ValueError, match=r"'max_shfit'.*'max_shift'.*max_rotation"):
        build_augment("classical", max_shfit=0.1)
    with pytest.raises(ValueError, match="has none"):
        build_augment("none", max_shift=0.1)
