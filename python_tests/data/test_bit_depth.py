"""Images of more than 8 bits a channel, transparent, animated, of several pages, or very large.

Pillow cannot write 16-bit colour, so the files are made here, byte by byte, from their values.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_on_disk import write_tar
from PIL import Image

from sign_ext.data import load_data, open_data
from sign_ext.data.decode import FORMATS, Decoding, decode_rgb

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels → PNG's number
# First row and column, and steps, of the seven passes of an interlaced PNG.
ADAM7 = (
    *((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4)),
    *((2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)),
)


def filtered(values: np.ndarray) -> bytes:
    """PNG's rows of 16-bit values (H, W, C), with filters 0 to 4 in turn."""
    height, _, channels = values.shape
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(height, -1).astype(int)
    step = 2 * channels
    out = b""
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        estimate = left + above - corner
        paeth = np.select(
            [
                (abs(estimate - left) <= abs(estimate - above))
                & (abs(estimate - left) <= abs(estimate - corner)),
                abs(estimate - above) <= abs(estimate - corner),
            ],
            [left, above],
            corner,
        )
        number = y % 5
        guess = [np.zeros_like(row), left, above, (left + above) // 2, paeth][number]
        out += bytes([number]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return out


def png(values: np.ndarray, *, interlaced: bool = False, orientation: int = 1) -> bytes:
    """A 16-bit PNG of values (H, W, C)."""
    height, width, channels = values.shape

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    parts = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    pixels = b"".join(filtered(part) for part in parts if part.size)
    head = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, interlaced)
    exif = Image.Exif()
    exif[0x0112] = orientation
    extra = chunk(b"eXIf", exif.tobytes()[6:]) if orientation > 1 else b""
    body = (
        chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(
    values: np.ndarray, order: str = "<", *, packed: bool = False, orientation: int = 1
) -> bytes:
    """A 16-bit TIFF of values (H, W, C) of either byte order, as they are or compressed."""
    height, width, channels = values.shape
    data = values.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if packed else data
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 16 if channels == 1 else None),
        (259, 3, 8 if packed else 1),
        (262, 3, 1 if channels == 1 else 2),
        (273, 4, 8),
        (274, 3, orientation),
        (277, 3, channels),
        (278, 4, height),
        (279, 4, len(data)),
        *([(338, 3, 2)] if channels == 4 else []),
    ]
    padding = b"\0" * (len(data) % 2)
    bits_at = 8 + len(data) + len(padding)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    table = struct.pack(f"{order}H", len(entries))
    for tag, kind, value in entries:
        count = channels if tag == 258 else 1
        shown = (
            struct.pack(f"{order}I", bits_at)
            if value is None
            else (
                struct.pack(f"{order}HH", value, 0)
                if kind == 3
                else struct.pack(f"{order}I", value)
            )
        )
        table += struct.pack(f"{order}HHI", tag, kind, count) + shown
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, bits_at + len(bits))
    return head + data + padding + bits + table + bytes(4)


def ppm(values: np.ndarray, highest: int = 65535) -> bytes:
    height, width, channels = values.shape
    magic = "P6" if channels == 3 else "P5"
    head = f"{magic}\n# a comment\n{width} {height}\n{highest}\n".encode()
    return head + values.astype(">u2").tobytes()


def expected(values: np.ndarray, bits: int) -> np.ndarray:
    """The definition: 255·v/(2^b − 1), rounded; grey in three channels; no transparency."""
    colour = values[..., :3] if values.shape[-1] > 2 else values[..., :1]
    scaled = np.floor(255 * colour.astype(np.float64) / (2**bits - 1) + 0.5).astype(np.uint8)
    return np.broadcast_to(scaled, (*values.shape[:2], 3))


MAKERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "png": (png, (1, 2, 3, 4)),
    "interlaced png": (lambda values: png(values, interlaced=True), (1, 2, 3, 4)),
    "little-endian tiff": (lambda values: tiff(values, "<"), (1, 3, 4)),
    "big-endian tiff": (lambda values: tiff(values, ">"), (1, 3, 4)),
    "compressed tiff": (lambda values: tiff(values, "<", packed=True), (1, 3, 4)),
    "compressed big-endian tiff": (lambda values: tiff(values, ">", packed=True), (1, 3, 4)),
    "ppm": (ppm, (1, 3)),
}


@pytest.mark.parametrize(
    ("kind", "channels"),
    [(kind, channels) for kind, (_, accepted) in MAKERS.items() for channels in accepted],
)
@pytest.mark.parametrize("bits", [12, 16])
def test_deep_images_are_refused_or_scaled(
    rng: np.random.Generator, kind: str, channels: int, bits: int
) -> None:
    values = rng.integers(0, 2**bits, (13, 11, channels), dtype=np.uint16)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    data = MAKERS[kind][0](values)
    with pytest.raises(ValueError, match=r"it has 16 bits a channel.*bit_depth=12 or 16"):
        decode_rgb(data, None, FORMATS)
    noticed: list[str] = []
    found = decode_rgb(data, None, FORMATS, Decoding(bit_depth=bits), noticed.append)
    np.testing.assert_array_equal(found, expected(values, bits))
    assert ("transparency" in noticed) == (channels in (2, 4))
    assert "scaled" in noticed
    if bits == 16:
        with pytest.raises(ValueError, match=r"has the value \d+, above the 4095 of bit_depth=12"):
            decode_rgb(data, None, FORMATS, Decoding(bit_depth=12))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("make", [png, tiff])
def test_deep_images_are_turned_like_others(
    rng: np.random.Generator, orientation: int, make: Any
) -> None:
    values = rng.integers(0, 256, (6, 9, 3), dtype=np.uint16)
    turned = decode_rgb(
        make(values * 257, orientation=orientation), None, FORMATS, Decoding(bit_depth=16)
    )
    shallow = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values.astype(np.uint8)).save(shallow, "PNG", exif=exif)
    np.testing.assert_array_equal(turned, decode_rgb(shallow.getvalue(), None))


def test_depths_that_a_file_declares(rng: np.random.Generator) -> None:
    values = rng.integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    data = ppm(values, 4095)
    with pytest.raises(ValueError, match="it has 12 bits a channel"):
        decode_rgb(data, None, FORMATS)
    found = decode_rgb(data, None, FORMATS, Decoding(bit_depth=12))
    np.testing.assert_array_equal(found, expected(values, 12))
    with pytest.raises(ValueError, match="stores 12 bits a channel, fewer than bit_depth=16"):
        decode_rgb(data, None, FORMATS, Decoding(bit_depth=16))


@pytest.mark.parametrize("packed", [False, True])
def test_tiffs_in_planes_are_never_read_wrong(rng: np.random.Generator, packed: bool) -> None:
    values = rng.integers(0, 4096, (8, 6, 3), dtype=np.uint16)
    planes = [values[..., channel].astype("<u2").tobytes() for channel in range(3)]
    planes = [zlib.compress(plane) if packed else plane for plane in planes]
    starts = [8 + sum(map(len, planes[:channel])) for channel in range(4)]
    shorts = [(256, 6), (257, 8), (259, 8 if packed else 1), (262, 2), (277, 3), (278, 8), (284, 2)]
    entries = {tag: (3, 1, struct.pack("<HH", value, 0)) for tag, value in shorts}
    lists = {
        258: (3, struct.pack("<3H", 16, 16, 16)),
        273: (4, struct.pack("<3I", *starts[:3])),
        279: (4, struct.pack("<3I", *map(len, planes))),
    }
    extra, position = b"", (starts[3] + 1) // 2 * 2
    data = b"".join(planes) + bytes(position - starts[3])
    for tag, (kind, content) in lists.items():
        entries[tag] = (kind, 3, struct.pack("<I", position + len(extra)))
        extra += content
    table = struct.pack("<H", len(entries))
    for tag in sorted(entries):
        kind, count, shown = entries[tag]
        table += struct.pack("<HHI", tag, kind, count) + shown
    head = b"II" + struct.pack("<HI", 42, position + len(extra))
    file = head + data + extra + table + bytes(4)
    with Image.open(io.BytesIO(file)) as image:
        assert image.size == (6, 8)
    for depth in (None, 12, 16):
        with pytest.raises(ValueError, match="it has 16 bits a channel"):
            decode_rgb(file, None, FORMATS, Decoding(bit_depth=depth))


@pytest.mark.parametrize("mode", ["F", "I"])
def test_other_deep_images_are_refused_always(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4), 70_000).save(buffer, "TIFF")
    for depth in (None, 12, 16):
        with pytest.raises(ValueError, match="it has 32 bits a channel"):
            decode_rgb(buffer.getvalue(), None, FORMATS, Decoding(bit_depth=depth))


def test_jpeg_2000_of_16_bits() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(buffer, "JPEG2000")
    for depth in (None, 16):
        with pytest.raises(ValueError, match="it has 16 bits a channel"):
            decode_rgb(buffer.getvalue(), None, None, Decoding(bit_depth=depth))


def test_8_bit_images_do_not_change(rng: np.random.Generator) -> None:
    for shape in ((9, 8), (9, 8, 3)):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        for image_format in ("PNG", "TIFF", "PPM", "BMP"):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, image_format)
            plain = decode_rgb(buffer.getvalue(), None, FORMATS)
            asked = decode_rgb(buffer.getvalue(), None, FORMATS, Decoding(bit_depth=12))
            whole = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
            np.testing.assert_array_equal(plain, whole)
            np.testing.assert_array_equal(asked, whole)


def folder_of(root: Path, images: list[bytes], ending: str = "png") -> Path:
    """Two classes, of which the first has these images."""
    for name, contents in (("a", images), ("b", [png8(), png8(), png8()])):
        (root / name).mkdir(parents=True)
        for index, content in enumerate(contents):
            (root / name / f"{index}.{ending if name == 'a' else 'png'}").write_bytes(content)
    return root


def png8(mode: str = "RGB", fill: int = 9, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4), fill).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_the_error_names_the_file_and_its_depth(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 4096, (32, 32, 4), dtype=np.uint16)
    root = folder_of(tmp_path / "x", [png(values)] * 3)
    with pytest.raises(ValueError, match=r"a.0\.png cannot be read.*it has 16 bits.*--bit-depth"):
        load_data(root)
    splits = load_data(root, bit_depth=12)
    found = splits.test.images[splits.test.labels == 0].numpy()
    np.testing.assert_array_equal(found[0].transpose(1, 2, 0), expected(values, 12))
    assert splits.summary.converted == {"scaled": 3, "transparency": 3}
    assert splits.summary.converted_in_words() == (
        "images 3 scaled to 8 bits a channel, 3 lost transparency"
    )
    prints = {d: open_data(root, bit_depth=d).fingerprint for d in (None, 12, 16)}
    assert len(set(prints.values())) == 3
    members = [(f"{index}.png", png(values)) for index in range(6)]
    members += [(f"{index}.cls", b"%d" % (index % 2)) for index in range(6)]
    tar = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(ValueError, match=r"x\.tar: '\d' cannot be read.*it has 16 bits"):
        load_data(tar)
    assert load_data(tar, bit_depth=12).summary.converted == {"scaled": 6, "transparency": 6}


def test_transparency_animation_and_pages_are_counted(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), (70 * i, 9, 9)) for i in range(3)]

    def several(image_format: str, count: int, **options: Any) -> bytes:
        buffer = io.BytesIO()
        more = {"save_all": True, "append_images": frames[1:count]} if count > 1 else {}
        frames[0].save(buffer, image_format, **more, **options)
        return buffer.getvalue()

    opaque = io.BytesIO()
    Image.new("RGBA", (5, 4), (1, 2, 3, 255)).save(opaque, "PNG")
    half = io.BytesIO()
    Image.new("RGBA", (5, 4), (1, 2, 3, 128)).save(half, "PNG")
    grey = io.BytesIO()
    Image.new("LA", (5, 4), (9, 200)).save(grey, "PNG")
    images = {
        "0.gif": several("GIF", 3),
        "1.gif": several("GIF", 1),
        "2.webp": several("WEBP", 3, lossless=True),
        "3.tiff": several("TIFF", 2),
        "4.tiff": several("TIFF", 1),
        "5.png": several("PNG", 2),
        "6.png": opaque.getvalue(),
        "7.png": half.getvalue(),
        "8.png": png8("P", fill=0, transparency=0),
        "c.png": png8("P", fill=0, transparency=b"\x05\x06"),
        "9.png": png8("L", transparency=9),
        "a.png": grey.getvalue(),
        "b.jpg": several("MPO", 2),
    }
    root = folder_of(tmp_path / "x", [])
    for name, content in images.items():
        (root / "a" / name).write_bytes(content)
    splits = load_data(root)
    converted = {"frames": 3, "pages": 2, "transparency": 5}
    assert splits.summary.converted == converted
    assert splits.summary.to_dict()["converted"] == converted
    source = open_data(root, split="all")
    assert source.summary().converted == {}
    for _ in range(2):  # an image that is read twice counts once
        source.read(0, len(source))
    assert source.summary().converted == converted
    first = splits.train.images.new_tensor((0, 9, 9))
    keys = source.keys(0, len(source))
    for name in ("0.gif", "2.webp", "3.tiff", "5.png"):
        position = keys.index(f"a/{name}")
        assert (source.read(position, position + 1)[0, :, 0, 0] == first).all()


def test_very_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_of(tmp_path / "x", [png8()] * 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9)  # Pillow raises above twice as many
    with pytest.raises(ValueError, match=r"a.0\.png cannot.*20 pixels.*\(--max-pixels\)"):
        load_data(root)
    with pytest.raises(ValueError, match=r"it has 5×4 = 20 pixels; accepted: at most 19"):
        load_data(root, max_pixels=19)
    assert len(load_data(root, max_pixels=20).test) == 2
    assert Image.MAX_IMAGE_PIXELS == 9


@pytest.mark.parametrize("option", [{"bit_depth": 10}, {"bit_depth": 0}, {"max_pixels": 0}])
def test_values_out_of_range(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*accepted"):
        load_data("digits", **option)  # type: ignore[arg-type]
