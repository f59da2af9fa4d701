"""Images with more than 8 bits a channel: recognise them, and scale them to 8 bits if asked to.

Pillow silently drops the low byte of 16-bit colour, which makes 12-bit data sixteen times too dark.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

BIT_DEPTHS = (12, 16)
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


def deep_bits(image: Image) -> int | None:
    """Return the bits a channel of an opened image if they are more than 8, else None.

    Args:
        image: as opened, before its pixels are loaded.
    """
    raw_modes = [_raw_mode(tile) for tile in image.tile]  # type: ignore[attr-defined]
    if image.format == "PPM":
        highest = _ppm_maximum(image)
        if highest > 255:
            return highest.bit_length()
    if image.format == "JPEG2000" and (precision := _jpeg2000_bits(image)) > 8:
        return precision
    if "I;12" in raw_modes:
        return 12
    # A TIFF's planes may be listed with raw modes that do not say how deep they are.
    declared = max(getattr(image, "tag_v2", {}).get(258, (8,)))
    if declared > 8:
        return int(declared)
    if image.mode in _GREY_16 or any(";16" in raw_mode for raw_mode in raw_modes):
        return 16
    if image.mode == "I":
        return 16 if image.format in ("PNG", "PPM") else 32
    return 32 if image.mode == "F" else None


def scale_to_8_bits(
    image: Image,
    reopen: Callable[[], Image],
    bits: int,
    bit_depth: int,
    notice: Callable[[str], None],
) -> Image:
    """Return an image of more than 8 bits a channel as an upright 8-bit one, L or RGB.

    A value v of b bits becomes 255·v/(2ᵇ − 1), rounded. Transparency is dropped.

    Args:
        image: as opened.
        reopen: opens the same image again; colour needs it, since Pillow reads a byte at a time.
        bits: what `deep_bits` returned.
        bit_depth: how many of the bits are used.
        notice: called with ``"transparency"`` if transparency is lost.

    Raises:
        ValueError: a format or mode that cannot be scaled, fewer bits than ``bit_depth``, or a
            value above 2ᵇ − 1.
    """
    from PIL import Image as Pillow

    if bits < bit_depth:
        raise ValueError(
            f"it stores {bits} bits a channel, fewer than bit_depth={bit_depth}; accepted: "
            f"{', '.join(map(str, BIT_DEPTHS))}, at most what the file stores"
        )
    image, values = _values(image, reopen, bits)
    highest = 2**bit_depth - 1
    if values.shape[-1] in (2, 4) and values.ndim == 3:
        if values[..., -1].min() < 65535:
            notice("transparency")
        values = values[..., :-1]
    elif "transparency" in image.info:
        notice("transparency")
    if values.max() > highest:
        raise ValueError(
            f"it has the value {values.max()}, above the {highest} of bit_depth={bit_depth}; use "
            "bit_depth=16 (--bit-depth 16) if the data really has 16 bits"
        )
    scaled = np.rint(values.astype(np.float64) * (255 / highest)).astype(np.uint8)
    pixels = np.ascontiguousarray(scaled[..., 0] if scaled.shape[-1:] == (1,) else scaled)
    return _upright(Pillow.fromarray(pixels), image)


def _values(image: Image, reopen: Callable[[], Image], bits: int) -> tuple[Image, np.ndarray]:
    """Read the stored values, (H, W) or (H, W, C), and return the image that was loaded."""
    if image.format == "PPM":
        return image, _ppm_values(image)
    tile = image.tile[0]  # type: ignore[attr-defined]
    raw_mode = _raw_mode(tile)
    in_planes = getattr(image, "tag_v2", {}).get(284) == 2  # read by their first bytes only
    if bits <= 16 and image.format != "JPEG2000" and not in_planes:
        if image.mode in _GREY_16:
            values = np.asarray(image).astype(np.uint16)
            # Pillow does not invert 16-bit TIFFs in which white is 0.
            white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0
            return image, (65535 - values if white_is_zero else values)
        if image.mode == "I" and image.format == "PNG":
            return image, np.asarray(image).astype(np.uint16)
        if raw_mode == "LA;16B":  # four bytes a pixel, which pass through unchanged as RGBA
            _set_raw_mode(image, "RGBA")
            pairs = np.asarray(image).astype(np.uint16)
            return image, pairs[..., ::2] << 8 | pairs[..., 1::2]
        kind, _, order = raw_mode.partition(";16")
        if kind in ("RGB", "RGBA", "RGBX") and order in ("B", "L", "N"):
            return _colour_values(image, reopen(), kind, order)
    raise ValueError(
        f"it has {bits} bits a channel as {image.format} of mode {image.mode}, which cannot be "
        "scaled here; save it as an 8-bit image, or as a 16-bit PNG"
    )


def _colour_values(first: Image, second: Image, kind: str, order: str) -> tuple[Image, np.ndarray]:
    """Read 16-bit colour as its first and its second bytes, by two raw modes that each drop one."""
    _set_raw_mode(first, f"{kind};16B")
    _set_raw_mode(second, f"{kind};16L")
    with second:
        bytes_1, bytes_2 = np.asarray(first).astype(np.uint16), np.asarray(second).astype(np.uint16)
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    return first, (bytes_1 << 8 | bytes_2 if big else bytes_2 << 8 | bytes_1)


def _raw_mode(tile: Any) -> str:
    """Return how a tile of an opened image stores its pixels; empty where Pillow does not say."""
    arguments = tile[3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _set_raw_mode(image: Image, raw_mode: str) -> None:
    """Make an opened image unpack its pixels in another way."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        old = tile[3]
        new = (raw_mode, *old[1:]) if isinstance(old, tuple) else raw_mode
        tiles.append(tile._replace(args=new) if hasattr(tile, "_replace") else (*tile[:3], new))
    image.tile = tiles  # type: ignore[attr-defined]


def _upright(pixels: Image, loaded: Image) -> Image:
    """Turn pixels by the EXIF orientation that an image still has after it was loaded."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(loaded.getexif().get(0x0112, 1))
    return pixels if turn is None else pixels.transpose(turn)


def _header(image: Image, count: int) -> bytes:
    """Return the first bytes of an opened image's file and leave its position alone."""
    file = image.fp  # type: ignore[attr-defined]
    position = file.tell()
    file.seek(0)
    data: bytes = file.read(count)
    file.seek(position)
    return data


def _ppm_tokens(image: Image) -> tuple[list[bytes], int]:
    """Return a PPM's magic number, width, height and maximum, and where its pixels begin."""
    data = _header(image, 4096)
    tokens: list[bytes] = []
    position = 0
    while len(tokens) < 4 and position < len(data):
        if data[position : position + 1].isspace():
            position += 1
        elif data[position : position + 1] == b"#":
            end = data.find(b"\n", position)
            position = len(data) if end < 0 else end + 1
        else:
            end = position
            while end < len(data) and not data[end : end + 1].isspace():
                end += 1
            tokens.append(data[position:end])
            position = end
    return tokens, position + 1


def _ppm_maximum(image: Image) -> int:
    """Return the largest value that a PPM declares; 0 where it has none (a bitmap)."""
    tokens, _ = _ppm_tokens(image)
    if len(tokens) < 4 or tokens[0] not in (b"P2", b"P3", b"P5", b"P6"):
        return 0
    return int(tokens[3]) if tokens[3].isdigit() else 0


def _ppm_values(image: Image) -> np.ndarray:
    """Read a binary PPM's two-byte values, which Pillow would scale by the declared maximum."""
    (magic, width, height, _), start = _ppm_tokens(image)
    if magic not in (b"P5", b"P6"):
        raise ValueError("it is a PPM of text, which cannot be scaled here; save it as binary")
    channels = 3 if magic == b"P6" else 1
    count = int(width) * int(height) * channels
    file = image.fp  # type: ignore[attr-defined]
    file.seek(start)
    data = file.read(2 * count)
    if len(data) < 2 * count:
        raise OSError("image file is truncated")
    return np.frombuffer(data, ">u2").astype(np.uint16).reshape(int(height), int(width), channels)


def _jpeg2000_bits(image: Image) -> int:
    """Return the bits a channel that a JPEG 2000 codestream declares; 0 if it cannot be found."""
    data = _header(image, 65536)
    start = data.find(b"\xff\x4f\xff\x51")  # start of codestream, then the image's size
    if start < 0 or len(data) < start + 43:
        return 0
    return (data[start + 42] & 0x7F) + 1


def reopener(image_data: Path | bytes, open_image: Callable[[Any], Image]) -> Callable[[], Image]:
    """Return a function that opens an image once more.

    Args:
        image_data: a file, or a file's bytes.
        open_image: opens either a path or a stream.
    """

    def reopen() -> Image:
        return open_image(io.BytesIO(image_data) if isinstance(image_data, bytes) else image_data)

    return reopen
