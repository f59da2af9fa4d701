"""One door to every data set: read into memory, or opened to be read piece by piece."""

from __future__ import annotations

import difflib
from pathlib import Path

from sign_ext.data.datasets.root import find_root
from sign_ext.data.formats.webdataset import compressed_in, is_tar, tars_in
from sign_ext.data.image_set import ImageSet
from sign_ext.data.lazy import LazyDataset
from sign_ext.data.source import ImageSource
from sign_ext.data.splits import Splits, SubsetSpec

# One door to the sets that only test a network: images of its classes from elsewhere.


OOD_NAMES: tuple[str, ...] = ("tiny_imagenet", "digits_shifted")
SYNSETS: tuple[str, ...] = ("paper", "all")


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
            those trained on the digits: a stand-in that needs no files.
        root: folder of the files that ``"tiny_imagenet"`` reads; by default the environment
            variable SIGN_EXT_DATA.
        synsets: of Tiny ImageNet, ``"paper"`` for the 643 images of Table 3 as far as they can be
            reconstructed, or ``"all"`` for 10,899 images of 20 synsets. The digits have no choice.
        image_size: height and width of the images; None for 32.

    Returns:
        uint8 images (N, 3, H, W) in 0–255 with the class names and labels of the training set.

    Raises:
        FileNotFoundError: missing files; the message lists those accepted.
        ModuleNotFoundError: a library of ``pip install 'sign-ext[experiments]'`` is missing.
        ValueError: an unknown name or choice, a damaged file, or a size that means nothing.

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

        folder = find_root(root, name, ACCEPTED)
        return load_tiny_imagenet(folder, synsets=synsets, image_size=image_size)
    if name == "digits_shifted":
        from sign_ext.data.datasets.digits import load_digits_shifted

        return load_digits_shifted(image_size)
    close = difflib.get_close_matches(str(name), OOD_NAMES, n=1)
    raise ValueError(
        f"name={str(name)!r} is no out-of-distribution test set; accepted: {', '.join(OOD_NAMES)}."
        + (f" Did you mean {close[0]!r}?" if close else "")
    )


DATA_NAMES: tuple[str, ...] = ("digits", "cifar10", "isic2017", "digits_imbalanced")
# What a path may lead to, for messages; docs/data.md says more.
PATHS = (
    "the path of a folder of images (one folder a class), of .tar files in WebDataset's manner "
    "(one file, a folder of them, or photos-{000..013}.tar), or of a folder that Hugging Face's "
    "save_to_disk wrote"
)


def load_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
) -> Splits:
    """Read a data set into memory, by its name or by the path of files.

    Which image belongs to training, validation or test is fixed and does not depend on ``seed``;
    ``seed`` chooses the subsets that ``train_size`` and ``test_size`` ask for. The validation set
    is never cut.

    Args:
        name: ``"digits"``, ``"cifar10"``, ``"isic2017"``, ``"digits_imbalanced"`` (a stand-in for
            ISIC-2017 that needs no files), or a path (write ``./digits`` for a folder that has the
            name of a data set): a folder of images, .tar files in WebDataset's manner, or a folder
            that Hugging Face's ``save_to_disk`` wrote.
        root: folder of the files that ``"cifar10"`` and ``"isic2017"`` read; by default the
            environment variable SIGN_EXT_DATA. The others need none.
        seed: 0 … 2³² − 1.
        train_size: number of training images, a subset with the classes' proportions; None for all.
        test_size: the same for the test set.
        image_size: height and width of the images; None for the data set's own (299 for
            ``"isic2017"``, else 32).

    Returns:
        Training, validation and test set, uint8 images (N, 3, H, W) in 0–255.

    Raises:
        FileNotFoundError: missing files; the message lists those accepted.
        ModuleNotFoundError: a library of ``pip install 'sign-ext[experiments]'`` (or
            ``[huggingface]``) is missing.
        ValueError: an unknown name, a damaged file, or a size that cannot be had.

    Example:
        >>> splits = load_data("digits", train_size=100)
        >>> len(splits.train), splits.image_shape
        (100, (3, 32, 32))
    """
    return _find(name, root, SubsetSpec(train_size, test_size, seed, image_size)).read()


def open_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    split: str = "train",
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
) -> ImageSource:
    """Open one split of a data set, whose images are then read piece by piece.

    Read whole it is what `load_data` gives: the same images in the same order.

    Args:
        name: as for `load_data`.
        root: as for `load_data`.
        split: ``"train"``, ``"validation"``, ``"test"``, or ``"all"``: the three in this order.
        seed: as for `load_data`.
        train_size: as for `load_data`.
        test_size: as for `load_data`.
        image_size: as for `load_data`.

    Returns:
        The source; its labels, names and fingerprint are known, no image was decoded.

    Raises:
        FileNotFoundError: missing files; the message lists those accepted.
        ModuleNotFoundError: as for `load_data`.
        ValueError: an unknown name or split, files that cannot be listed, or a size that cannot be
            had. An image that cannot be decoded is an error when it is read.

    Example:
        >>> source = open_data("digits", split="all", image_size=16)
        >>> [len(source.read(start, start + 599)) for start in range(0, len(source), 599)]
        [599, 599, 599]
    """
    return _find(name, root, SubsetSpec(train_size, test_size, seed, image_size)).source(split)


def is_path(name: str) -> bool:
    """Tell whether a name is a path that `load_data` would look at, not a data set's name.

    Args:
        name: as for `load_data`.

    Example:
        >>> is_path("photos-{000..013}.tar"), is_path("digits")
        (True, False)
    """
    return name not in (*DATA_NAMES, *OOD_NAMES) and (Path(name).is_dir() or is_tar(name))


def _find(name: str | Path, root: str | Path | None, wanted: SubsetSpec) -> LazyDataset:
    """Find a data set and list it."""
    if name == "digits":
        from sign_ext.data.datasets.digits import open_digits

        return open_digits(wanted)
    if name == "cifar10":
        from sign_ext.data.datasets.cifar10 import ACCEPTED, open_cifar10

        return open_cifar10(find_root(root, name, ACCEPTED), wanted)
    if name == "isic2017":
        from sign_ext.data.datasets.isic2017 import ACCEPTED, open_isic2017

        return open_isic2017(find_root(root, name, ACCEPTED), wanted)
    if name == "digits_imbalanced":
        from sign_ext.data.datasets.digits import open_digits_imbalanced

        return open_digits_imbalanced(wanted)
    if name in OOD_NAMES:
        raise ValueError(
            f"name={name!r} is a test set without training images; accepted: "
            f"{', '.join(DATA_NAMES)}, or {PATHS}. Load it with load_ood."
        )
    if Path(name).is_dir():
        return _find_in_folder(Path(name), wanted)
    if is_tar(str(name)):
        from sign_ext.data.formats.webdataset import open_tars

        return open_tars(name, wanted)
    close = difflib.get_close_matches(str(name), DATA_NAMES, n=1)
    raise ValueError(
        f"name={str(name)!r} is neither a data set nor a folder or tar that is there; accepted: "
        f"{', '.join(DATA_NAMES)}, or {PATHS}." + (f" Did you mean {close[0]!r}?" if close else "")
    )


def _find_in_folder(folder: Path, wanted: SubsetSpec) -> LazyDataset:
    """Tell by what a folder holds which kind of data it is, and list it."""
    from sign_ext.data.formats import huggingface
    from sign_ext.data.formats.image_folder import folders, open_image_folder
    from sign_ext.data.formats.webdataset import open_tars

    if huggingface.is_saved(folder):
        return huggingface.open_saved(folder, wanted)
    below = folders(folder)
    if tars_in(folder) or any(tars_in(folder / name) for name in below):
        return open_tars(folder, wanted)
    if not below:
        packed = compressed_in(folder)
        raise ValueError(
            f"{folder} has no class folders, no tars and no {' or '.join(huggingface.MARKS)}"
            + (f", only compressed files such as {packed[0].name}: unpack them" if packed else "")
            + f"; accepted: {PATHS}."
        )
    return open_image_folder(folder, wanted)
