"""One door to the sets that only test a network: images of its classes from elsewhere."""

from __future__ import annotations

import difflib
from pathlib import Path

from sign_ext.data.datasets.root import find_root
from sign_ext.data.image_set import ImageSet

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
        from sign_ext.data.datasets.tiny_imagenet import load_tiny_imagenet
        from sign_ext.data.tiny_imagenet_files import ACCEPTED

        folder = find_root(root, name, ACCEPTED)
        return load_tiny_imagenet(folder, synsets=synsets, image_size=image_size)
    if name == "digits_shifted":
        from sign_ext.data.digits_shifted import load_digits_shifted

        return load_digits_shifted(image_size)
    close = difflib.get_close_matches(str(name), OOD_NAMES, n=1)
    raise ValueError(
        f"name={str(name)!r} is no out-of-distribution test set; accepted: {', '.join(OOD_NAMES)}."
        + (f" Did you mean {close[0]!r}?" if close else "")
    )
