"""The stand-in for ISIC-2017: parts of the digits, as imbalanced as melanomas are."""

from __future__ import annotations

import pytest

from sign_ext.data import ImageSet, fingerprint, load_data


def keys(images: ImageSet) -> dict[bytes, int]:
    pixels = images.images.numpy()
    return {
        image.tobytes(): label for image, label in zip(pixels, images.labels.tolist(), strict=True)
    }


def test_parts_of_the_digits() -> None:
    digits, splits = load_data("digits"), load_data("digits_imbalanced")
    for part, share in (("train", 374 / 2000), ("validation", 30 / 150), ("test", 117 / 600)):
        whole, chosen = keys(getattr(digits, part)), keys(getattr(splits, part))
        # scikit-learn's digits are all different, and so is what is made of them.
        assert len(chosen) == len(getattr(splits, part))
        assert {image: int(whole[image] == 8) for image in chosen} == chosen
        eights = sum(chosen.values())
        assert eights == list(whole.values()).count(8)
        # No whole number of others comes closer to the share.
        wanted = eights / share - eights
        assert abs(len(chosen) - eights - wanted) <= 0.5
        others = [whole[image] for image, positive in chosen.items() if not positive]
        every = [digit for digit in whole.values() if digit != 8]
        for digit in {*every}:
            expected = len(others) * every.count(digit) / len(every)
            assert abs(others.count(digit) - expected) < 1
    assert splits.class_names == ("other", "eight")
    assert splits.name == "digits_imbalanced"
    assert splits.note.startswith("stand-in for ISIC-2017")


def test_sizes_and_seeds() -> None:
    one, two = (
        load_data("digits_imbalanced", train_size=53, test_size=41, image_size=19, seed=seed)
        for seed in (1, 2)
    )
    assert one.image_shape == (3, 19, 19)
    assert one.train.labels.bincount().tolist() == [43, 10]
    assert one.test.labels.bincount().tolist() == [33, 8]
    assert fingerprint(one.train) != fingerprint(two.train)
    assert fingerprint(one.validation) == fingerprint(two.validation)
    with pytest.raises(ValueError, match=r"train_size=700 .* 1 to 652"):
        load_data("digits_imbalanced", train_size=700)
