"""Tiny ImageNet's images of five of CIFAR-10's classes: Table 3's out-of-distribution test."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from sign_ext.data import tiny_imagenet_files as files
from sign_ext.data.datasets.cifar10 import CLASS_NAMES
from sign_ext.data.decode import decode_exact, is_grey
from sign_ext.data.image_set import ImageSet
from sign_ext.data.resize import average_areas, resize_images

# Those of Tiny ImageNet's 200 synsets that are one of CIFAR-10's classes.
CLASS_SYNSETS = {
    # beach wagon, convertible, limousine, sports car
    "automobile": ("n02814533", "n03100240", "n03670208", "n04285008"),
    # goose, black stork, king penguin, albatross
    "bird": ("n01855672", "n02002724", "n02056570", "n02058221"),
    # tabby, Persian, Egyptian, cougar
    "cat": ("n02123045", "n02123394", "n02124075", "n02125311"),
    # chihuahua, Yorkshire terrier, golden retriever, Labrador, German shepherd, standard poodle
    "dog": ("n02085620", "n02094433", "n02099601", "n02099712", "n02106662", "n02113799"),
    # bullfrog, tailed frog
    "frog": ("n01641577", "n01644900"),
}
# The paper gives its counts and no synsets. Without greyscale images, only validation images of
# these classes add up to them: sports car; goose, stork, albatross; tabby; all dogs; all frogs.
# The counts alone would also allow the convertible, the king penguin, and the Egyptian cat or the
# cougar, each in the place of its like.
PAPER_SYNSETS = {
    "automobile": ("n04285008",),
    "bird": ("n01855672", "n02002724", "n02058221"),
    "cat": ("n02123045",),
    "dog": CLASS_SYNSETS["dog"],
    "frog": CLASS_SYNSETS["frog"],
}
PAPER_COUNTS = {"automobile": 49, "bird": 146, "cat": 50, "dog": 298, "frog": 100}
CHOICES = {"paper": (("val",), PAPER_SYNSETS), "all": (("train", "val"), CLASS_SYNSETS)}

# Of each synset, greyscale ones included.
IMAGES = {"train": 500, "val": 50}
ORIGINAL_SIZE = 64
DEFAULT_SIZE = 32


def load_tiny_imagenet(
    root: Path, *, synsets: str = "paper", image_size: int | None = None
) -> ImageSet:
    """Read the images of Tiny ImageNet that show one of CIFAR-10's classes (Table 3).

    Greyscale images are left out, as the paper's counts show that they were. Images are reduced
    by averaging areas (four pixels become one at 32×32), or enlarged bilinearly.

    Args:
        root: folder with one of the accepted forms of the data (docs/data.md).
        synsets: ``"paper"`` for the 643 images of the paper's Table 3, as far as they can be
            reconstructed; ``"all"`` for the training and validation images of all 20 synsets.
        image_size: height and width in pixels; None for CIFAR-10's 32.

    Returns:
        Images with CIFAR-10's ten class names and labels, in the order of class, synset and name;
        five of the classes have none.

    Raises:
        FileNotFoundError: the files are not there; the message lists those accepted.
        ValueError: a file that is damaged or not the published one.
    """
    splits, chosen = CHOICES[synsets]
    classes = {wnid: name for name, wnids in chosen.items() for wnid in wnids}
    form, path = files.find_format(root)
    if form == "original":
        found = files.read_original(path, splits, classes)
    else:
        found = files.read_parquet(path, splits, classes)
    counts = Counter((each.split, each.wnid) for each in found)
    for split in splits:
        for wnid in classes:
            if counts[split, wnid] != IMAGES[split]:
                raise ValueError(
                    f"{path} has {counts[split, wnid]} images of {wnid} in {split}; accepted: "
                    f"{IMAGES[split]}. It is incomplete or changed; get it from {files.HOME}."
                )
    found = [each for each in found if not is_grey(each.data, each.where, "JPEG")]
    found.sort(key=lambda each: (CLASS_NAMES.index(classes[each.wnid]), each.wnid, each.file))
    if synsets == "paper":
        _check_paper_counts(Counter(classes[each.wnid] for each in found), path)
    images = decode_exact(
        [each.data for each in found],
        [each.where for each in found],
        ORIGINAL_SIZE,
        "JPEG",
        # One thread: images this small spend their time under Python's lock, so more gain nothing.
        threads=1,
    )
    size = image_size or DEFAULT_SIZE
    resize = average_areas if size <= ORIGINAL_SIZE else resize_images
    labels = [CLASS_NAMES.index(classes[each.wnid]) for each in found]
    name = f"tiny_imagenet/{synsets}"
    return ImageSet(resize(images, size), torch.tensor(labels), CLASS_NAMES, name)


def _check_paper_counts(counts: Counter[str], path: Path) -> None:
    """Raise ValueError unless there are as many colour images of each class as in the paper."""
    if dict(counts) != PAPER_COUNTS:
        raise ValueError(
            f"{path} has {dict(counts)} colour images; accepted: {PAPER_COUNTS}, the paper's. Its "
            f"images were changed; get them from {files.HOME}."
        )
