"""What of a data set without a published split is for training, validation and test."""

from __future__ import annotations

import numpy as np

from sign_ext.data.pool import Parts, Pool
from sign_ext.data.stratify import SPLIT_SEED, stratified_choice, three_way_split

VALIDATION_SHARE = 0.15
# A label beyond is a slip; as many class names would be made up for it.
LARGEST_LABEL = 999_999


def parts_of(pools: dict[str, Pool], names: tuple[str, ...], where: str) -> Parts:
    """Make training, validation and test part of what was found.

    Args:
        pools: one pool called ``""`` to be divided, or pools called ``"train"``, ``"test"`` and, if
            there is one, ``"validation"`` or ``"val"``.
        names: one name a class.
        where: what an error calls the data set.

    Returns:
        Training, validation and test part.

    Raises:
        ValueError: too few images of a class.
    """
    if "" in pools:
        check_labels(pools[""].labels, names, 3, where)
        return divided(pools[""])
    held = pools.get("validation", pools.get("val"))
    if held is None:
        check_labels(pools["train"].labels, names, 2, f"{where}, train")
    return given(pools["train"], held, pools["test"])


def divided(pool: Pool) -> Parts:
    """Split one pool 70/15/15 within each class, always in the same way.

    Args:
        pool: at least three images of each class that there is.

    Returns:
        Training, validation and test part.
    """
    train, validation, test = three_way_split(pool.labels)
    return (pool, train), (pool, validation), (pool, test)


def given(train: Pool, validation: Pool | None, test: Pool) -> Parts:
    """Keep parts as they were given; hold out 15% of the training images if one is missing.

    Args:
        train: at least two images of each class that there is, if there is no validation pool.
        validation: as given, or None.
        test: as given.

    Returns:
        Training, validation and test part.
    """
    every, test_part = np.arange(len(train.labels)), (test, np.arange(len(test.labels)))
    if validation is not None:
        return (train, every), (validation, np.arange(len(validation.labels))), test_part
    count = max(len(np.unique(train.labels)), round(VALIDATION_SHARE * len(every)))
    held_out = stratified_choice(train.labels, count, seed=SPLIT_SEED)
    return (train, np.setdiff1d(every, held_out)), (train, held_out), test_part


def check_labels(labels: np.ndarray, names: tuple[str, ...], at_least: int, where: str) -> None:
    """Raise ValueError if a class has some images, but too few to be split.

    Args:
        labels: int64 (N,).
        names: one name a class.
        at_least: how many images of a class there must be, if there are any.
        where: what the message calls the labels' source.
    """
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        if count < at_least:
            raise ValueError(
                f"class {names[label]!r} has {count} images in {where}; accepted: at least "
                f"{at_least}, to be split by class. Add images, or give train, validation and "
                "test apart."
            )
