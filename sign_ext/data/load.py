"""Every data set through one interface: read into memory, or opened and read on demand.

A data set is given by its name or by a path, whose content says which format it has.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from sign_ext.data.datasets import find_root
from sign_ext.data.decode import Decoding, OnError, check_on_error
from sign_ext.data.formats.webdataset import compressed_tars_in, tars_in
from sign_ext.data.image_set import ImageSet
from sign_ext.data.lazy import LazyDataset
from sign_ext.data.names import DATA_NAMES, OOD_NAMES, is_tar_name
from sign_ext.data.source import ImageSource
from sign_ext.data.splits import Splits, SubsetSpec

SYNSETS: tuple[str, ...] = ("paper", "all")
# The paths that are accepted, for error messages; docs/data.md says more.
_PATHS = (
    "the path of a folder of images (one folder a class), of .tar files in WebDataset format (one "
    "file, a folder of them, or photos-{000..013}.tar), or of a folder written by Hugging Face's "
    "save_to_disk"
)


def load_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    labels: str | Path | None = None,
    label_columns: Sequence[str] | None = None,
    bit_depth: int | None = None,
    max_pixels: int | None = None,
    on_error: OnError = "fail",
) -> Splits:
    """Read a data set into memory, given its name or the path of its files.

    Which image belongs to training, validation or test is fixed and does not depend on ``seed``;
    ``seed`` chooses the subsets that ``train_size`` and ``test_size`` ask for. The validation
    split is always whole.

    Args:
        name: ``"digits"``, ``"drawings"`` (generated), ``"cifar10"``, ``"isic2017"``,
            ``"digits_imbalanced"`` (a stand-in for ISIC-2017 that needs no files), or a path
            (``./digits`` for a folder with the name of a data set): a folder of images, .tar files
            in WebDataset format, or a folder written by Hugging Face's ``save_to_disk``.
        root: folder of the files of ``"cifar10"`` and ``"isic2017"``; by default the environment
            variable SIGN_EXT_DATA. The other data sets ignore it.
        seed: 0 … 2³² − 1.
        train_size: number of training images, a subset with the same class proportions; None for
            all.
        test_size: the same for the test split.
        image_size: height and width of the images; None for the data set's own (299 for
            ``"isic2017"``, else 32).
        labels: a CSV, TSV or JSON file with the labels of a folder of images.
        label_columns: in ``labels`` the columns of the file names and of the classes; None to
            guess them.
        bit_depth: 12 or 16, the bits that are used in images with more than 8 bits a channel,
            which are then scaled to 8; None refuses such images.
        max_pixels: the largest number of pixels of an image; None for Pillow's limit.
        on_error: what to do about images that cannot be read: ``"fail"``, or ``"skip"``, which
            leaves them out and lists them in ``skipped`` of the result.

    Returns:
        The training, validation and test splits, uint8 images (N, 3, H, W) in 0–255.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ModuleNotFoundError: a library of the extra ``experiments`` or
            ``huggingface`` is missing.
        UnreadableImages: images that cannot be read, a ValueError that lists all of them.
        ValueError: an unknown name, a damaged file, or a size out of range.

    Example:
        >>> splits = load_data("digits", train_size=100)
        >>> len(splits.train), splits.image_shape
        (100, (3, 32, 32))
    """
    check_on_error(on_error)
    return find_data(
        name,
        root,
        seed=seed,
        train_size=train_size,
        test_size=test_size,
        image_size=image_size,
        labels=labels,
        label_columns=label_columns,
        bit_depth=bit_depth,
        max_pixels=max_pixels,
    ).read(on_error)


def open_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    labels: str | Path | None = None,
    label_columns: Sequence[str] | None = None,
    bit_depth: int | None = None,
    max_pixels: int | None = None,
) -> ImageSource:
    """Open one split of a data set, whose images are then read on demand.

    Read whole, it gives what `load_data` gives: the same images in the same order.

    Args:
        name: as for `load_data`.
        root: as for `load_data`.
        split: ``"train"``, ``"validation"``, ``"test"``, or ``"all"``: the three in this order.
        seed: as for `load_data`.
        train_size: as for `load_data`.
        test_size: as for `load_data`.
        image_size: as for `load_data`.
        labels: as for `load_data`.
        label_columns: as for `load_data`.
        bit_depth: as for `load_data`.
        max_pixels: as for `load_data`.

    Returns:
        The source; its labels, names and fingerprint are known, and no image is decoded yet.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ModuleNotFoundError: as for `load_data`.
        ValueError: an unknown name or split, files that cannot be listed, or a size out of range.
            An image that cannot be decoded raises when it is read.

    Example:
        >>> source = open_data("digits", split="all", image_size=16)
        >>> [len(source.read(start, start + 599)) for start in range(0, len(source), 599)]
        [599, 599, 599]
    """
    return find_data(
        name,
        root,
        seed=seed,
        train_size=train_size,
        test_size=test_size,
        image_size=image_size,
        labels=labels,
        label_columns=label_columns,
        bit_depth=bit_depth,
        max_pixels=max_pixels,
    ).source(split)


def find_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    labels: str | Path | None = None,
    label_columns: Sequence[str] | None = None,
    bit_depth: int | None = None,
    max_pixels: int | None = None,
) -> LazyDataset:
    """List a data set without decoding an image: what `load_data` and `open_data` begin with.

    Args:
        name: as for `load_data`.
        root: as for `load_data`.
        seed: as for `load_data`.
        train_size: as for `load_data`.
        test_size: as for `load_data`.
        image_size: as for `load_data`.
        labels: as for `load_data`.
        label_columns: as for `load_data`.
        bit_depth: as for `load_data`.
        max_pixels: as for `load_data`.

    Returns:
        The data set; its ``summary()`` says what was found.
    """
    decoding = Decoding(bit_depth, max_pixels)
    subset = SubsetSpec(train_size, test_size, seed, image_size, decoding)
    if labels is None:
        if label_columns is not None:
            raise ValueError("label_columns needs labels, a CSV or JSON file.")
        return _find(name, root, subset)
    if name in (*DATA_NAMES, *OOD_NAMES) or not Path(name).is_dir():
        raise ValueError(
            f"labels={str(labels)!r} with name={str(name)!r}; accepted: labels of a folder of "
            "images, by its path."
        )
    from sign_ext.data.formats.labels import open_labelled_folder

    return open_labelled_folder(Path(name), Path(labels), label_columns, subset)


def load_ood(
    name: str,
    root: str | Path | None = None,
    *,
    synsets: str = "paper",
    image_size: int | None = None,
) -> ImageSet:
    """Load an out-of-distribution test set by name (Table 3).

    Args:
        name: ``"tiny_imagenet"``, for networks trained on CIFAR-10, or ``"digits_shifted"``, for
            networks trained on the digits: a stand-in that needs no files.
        root: folder of the files of ``"tiny_imagenet"``; by default the environment variable
            SIGN_EXT_DATA.
        synsets: of Tiny ImageNet, ``"paper"`` for the 643 images of Table 3 as far as they can be
            reconstructed, or ``"all"`` for 10,899 images of 20 synsets. The digits ignore it.
        image_size: height and width of the images; None for 32.

    Returns:
        uint8 images (N, 3, H, W) in 0–255 with the class names and labels of the training set.

    Raises:
        FileNotFoundError: missing files; the message lists those that are accepted.
        ModuleNotFoundError: a library of the extra ``experiments`` is missing.
        ValueError: an unknown name or ``synsets``, a damaged file, or a size out of range.

    Example:
        >>> test = load_ood("digits_shifted")
        >>> len(test), tuple(test.images.shape[1:])
        (269, (3, 32, 32))
    """
    if synsets not in SYNSETS:
        raise ValueError(f"synsets={synsets!r}; accepted: {', '.join(SYNSETS)}.")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size={image_size}; accepted: 1 or more pixels.")
    if name == "tiny_imagenet":
        from sign_ext.data.datasets.tiny_imagenet import ACCEPTED, load_tiny_imagenet

        folder = find_root(root, ACCEPTED)
        return load_tiny_imagenet(folder, synsets=synsets, image_size=image_size)
    if name == "digits_shifted":
        from sign_ext.data.datasets.digits import load_digits_shifted

        return load_digits_shifted(image_size)
    raise ValueError(
        f"name={str(name)!r} is not an out-of-distribution test set; accepted: "
        f"{', '.join(OOD_NAMES)}." + _did_you_mean(name, OOD_NAMES)
    )


def _find(name: str | Path, root: str | Path | None, subset: SubsetSpec) -> LazyDataset:
    """Find a data set by name or path, and list its images."""
    if name == "digits":
        from sign_ext.data.datasets.digits import open_digits

        return open_digits(subset)
    if name == "drawings":
        from sign_ext.data.datasets.drawings import open_drawings

        return open_drawings(subset)
    if name == "cifar10":
        from sign_ext.data.datasets.cifar10 import ACCEPTED, open_cifar10

        return open_cifar10(find_root(root, ACCEPTED), subset)
    if name == "isic2017":
        from sign_ext.data.datasets.isic2017 import ACCEPTED, open_isic2017

        return open_isic2017(find_root(root, ACCEPTED), subset)
    if name == "digits_imbalanced":
        from sign_ext.data.datasets.digits import open_digits_imbalanced

        return open_digits_imbalanced(subset)
    if name in OOD_NAMES:
        raise ValueError(
            f"name={name!r} is a test set without training images; accepted: "
            f"{', '.join(DATA_NAMES)}, or {_PATHS}. Load it with load_ood."
        )
    if Path(name).is_dir():
        return _find_in_folder(Path(name), subset)
    if is_tar_name(str(name)):
        from sign_ext.data.formats.webdataset import open_webdataset

        return open_webdataset(name, subset)
    raise ValueError(
        f"name={str(name)!r} is neither a data set nor an existing folder or tar; accepted: "
        f"{', '.join(DATA_NAMES)}, or {_PATHS}." + _did_you_mean(name, DATA_NAMES)
    )


def _find_in_folder(folder: Path, subset: SubsetSpec) -> LazyDataset:
    """Recognise the format of a folder by its content, and list its images."""
    from sign_ext.data.formats.huggingface import MARKERS, is_huggingface, open_huggingface
    from sign_ext.data.formats.image_folder import open_image_folder
    from sign_ext.data.formats.webdataset import open_webdataset
    from sign_ext.data.listing import has_images, subfolders

    if is_huggingface(folder):
        return open_huggingface(folder, subset)
    names = subfolders(folder)
    if tars_in(folder) or any(tars_in(folder / name) for name in names):
        return open_webdataset(folder, subset)
    if not names and not has_images(folder):
        compressed = compressed_tars_in(folder)
        hint = f" Decompress {compressed[0].name} first." if compressed else ""
        raise ValueError(
            f"{folder} has no class folders, no tars and no {' or '.join(MARKERS)}; accepted: "
            f"{_PATHS}.{hint}"
        )
    return open_image_folder(folder, subset)


def _did_you_mean(name: str | Path, accepted: Sequence[str]) -> str:
    """Return a hint that ends an error message; empty if no accepted name is similar."""
    close = difflib.get_close_matches(str(name), accepted, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
