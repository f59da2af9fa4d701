"""Augmentations by name."""

import pytest
import torch

from sign_ext.augment import (
    AUGMENT_NAMES,
    Augment,
    Classical,
    DeepAugment,
    Mixup,
    NoAugment,
    Operation,
    Policy,
    SubPolicy,
    build_augment,
    save_policies,
)

POLICIES = (Policy((SubPolicy(Operation("rotate", 0.5), Operation("noise", 0.1)),) * 5),)
NEEDED = {
    "mixup": {"num_classes": 4},
    "cutmix": {"num_classes": 4},
    "deepaugment": {"policies": POLICIES},
}


@pytest.mark.parametrize("name", AUGMENT_NAMES)
def test_every_name_builds_an_augment_that_keeps_shapes(name):
    augment = build_augment(name, **NEEDED.get(name, {}))
    assert isinstance(augment, Augment)
    images, labels = torch.rand(3, 3, 9, 7) * 255, torch.tensor([2, 0, 1])
    got, same = augment(images, labels, torch.Generator().manual_seed(0))
    assert got.shape == images.shape
    assert same.shape == (3, 4) if name in ("mixup", "cutmix") else torch.equal(same, labels)


def test_names_give_their_classes_and_options(tmp_path):
    assert build_augment("none") == NoAugment()
    assert build_augment("classical", max_shift=0.05) == Classical(max_shift=0.05)
    assert build_augment("mixup", num_classes=7, alpha=0.2) == Mixup(7, 0.2)
    assert build_augment("deepaugment", policies=POLICIES) == DeepAugment(POLICIES)
    save_policies(tmp_path / "p.yaml", POLICIES)
    for path in (tmp_path / "p.yaml", str(tmp_path / "p.yaml")):
        assert build_augment("deepaugment", policies=path) == DeepAugment(POLICIES)


@pytest.mark.parametrize(
    ("name", "option"), [("mixup", "num_classes"), ("deepaugment", "policies")]
)
def test_a_missing_option_is_named(name, option):
    with pytest.raises(ValueError, match=f"'{name}' needs the option {option}: build_augment"):
        build_augment(name)


def test_unknown_names_and_options_get_the_closest():
    with pytest.raises(ValueError, match=r"'clasical'.*accepted: none, classical.*'classical'"):
        build_augment("clasical")
    with pytest.raises(ValueError, match=r"'max_shfit'.*max_rotation.*mean 'max_shift'"):
        build_augment("classical", max_shfit=0.1)
    with pytest.raises(
        ValueError, match="'max_shift' is not an option of none; accepted: no options"
    ):
        build_augment("none", max_shift=0.1)
