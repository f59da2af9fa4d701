"""Decoding of compressed images to uint8 RGB pixels, on several threads."""

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

from sign_ext.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

# The image formats that folders, tars and Hugging Face folders may hold: Pillow's names, and the
# file extensions. A closed list, because Pillow starts other programs to read some formats (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
# More than 8 bits a channel: converting to RGB would silently clip these to 255.
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_GREY_MODES = ("1", "L", "LA")


def decode_rgb(
    image_data: Path | bytes, size: int | None, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """Decode one image to RGB, rotated by its EXIF orientation.

    A JPEG at least four times as large as requested is decoded at a half, a quarter or an eighth of
    its size, but never below twice the requested one: much faster, and on photographs within a grey
    level or two of a full decode.

    Args:
        image_data: a file, or a file's bytes.
        size: resize to size × size pixels (bilinear, antialiased, without keeping the aspect
            ratio); None keeps the image's own size.
        formats: Pillow's names of the formats to accept; None for every format that it reads.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: more than 8 bits a channel.
        OSError: not a readable image.
    """
    from PIL import Image, ImageOps

    # Opened here: Pillow would wait for ever for the bytes of a named pipe.
    opened: Any = (
        io.BytesIO(image_data) if isinstance(image_data, bytes) else open_regular(image_data)
    )
    with opened as file, Image.open(file, formats=formats) as image:
        if image.mode in _DEEP_MODES:
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
    """Decode a much larger JPEG at a reduced size and resize it; return other images unchanged."""
    from PIL.Image import Resampling

    full_size = image.size
    # draft() makes the JPEG decoder scale by 1/2, 1/4 or 1/8; it ignores other formats. Asking for
    # twice the size leaves the last halving to the resampling filter, as after a full decode.
    drafted = image.draft(None, (2 * size, 2 * size))
    if drafted is None or image.size == full_size:
        return image
    # Where the full size is not a multiple of the scale, the image ends inside the last pixel.
    # Without this box everything would be shifted a little to the left and up.
    return image.resize((size, size), Resampling.BILINEAR, box=drafted[1])


def decode_file(
    path: Path, size: int | None, advice: str, formats: tuple[str, ...] | None = None
) -> np.ndarray:
    """Decode one image file; any failure is a ValueError that names the file.

    Args:
        path: the file.
        size: as for `decode_rgb`.
        advice: what to try next; ends the error message.
        formats: as for `decode_rgb`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the file is missing, or cannot be read as an image.
    """
    with decode_errors(f"{path} cannot be read as an image", advice):
        return decode_rgb(path, size, formats)


@contextmanager
def decode_errors(problem: str, advice: str = "") -> Iterator[None]:
    """Turn every exception that an unreadable image can raise into a ValueError.

    Args:
        problem: begins the message.
        advice: what to try next; ends the message.

    Raises:
        ValueError: the block raised an exception that means that an image cannot be read.
    """
    from PIL import Image

    # Pillow documents OSError, but its decoders fail in all of these ways on damaged files.
    damaged = (
        *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError),
        *(NotImplementedError, struct.error, zlib.error, Image.DecompressionBombError),
    )
    try:
        yield
    except damaged as error:
        raise ValueError(f"{problem}: {error}. {advice}".rstrip()) from error


def decode_exact(
    cells: Sequence[bytes],
    names: Sequence[str],
    size: int,
    image_format: str,
    threads: int | None = None,
) -> Tensor:
    """Decode images that must all have one size and format.

    Args:
        cells: the bytes of n image files.
        names: what an error message calls each of them.
        size: the required height and width in pixels.
        image_format: Pillow's name of the required format.
        threads: see `decode_all`.

    Returns:
        uint8 (n, 3, size, size).

    Raises:
        ValueError: an unreadable image, or one of another size or format.
    """

    def decode(position: int) -> np.ndarray:
        with decode_errors(names[position]):
            pixels = decode_rgb(cells[position], None, formats=(image_format,))
            if pixels.shape != (size, size, 3):
                height, width = pixels.shape[:2]
                raise ValueError(f"it is {width}×{height} pixels, not {size}×{size}")
            return pixels

    return decode_all(len(cells), size, decode, threads)


def is_greyscale(cell: bytes, name: str, image_format: str) -> bool:
    """Return whether an image's header says that it is stored without colour.

    Args:
        cell: the bytes of an image file.
        name: what an error message calls it.
        image_format: Pillow's name of the required format.

    Returns:
        True for one channel; False for RGB, even if all its pixels are grey.

    Raises:
        ValueError: not an image of that format.
    """
    from PIL import Image

    with decode_errors(name), Image.open(io.BytesIO(cell), formats=(image_format,)) as image:
        return image.mode in _GREY_MODES


def decode_all(
    count: int, size: int, decode: Callable[[int], np.ndarray], threads: int | None = None
) -> Tensor:
    """Decode many images of one size on a few threads.

    Args:
        count: number of images.
        size: their height and width in pixels.
        decode: position 0 … count − 1 → uint8 (size, size, 3).
        threads: number of threads; by default one a core, at most eight.

    Returns:
        uint8 (count, 3, size, size), in order. If images fail, the first error is raised.
    """
    pixels = np.empty((count, 3, size, size), dtype=np.uint8)
    workers = threads or min(8, os.cpu_count() or 1)
    chunk = max(1, min(256, -(-count // workers)))

    def fill(start: int) -> None:
        for position in range(start, min(start + chunk, count)):
            pixels[position] = decode(position).transpose(2, 0, 1)

    with ThreadPoolExecutor(workers) as executor:
        for _ in executor.map(fill, range(0, count, chunk)):
            pass
    return torch.from_numpy(pixels)
