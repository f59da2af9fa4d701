"""From image files to uint8 RGB pixels: decoding on several threads, resizing, unreadable images.

Every image that cannot be read is listed, in one error or, with `on_error="skip"`, in the result.
"""

from __future__ import annotations

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.bit_depth import BIT_DEPTHS, deep_bits, reopener, scale_to_8_bits
from sign_ext.files import require_regular

if TYPE_CHECKING:
    from PIL.Image import Image


OnError = Literal["fail", "skip"]


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be read.

    Attributes:
        index: its position in what was read: a split, a source, or a list of positions.
        why: the error message, which names the file.
        key: its name in the data set; "" if unknown.
        split: "train", "validation" or "test"; "" if unknown.
    """

    index: int
    why: str
    key: str = ""
    split: str = ""


class UnreadableImages(ValueError):
    """Images that cannot be read: every one of those that were asked for.

    Args:
        images: one or more, in order.
        advice: what else to try; ends the message.

    Attributes:
        images: the same.
        details: a line for each image; () for a single one, whose message says all.
        summary: the message without those lines.
    """

    def __init__(self, images: Sequence[Unreadable], advice: str = "") -> None:
        """Put every image in the message: one run is enough to find all of them."""
        self.images = tuple(images)
        self._advice = advice
        reasons = tuple(each.why for each in self.images)
        self.details = reasons if len(reasons) > 1 else ()
        if len(reasons) == 1:
            self.summary = f"{reasons[0]} {advice}".rstrip()
            super().__init__(self.summary)
            return
        head = f"{len(reasons):,} images cannot be read"
        self.summary = f"{head}. {advice}" if advice else head
        super().__init__("\n  ".join([f"{head}:", *reasons]) + f"\n{advice}".rstrip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made of: the message alone is not enough."""
        return type(self), (self.images, self._advice)


def check_on_error(on_error: str) -> None:
    """Raise ValueError unless a value is "fail" or "skip"."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error={on_error!r}; accepted: {', '.join(get_args(OnError))}.")


def read_readable(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray
) -> tuple[Tensor | None, np.ndarray, list[Unreadable]]:
    """Read images, leaving out those that cannot be read.

    Args:
        read: positions (n,), n ≥ 1 → uint8 (n, 3, H, W).
        positions: int64 (n,).

    Returns:
        uint8 (m, 3, H, W), or None if m is 0; int64 (m,), which of the n they are; and the others.
    """
    everything = np.arange(len(positions))
    if not len(positions):
        return None, everything, []
    try:
        return read(positions), everything, []
    except ValueError as error:
        problems = _every_problem(read, positions, error)
    kept = np.setdiff1d(everything, [each.index for each in problems])
    return (read(positions[kept]) if len(kept) else None), kept, problems


def find_unreadable(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray
) -> list[Unreadable]:
    """List the images that cannot be read; the pixels of the others are dropped.

    Args:
        read: as for `read_readable`.
        positions: int64 (n,).
    """
    if not len(positions):
        return []
    try:
        read(positions)
    except ValueError as error:
        return _every_problem(read, positions, error)
    return []


def _every_problem(
    read: Callable[[np.ndarray], Tensor], positions: np.ndarray, error: ValueError
) -> list[Unreadable]:
    """List the images that fail, given the error of reading all of them at once."""
    if isinstance(error, UnreadableImages):
        return list(error.images)
    # Such an error does not say which images it is about.
    problems = []
    for index in range(len(positions)):
        try:
            read(positions[index : index + 1])
        except ValueError as single:
            problems.append(Unreadable(index, str(single)))
    if not problems:  # only a batch fails, so none of its images can be blamed
        raise error
    return problems


# The image formats that folders, tars and Hugging Face folders may hold: Pillow's names, and the
# file extensions. A closed list, because Pillow starts other programs to read some formats (EPS).
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_GREY_MODES = ("1", "L", "LA")
# Pillow's limit on pixels is one for the whole process.
_PILLOWS_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Decoding:
    """What images may be decoded beyond 8-bit ones of a usual size.

    Args:
        bit_depth: 12 or 16: of an image with more than 8 bits a channel so many are used, and
            scaled to 8; None refuses such images.
        max_pixels: the largest number of pixels of an image; None for Pillow's limit.

    Raises:
        ValueError: another depth, or no positive number of pixels.
    """

    bit_depth: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Check the values before any file is opened."""
        if self.bit_depth not in (None, *BIT_DEPTHS):
            accepted = ", ".join(map(str, BIT_DEPTHS))
            raise ValueError(f"bit_depth={self.bit_depth}; accepted: {accepted}, or None.")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ValueError(f"max_pixels={self.max_pixels}; accepted: 1 or more, or None.")


class Conversions:
    """Which images were changed when they were decoded, and how.

    Args:
        count: number of images.
    """

    def __init__(self, count: int) -> None:
        """Begin with no image changed."""
        self._count = count
        # A flag an image, since an image that is decoded twice counts once.
        self._flags: dict[str, np.ndarray] = {}

    def of(self, position: int) -> Callable[[str], None]:
        """Return what `decode_rgb` is to call about one image; several threads may call it.

        Args:
            position: the image's.
        """

        def notice(kind: str) -> None:
            self._flags.setdefault(kind, np.zeros(self._count, dtype=bool))[position] = True

        return notice

    def counts(self, positions: np.ndarray) -> dict[str, int]:
        """Return kind → number of changed images among some that were decoded so far.

        Args:
            positions: int64 (n,).
        """
        found = {kind: int(flags[positions].sum()) for kind, flags in sorted(self._flags.items())}
        return {kind: count for kind, count in found.items() if count}


def _ignore(kind: str) -> None:
    """Take no notice of a change."""


def decode_rgb(
    image_data: Path | bytes,
    size: int | None,
    formats: tuple[str, ...] | None = None,
    decoding: Decoding = Decoding(),
    notice: Callable[[str], None] = _ignore,
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
        decoding: bit depth and number of pixels to accept.
        notice: called with ``"transparency"``, ``"frames"``, ``"pages"`` or ``"scaled"`` if the
            result lacks something of the image.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: more than 8 bits a channel and no ``bit_depth``, or too many pixels.
        OSError: not a readable image.
    """
    from PIL import ImageOps

    reopen = reopener(image_data, lambda file: _open(file, formats, decoding.max_pixels))
    with reopen() as image:
        bits = deep_bits(image)
        if bits is None:
            upright = ImageOps.exif_transpose(image if size is None else _reduced(image, size))
            if _is_transparent(upright):
                notice("transparency")
        elif decoding.bit_depth is None:
            raise ValueError(
                f"it has {bits} bits a channel ({image.mode}), more than 8 bits; save it with 8 "
                "bits, or pass bit_depth=12 or 16 (--bit-depth), the bits that are used"
            )
        else:
            upright = scale_to_8_bits(image, reopen, bits, decoding.bit_depth, notice)
            notice("scaled")
        _notice_frames(image, notice)
        return _as_rgb(upright, size)


def decode_pil(image: Image, size: int | None) -> np.ndarray:
    """Convert an image that Pillow has opened to RGB, by the rule of `decode_rgb`.

    Args:
        image: opened or made by anybody; it is not modified.
        size: as for `decode_rgb`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: more than 8 bits a channel.
    """
    from PIL import ImageOps

    if image.mode.startswith("I") or image.mode == "F":
        raise ValueError(
            f"it has more than 8 bits a channel ({image.mode}); accepted: 8 bits. Scale it in the "
            "data set's own loader"
        )
    return _as_rgb(ImageOps.exif_transpose(image), size)


def _as_rgb(upright: Image, size: int | None) -> np.ndarray:
    """Convert an upright image to RGB and resize it."""
    from PIL import Image

    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")  # or Pillow warns
    rgb = upright.convert("RGB")
    if size is not None and rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _open(file: Any, formats: tuple[str, ...] | None, max_pixels: int | None) -> Any:
    """Open an image; raise ValueError if it has more pixels than are accepted."""
    from PIL import Image

    if isinstance(file, Path):
        require_regular(file)  # Pillow would wait for ever for the bytes of a named pipe
    if max_pixels is None:
        try:
            return Image.open(file, formats=formats)
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"{str(error).rstrip('.')}; pass max_pixels (--max-pixels) if it is what it should "
                "be"
            ) from error
    with _PILLOWS_LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise ValueError(
            f"it has {width:,}×{height:,} = {width * height:,} pixels; accepted: at most "
            f"{max_pixels:,}, the value of max_pixels (--max-pixels)"
        )
    return image


def _is_transparent(image: Image) -> bool:
    """Return whether converting a loaded image to RGB drops an opacity below 100%."""
    if image.mode not in ("RGBA", "LA", "PA", "La", "RGBa") and "transparency" not in image.info:
        return False
    opaque = image if "A" in image.getbands() else image.convert("RGBA")
    lowest: Any = opaque.getchannel("A").getextrema()[0]
    return bool(lowest < 255)


def _notice_frames(image: Image, notice: Callable[[str], None]) -> None:
    """Report frames or pages after the first, of an image that is loaded."""
    animated = False
    with suppress(Exception):  # damaged behind the first frame, which was read
        animated = bool(getattr(image, "is_animated", False))
    if animated:
        notice("frames" if image.format in ("GIF", "PNG", "WEBP") else "pages")


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
    path: Path,
    size: int | None,
    advice: str,
    formats: tuple[str, ...] | None = None,
    decoding: Decoding = Decoding(),
    notice: Callable[[str], None] = _ignore,
) -> np.ndarray:
    """Decode one image file; any failure is a ValueError that names the file.

    Args:
        path: the file.
        size: as for `decode_rgb`.
        advice: what to try next; ends the error message.
        formats: as for `decode_rgb`.
        decoding: as for `decode_rgb`.
        notice: as for `decode_rgb`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the file is missing, or cannot be read as an image.
    """
    with decode_errors(f"{path} cannot be read as an image", advice):
        return decode_rgb(path, size, formats, decoding, notice)


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
        uint8 (count, 3, size, size), in order.

    Raises:
        UnreadableImages: ``decode`` raised ValueError for some images; it lists all of them.
    """
    pixels = np.empty((count, 3, size, size), dtype=np.uint8)
    workers = threads or min(8, os.cpu_count() or 1)
    chunk = max(1, min(256, -(-count // workers)))

    def fill(start: int) -> list[Unreadable]:
        unreadable = []
        for position in range(start, min(start + chunk, count)):
            try:
                pixels[position] = decode(position).transpose(2, 0, 1)
            except ValueError as error:
                unreadable.append(Unreadable(position, str(error)))
        return unreadable

    with ThreadPoolExecutor(workers) as executor:
        unreadable = [each for part in executor.map(fill, range(0, count, chunk)) for each in part]
    if unreadable:
        raise UnreadableImages(unreadable)
    return torch.from_numpy(pixels)


# Values per chunk: only one chunk at a time is converted to floats, which bounds the memory.
CHUNK = 2**24


def resize_images(images: Tensor, size: int | None) -> Tensor:
    """Resize to size × size pixels, bilinear and antialiased, rounded to integers.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels; None, or the current size, returns the images
            themselves.

    Returns:
        uint8 (N, 3, size, size).

    Example:
        >>> resize_images(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8), 32).unique().tolist()
        [7]
    """
    if size is None or tuple(images.shape[-2:]) == (size, size):
        return images
    resized = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    step = _chunk_length(images, size)
    for start in range(0, len(images), step):
        chunk = torch.nn.functional.interpolate(
            images[start : start + step].float(),
            size=(size, size),
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        resized[start : start + step] = chunk.round().clamp(0, 255).to(torch.uint8)
    return resized


def average_areas(images: Tensor, size: int) -> Tensor:
    """Reduce to size × size pixels, each the mean of the area that it covers.

    A pixel that is covered in part is weighted by that part, so the sizes need not divide each
    other.

    Args:
        images: uint8 (N, 3, H, W).
        size: new height and width in pixels, neither above the current ones.

    Returns:
        uint8 (N, 3, size, size), rounded to integers (halves to even).

    Raises:
        ValueError: a size that would enlarge.

    Example:
        >>> average_areas(torch.tensor([[[[0, 10], [20, 30]]]], dtype=torch.uint8), 1).item()
        15
    """
    height, width = images.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"size={size}; accepted: 1 to {min(height, width)}, since averaging only reduces. "
            "Enlarge with resize_images."
        )
    down, right = _area_weights(height, size), _area_weights(width, size)
    reduced = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    step = _chunk_length(images, size)
    for start in range(0, len(images), step):
        chunk = down @ images[start : start + step].double() @ right.T
        reduced[start : start + step] = chunk.round().to(torch.uint8)
    return reduced


def _area_weights(old: int, new: int) -> Tensor:
    """Return float64 (new, old): the share of each new pixel that each old pixel fills."""
    step = old / new
    low = torch.arange(new, dtype=torch.float64).unsqueeze(1) * step
    old_low = torch.arange(old, dtype=torch.float64)
    overlap = torch.minimum(low + step, old_low + 1) - torch.maximum(low, old_low)
    return overlap.clamp(min=0) / step


def _chunk_length(images: Tensor, size: int) -> int:
    """Return how many images fit in a chunk, both before and after resizing."""
    _, channels, height, width = images.shape
    return max(1, CHUNK // (channels * max(height * width, size * size)))
