"""Decoding of compressed images to uint8 RGB pixels, several at a time."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

# Deeper than 8 bits a channel: Pillow would clip these to 255 without a word.
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
GREY_MODES = ("1", "L", "LA")
# Pillow's names of the formats that folders, tars and Hugging Face directories may hold. Not all
# that it knows: it runs another program for some, such as EPS.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def decode_rgb(
    source: Path | bytes, size: int | None, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """Decode one image to RGB, turned as its EXIF orientation says.

    A JPEG at least four times as large as wanted is decoded at a half, a quarter or an eighth of
    its size, never below twice the wanted one: much faster, and hardly to be told from the whole.

    Args:
        source: a file, or a file's bytes.
        size: resize to size × size pixels (bilinear, antialiased, the aspect ratio is not kept);
            None keeps the image as it is.
        formats: Pillow's names of the formats to accept; None for every format that it reads.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: more than 8 bits a channel.
        OSError: not a readable image.
    """
    from PIL import Image, ImageOps

    data: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    with Image.open(data, formats=formats) as image:
        if image.mode in DEEP_MODES:
            raise ValueError(
                f"its pixels have mode {image.mode!r}, more than 8 bits a channel; save it as an "
                "8-bit image"
            )
        upright = ImageOps.exif_transpose(image if size is None else _reduced(image, size))
        rgb = upright.convert("RGB")
        if size is not None and rgb.size != (size, size):
            rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def _reduced(image: Image, size: int) -> Image:
    """Return a JPEG that is much larger than wanted at its new size, any other image as given."""
    from PIL.Image import Resampling

    whole = image.size
    # Twice the size leaves the last halving to the resampling filter, as a whole decode does;
    # formats other than JPEG pay no heed to it.
    drafted = image.draft(None, (2 * size, 2 * size))
    if drafted is None or image.size == whole:
        return image
    # The box ends inside the last pixel where the size is not a multiple of 8: cut there, or
    # everything would lie a little further left and up.
    return image.resize((size, size), Resampling.BILINEAR, box=drafted[1])


def decode_file(
    path: Path, size: int | None, instead: str, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """Decode one image file; whatever goes wrong is one error that names the file.

    Args:
        path: the file.
        size: as for `decode_rgb`.
        instead: what the reader can do, ends the message.
        formats: as for `decode_rgb`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the file cannot be read as an image, or is not there.
    """
    with readable(f"{path} cannot be read as an image", instead):
        return decode_rgb(path, size, formats)


@contextmanager
def readable(problem: str, instead: str = "") -> Iterator[None]:
    """Turn whatever an unreadable image raises inside into one kind of error.

    Args:
        problem: begins the message.
        instead: what the reader can do, ends the message.

    Raises:
        ValueError: something was raised that says that an image cannot be read.
    """
    from PIL import Image

    # Pillow promises OSError, but its readers of damaged files fail in all of these ways.
    damaged = (
        *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError),
        *(NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
    )
    try:
        yield
    except damaged as error:
        raise ValueError(f"{problem}: {error}. {instead}".rstrip()) from error


def decode_exact(
    cells: Sequence[bytes],
    names: Sequence[str],
    size: int,
    image_format: str,
    threads: int | None = None,
) -> Tensor:
    """Decode images that must have one size and format already.

    Args:
        cells: n files' bytes.
        names: what an error calls each of them.
        size: the height and width that they must have, in pixels.
        image_format: Pillow's name of the format that they must have.
        threads: see `decode_all`.

    Returns:
        uint8 (n, 3, size, size).

    Raises:
        ValueError: bytes that are not such an image.
    """

    def decode(position: int) -> np.ndarray:
        with readable(names[position]):
            pixels = decode_rgb(cells[position], None, formats=(image_format,))
            if pixels.shape != (size, size, 3):
                height, width = pixels.shape[:2]
                raise ValueError(f"it is {width}×{height} pixels, not {size}×{size}")
            return pixels

    return decode_all(len(cells), size, decode, threads)


def is_grey(cell: bytes, name: str, image_format: str) -> bool:
    """Tell from an image's header whether it is stored without colour.

    Args:
        cell: a file's bytes.
        name: what an error calls it.
        image_format: Pillow's name of the format that it must have.

    Returns:
        True for one channel; a colour image whose pixels happen to be grey gives False.

    Raises:
        ValueError: bytes that are not such an image.
    """
    from PIL import Image

    with readable(name), Image.open(io.BytesIO(cell), formats=(image_format,)) as image:
        return image.mode in GREY_MODES


def decode_all(
    count: int, size: int, decode: Callable[[int], np.ndarray], threads: int | None = None
) -> Tensor:
    """Decode many images of one size on a few threads.

    Args:
        count: number of images.
        size: their height and width in pixels.
        decode: position 0 … count − 1 → uint8 (size, size, 3).
        threads: worker threads; by default one a core, at most eight.

    Returns:
        uint8 (count, 3, size, size), in order; the first error of any image is raised.
    """
    pixels = np.empty((count, 3, size, size), dtype=np.uint8)
    workers = threads or min(8, os.cpu_count() or 1)
    span = max(1, min(256, -(-count // workers)))

    def fill(start: int) -> None:
        for position in range(start, min(start + span, count)):
            pixels[position] = decode(position).transpose(2, 0, 1)

    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(fill, range(0, count, span)):
            pass
    return torch.from_numpy(pixels)
