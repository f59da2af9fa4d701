"""One door to every data set."""

from __future__ import annotations

import difflib
from pathlib import Path

from sign_ext.data.ood import OOD_NAMES
from sign_ext.data.root import find_root
from sign_ext.data.splits import Splits, Wanted

DATA_NAMES: tuple[str, ...] = ("digits", "cifar10", "isic2017", "digits_imbalanced")


def load_data(
    name: str | Path,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    train_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
) -> Splits:
    """Load a data set by name, or a folder of images by its path.

    Which image belongs to training, validation or test is fixed and does not depend on ``seed``;
    ``seed`` chooses the subsets that ``train_size`` and ``test_size`` ask for. The validation set
    is never cut.

    Args:
        name: ``"digits"``, ``"cifar10"``, ``"isic2017"``, ``"digits_imbalanced"`` (a stand-in for
            ISIC-2017 that needs no files), or the path of an image folder (write ``./digits`` for
            a folder that has the name of a data set).
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
        ModuleNotFoundError: a library of ``pip install 'sign-ext[experiments]'`` is missing.
        ValueError: an unknown name, a damaged file, or a size that cannot be had.

    Example:
        >>> splits = load_data("digits", train_size=100)
        >>> len(splits.train), splits.image_shape
        (100, (3, 32, 32))
    """
    wanted = Wanted(train_size, test_size, seed, image_size)
    if name == "digits":
        from sign_ext.data.digits import load_digits_splits

        return load_digits_splits(wanted)
    if name == "cifar10":
        from sign_ext.data import cifar10_files
        from sign_ext.data.cifar10 import load_cifar10

        return load_cifar10(find_root(root, name, cifar10_files.ACCEPTED), wanted)
    if name == "isic2017":
        from sign_ext.data import isic2017_files
        from sign_ext.data.isic2017 import load_isic2017

        return load_isic2017(find_root(root, name, isic2017_files.ACCEPTED), wanted)
    if name == "digits_imbalanced":
        from sign_ext.data.digits_imbalanced import load_digits_imbalanced

        return load_digits_imbalanced(wanted)
    if name in OOD_NAMES:
        raise ValueError(
            f"name={name!r} is a test set without training images; accepted: "
            f"{', '.join(DATA_NAMES)}, or the path of a folder of images. Load it with load_ood."
        )
    folder = Path(name)
    if folder.is_dir():
        from sign_ext.data.image_folder import load_image_folder

        return load_image_folder(folder, wanted)
    close = difflib.get_close_matches(str(name), DATA_NAMES, n=1)
    raise ValueError(
        f"name={str(name)!r} is neither a data set nor a folder; accepted: "
        f"{', '.join(DATA_NAMES)}, or the path of a folder of images."
        + (f" Did you mean {close[0]!r}?" if close else "")
    )
