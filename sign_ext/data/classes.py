"""Names of classes: compared, matched to a network's, and made unique for tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from sign_ext.data.image_set import ImageSet
from sign_ext.eval_state import unwrap

# Differences that a message lists before it only counts them.
SHOWN = 8


def match_classes(
    found: Sequence[str], wanted: Sequence[str], places: tuple[str, str]
) -> np.ndarray | None:
    """Find the label that a network gives to each class of a data set, by the classes' names.

    Args:
        found: the data set's names, in label order.
        wanted: the network's.
        places: what a message calls the two, such as ``("photos", "the network")``.

    Returns:
        int64 (len(found),): each class's position in `wanted`; None if the names are the same in
        the same order, so that labels can stay as they are.

    Raises:
        ValueError: a class that `wanted` lacks, or a name that occurs twice in other places.

    Example:
        >>> match_classes(("bee", "ant"), ("ant", "bee", "cat"), ("photos", "the network"))
        array([1, 0])
    """
    if tuple(found) == tuple(wanted):
        return None
    position = {name: label for label, name in enumerate(wanted)}
    unique = len(position) == len(wanted) and len(set(found)) == len(found)
    if not unique or any(name not in position for name in found) or _only_numbers(found):
        raise ValueError(class_differences(found, wanted, places))
    return np.asarray([position[name] for name in found], dtype=np.int64)


def class_differences(found: Sequence[str], wanted: Sequence[str], places: tuple[str, str]) -> str:
    """Describe how two lists of class names differ.

    Args:
        found: names in label order.
        wanted: names in label order.
        places: what the two are called.

    Example:
        >>> class_differences(("ant", "zebu"), ("ant", "bee"), ("a", "b"))
        'a and b have different classes: label 1 is zebu in a, bee in b'
    """
    here, there = places
    lines = [
        f"label {label} is {a} in {here}, {b} in {there}"
        for label, (a, b) in enumerate(zip(found, wanted, strict=False))
        if a != b
    ]
    lines += [f"label {i} is {found[i]} in {here} only" for i in range(len(wanted), len(found))]
    lines += [f"label {i} is {wanted[i]} in {there} only" for i in range(len(found), len(wanted))]
    shown = lines[:SHOWN] + [f"and {len(lines) - SHOWN:,} more"] * (len(lines) > SHOWN)
    return f"{here} and {there} have different classes: {'; '.join(shown)}"


def with_classes(
    images: ImageSet, class_names: Sequence[str], network: str, cure: str = ""
) -> ImageSet:
    """Give images the labels of a network's classes, by the classes' names.

    Args:
        images: whose classes are all among `class_names`, in any order.
        class_names: the network's, in label order.
        network: what a message calls the network.
        cure: ends the message.

    Returns:
        The set itself if its classes are the network's; else one with the network's class names
        that shares the images' memory.

    Raises:
        ValueError: other classes; the message shows the difference.
    """
    try:
        labels = match_classes(images.class_names, class_names, (images.name, network))
    except ValueError as error:
        raise ValueError(f"{error}. {cure}".rstrip()) from error
    if labels is None:
        return images
    relabelled = torch.from_numpy(labels)[images.labels]
    return ImageSet(images.images, relabelled, tuple(class_names), images.name)


def remember_classes(model: nn.Module, class_names: Sequence[str]) -> None:
    """Note a network's class names as its attribute ``class_names``.

    Args:
        model: the network; a wrapper around it is looked through.
        class_names: one name an output, in order.
    """
    unwrap(model).class_names = tuple(class_names)  # type: ignore[assignment]


def remembered_classes(model: nn.Module) -> tuple[str, ...] | None:
    """Return what `remember_classes` noted; None for a network that knows no class names.

    Args:
        model: the network; a wrapper around it is looked through.
    """
    names = getattr(unwrap(model), "class_names", None)
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def with_classes_of(model: nn.Module, images: ImageSet) -> ImageSet:
    """Give images the labels of a network's classes, if the network knows their names.

    Args:
        model: the network.
        images: its classes are among the network's.

    Raises:
        ValueError: other classes; the message shows the difference.
    """
    names = remembered_classes(model)
    if names is None:
        return images
    cure = (
        "Use images of the network's classes, or, if the labels mean the same, set "
        "model.class_names to the names of the images' classes."
    )
    return with_classes(images, names, "the network", cure)


def unique_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """Number the names that occur twice, so that each can be a key.

    Args:
        class_names: one name a class.

    Example:
        >>> unique_names(("dog", "cat", "dog"))
        ('dog', 'cat', 'dog (2)')
    """
    taken = set(class_names)
    seen: set[str] = set()
    unique = []
    for name in class_names:
        key, number = name, 1
        while key in seen or (number > 1 and key in taken):
            number += 1
            key = f"{name} ({number})"
        seen.add(key)
        unique.append(key)
    return tuple(unique)


def check_numbered(labels: np.ndarray, location: str, cure: str) -> int:
    """Check labels whose classes have no names, and return the number of classes.

    Without names a class is known by its number alone, so labels that begin at 1, or that leave
    most of the numbers out, are taken for mistakes: a network would get an output for each number.

    Args:
        labels: int64 (N,), 0 or more, N ≥ 1.
        location: what an error message calls the data set.
        cure: how the classes can be given names.

    Returns:
        The largest label + 1.

    Raises:
        ValueError: labels that do not begin at 0, or that leave out most numbers.
    """
    occurring = np.unique(labels)
    lowest, count = int(occurring[0]), int(occurring[-1]) + 1
    if lowest > 0:
        raise ValueError(
            f"{location} has labels from {lowest:,} to {count - 1:,} and no image with label 0; "
            f"accepted: labels from 0. Subtract {lowest:,} from every label, or, if the classes "
            f"below {lowest:,} exist without images, {cure}."
        )
    if count > 2 * len(occurring):
        raise ValueError(
            f"{location} has {len(occurring):,} different labels, from {lowest:,} to "
            f"{count - 1:,}, which would make {count:,} classes, most of them without images; "
            f"accepted: labels 0 to {len(occurring) - 1:,}, without gaps. Renumber them, or, if "
            f"all {count:,} classes exist, {cure}."
        )
    return count


def _only_numbers(names: Sequence[str]) -> bool:
    """Return whether names only count the classes, as those of data without names do."""
    return tuple(names) == tuple(str(number) for number in range(len(names)))
