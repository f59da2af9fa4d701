"""Coloured drawings of ten things, generated: a data set to try SIGN on that needs no download.

CIFAR-10's photographs may not be passed on (no licence is stated for them), and the images that
come with libraries are too few or too small. These are drawn when they are read, at any size, and
a person recognises them at 32×32. Colours, size, place, tilt, background and noise are drawn at
random and say nothing about the class, so a network has to learn the shapes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.lazy import DEFAULT_SIZE, ImageIndex, LazyDataset
from sign_ext.data.splits import SubsetSpec

CLASS_NAMES = (
    "boat",
    "butterfly",
    "car",
    "cup",
    "fish",
    "flower",
    "house",
    "rocket",
    "snowman",
    "tree",
)
COUNTS = {"train": 3000, "validation": 200, "test": 1000}
# Raise when an image changes: the fingerprint of a store then changes, too.
VERSION = 1
OVERSAMPLING = 4  # pixels drawn along each side of a pixel
NOISE = 8.0  # standard deviation in grey levels
DARKEST, LIGHTEST = 0.05, 0.45  # the value (HSV) of a background's colours
LEAST_CONTRAST = 0.25  # between a thing and what is behind it, in luminance (0–1)

# (N, 2) in a square from −1 to 1, x to the right and y down.
Outline = np.ndarray
# A thing is painted from back to front: (which of its three colours, outline).
Painting = list[tuple[int, Outline]]


def open_drawings(subset: SubsetSpec) -> LazyDataset:
    """List the drawings: 3,000 for training, 200 for validation and 1,000 for testing.

    Args:
        subset: subset sizes and image size (default 32).

    Returns:
        The data set; its images are drawn when they are read.

    Raises:
        ModuleNotFoundError: Pillow is not installed.
        ValueError: a subset larger than its split.

    Example:
        >>> drawings = open_drawings(SubsetSpec(train_size=20)).read()
        >>> len(drawings.train), drawings.class_names[:3], drawings.image_shape
        (20, ('boat', 'butterfly', 'car'), (3, 32, 32))
    """
    import PIL.ImageDraw  # noqa: F401 (missing, it is named here and not by the first image)

    size = subset.image_size or DEFAULT_SIZE
    total = sum(COUNTS.values())
    labels = np.arange(total, dtype=np.int64) % len(CLASS_NAMES)

    def read(positions: np.ndarray) -> Tensor:
        return torch.stack([draw(int(labels[i]), int(i), size) for i in positions])

    def identities(positions: np.ndarray) -> list[bytes]:
        return [f"drawing {VERSION} {position}".encode() for position in positions]

    index = ImageIndex(labels, read, size, identities)
    ends = np.cumsum(list(COUNTS.values()))
    train, validation, test = (
        (index, np.arange(end - count, end))
        for count, end in zip(COUNTS.values(), ends, strict=True)
    )
    note = f"{total:,} generated drawings of ten things"
    return LazyDataset("drawings", note, CLASS_NAMES, (train, validation, test), subset)


def draw(label: int, number: int, size: int = DEFAULT_SIZE) -> Tensor:
    """Draw one image; equal arguments give the same image.

    Args:
        label: index into CLASS_NAMES.
        number: which image; chooses all that is random.
        size: height and width in pixels.

    Returns:
        uint8 (3, size, size).

    Example:
        >>> draw(6, 0).shape, bool((draw(6, 0) == draw(6, 0)).all())
        (torch.Size([3, 32, 32]), True)
    """
    from PIL import Image, ImageDraw

    # RandomState, whose stream NumPy guarantees never to change between releases.
    random = np.random.RandomState([VERSION, number])
    side = OVERSAMPLING * size
    behind = _colour(random, DARKEST, LIGHTEST), _colour(random, DARKEST, LIGHTEST)
    image = Image.fromarray(_gradient(behind, random.uniform(0, 2 * math.pi), side))
    pen = ImageDraw.Draw(image)
    for _ in range(random.randint(2, 6)):  # what is in the background
        blob = ellipse(*random.uniform(-1, 1, 2), *random.uniform(0.08, 0.5, 2))
        pen.polygon(_pixels(blob, side), fill=_mixed(*behind, random.uniform(-0.4, 1.4)))
    colours = _colours_of_a_thing(random, behind)
    place = _placement(random)
    for colour, outline in PAINTINGS[label]():
        pen.polygon(_pixels(outline @ place[:, :2].T + place[:, 2], side), fill=colours[colour])
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    contrast, middle = random.uniform(0.7, 1.0), pixels.mean()
    noisy = middle + contrast * (pixels - middle) + random.normal(0.0, NOISE, pixels.shape)
    return torch.from_numpy(noisy.round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def _colour(random: np.random.RandomState, darkest: float, lightest: float) -> np.ndarray:
    hue, saturation, value = random.uniform([0, 0.15, darkest], [1, 0.9, lightest])
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def _colours_of_a_thing(
    random: np.random.RandomState, behind: Sequence[np.ndarray]
) -> list[tuple[int, int, int]]:
    """Three colours, of which the first stands out from both of the background's."""
    for _ in range(20):
        colours = [_colour(random, 0.1, 1.0) for _ in range(3)]
        back, body, second = (
            [_luminance(each) for each in group] for group in (behind, colours[:1], colours[1:])
        )
        if body[0] - max(back) > LEAST_CONTRAST and min(abs(body[0] - s) for s in second) > 0.12:
            break
    return [_bytes(each) for each in colours]


def _luminance(colour: np.ndarray) -> float:
    return float(colour @ (0.2126, 0.7152, 0.0722))


def _bytes(colour: np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (255 * colour).round().clip(0, 255).astype(int).tolist()
    return red, green, blue


def _mixed(one: np.ndarray, other: np.ndarray, share: float) -> tuple[int, int, int]:
    return _bytes((1 - share) * one + share * other)


def _gradient(ends: Sequence[np.ndarray], angle: float, side: int) -> np.ndarray:
    across = np.linspace(-0.5, 0.5, side)
    share = np.clip(0.5 + across * math.cos(angle) + across[:, None] * math.sin(angle), 0, 1)
    mixed = ends[0] + share[..., None] * (ends[1] - ends[0])
    return (255 * mixed).round().astype(np.uint8)


def _placement(random: np.random.RandomState) -> np.ndarray:
    """Scale, tilt, mirror and shift a thing: (2, 3), as [A | t] in x ↦ A·x + t."""
    scale, aspect = random.uniform(0.7, 0.92), random.uniform(0.85, 1.18)
    tilt = math.radians(random.uniform(-12, 12))
    mirror = 1.0 if random.uniform() < 0.5 else -1.0
    turn = np.array([[math.cos(tilt), -math.sin(tilt)], [math.sin(tilt), math.cos(tilt)]])
    matrix = turn @ np.diag([mirror * scale * aspect, scale / aspect])
    return np.column_stack([matrix, random.uniform(-1, 1, 2) * (1.0 - scale) * 0.8])


def _pixels(outline: Outline, side: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (outline + 1) * (side / 2) - 0.5]


def polygon(*points: tuple[float, float]) -> Outline:
    """An outline with these corners."""
    return np.array(points, dtype=np.float64)


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """A rectangle's outline."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def ellipse(x: float, y: float, width: float, height: float, tilt: float = 0.0) -> Outline:
    """An ellipse's outline: its middle, its half axes, and its tilt in degrees."""
    angle = np.linspace(0, 2 * math.pi, 33)[:-1]
    points = np.stack([width * np.cos(angle), height * np.sin(angle)])
    t = math.radians(tilt)
    turn = np.array([[math.cos(t), -math.sin(t)], [math.sin(t), math.cos(t)]])
    return (turn @ points).T + np.array([x, y])


def _boat() -> Painting:
    return [
        (0, polygon((-1, 0.3), (1, 0.3), (0.62, 0.85), (-0.68, 0.85))),
        (2, rectangle(-0.06, -1, 0.06, 0.32)),
        (1, polygon((0.12, -0.95), (0.85, 0.15), (0.12, 0.15))),
        (1, polygon((-0.12, -0.7), (-0.7, 0.15), (-0.12, 0.15))),
    ]


def _butterfly() -> Painting:
    wings = [(0, ellipse(side * 0.5, -0.38, 0.52, 0.4, side * -35)) for side in (-1, 1)]
    lower = [(0, ellipse(side * 0.42, 0.42, 0.4, 0.32, side * 40)) for side in (-1, 1)]
    spots = [(1, ellipse(side * 0.55, -0.4, 0.2, 0.2)) for side in (-1, 1)]
    feelers = [
        (2, polygon((0, -0.6), (side * 0.3, -1), (side * 0.38, -0.94), (side * 0.08, -0.55)))
        for side in (-1, 1)
    ]
    return [*wings, *lower, *spots, *feelers, (2, ellipse(0, 0.05, 0.12, 0.72))]


def _car() -> Painting:
    windows = [
        (1, polygon((-0.42, -0.36), (-0.06, -0.36), (-0.06, -0.02), (-0.55, -0.02))),
        (1, polygon((0.06, -0.36), (0.3, -0.36), (0.5, -0.02), (0.06, -0.02))),
    ]
    wheels = [(2, ellipse(x, 0.48, 0.26, 0.26)) for x in (-0.52, 0.52)]
    hubs = [(1, ellipse(x, 0.48, 0.11, 0.11)) for x in (-0.52, 0.52)]
    cabin = polygon((-0.5, -0.5), (0.38, -0.5), (0.68, 0.02), (-0.74, 0.02))
    body = polygon((-1, 0), (0.9, 0), (1, 0.2), (1, 0.48), (-1, 0.48))
    return [(0, cabin), *windows, (0, body), *wheels, *hubs]


def _cup() -> Painting:
    steam = [
        (2, ellipse(x + bend, y, 0.06, 0.14, 20 if bend > 0 else -20))
        for x in (-0.35, 0.1)
        for y, bend in ((-0.85, 0.05), (-0.62, -0.05))
    ]
    handle = [(0, ellipse(0.58, 0.2, 0.4, 0.38)), (2, ellipse(0.58, 0.2, 0.22, 0.2))]
    body = polygon((-0.75, -0.35), (0.5, -0.35), (0.36, 0.9), (-0.6, 0.9))
    return [*steam, *handle, (0, body), (1, ellipse(-0.12, -0.35, 0.62, 0.14))]


def _fish() -> Painting:
    return [
        (0, polygon((0.4, 0), (1, -0.5), (0.85, 0), (1, 0.5))),
        (1, polygon((-0.2, -0.35), (0.25, -0.8), (0.35, -0.25))),
        (0, ellipse(-0.22, 0, 0.74, 0.48)),
        (1, polygon((-0.1, 0.05), (0.3, 0.35), (0.25, 0.0))),
        (2, ellipse(-0.6, -0.12, 0.11, 0.11)),
    ]


def _flower() -> Painting:
    turns = [2 * math.pi * i / 6 for i in range(6)]
    petals = [
        (0, ellipse(0.4 * math.cos(t), -0.35 + 0.4 * math.sin(t), 0.3, 0.2, math.degrees(t)))
        for t in turns
    ]
    return [
        (2, rectangle(-0.06, -0.3, 0.06, 1)),
        (2, ellipse(0.3, 0.68, 0.3, 0.12, -30)),
        *petals,
        (1, ellipse(0, -0.35, 0.22, 0.22)),
    ]


def _house() -> Painting:
    return [
        (2, rectangle(0.4, -0.9, 0.62, -0.2)),
        (0, rectangle(-0.75, -0.15, 0.75, 0.9)),
        (1, polygon((-1, -0.1), (0, -0.95), (1, -0.1))),
        (2, rectangle(-0.5, 0.15, -0.12, 0.5)),
        (1, rectangle(0.15, 0.2, 0.5, 0.9)),
    ]


def _rocket() -> Painting:
    return [
        (2, polygon((-0.2, 0.5), (0.2, 0.5), (0, 1))),
        (1, polygon((-0.3, 0.05), (-0.68, 0.65), (-0.25, 0.5))),
        (1, polygon((0.3, 0.05), (0.68, 0.65), (0.25, 0.5))),
        (0, ellipse(0, -0.15, 0.34, 0.82)),
        (2, ellipse(0, -0.3, 0.16, 0.16)),
    ]


def _snowman() -> Painting:
    return [
        (0, ellipse(0, 0.5, 0.55, 0.48)),
        (0, ellipse(0, -0.12, 0.4, 0.36)),
        (0, ellipse(0, -0.55, 0.27, 0.25)),
        (2, rectangle(-0.22, -1, 0.22, -0.74)),
        (2, rectangle(-0.38, -0.78, 0.38, -0.68)),
        (1, polygon((0.02, -0.56), (0.4, -0.48), (0.02, -0.44))),
        *((2, ellipse(0, y, 0.07, 0.07)) for y in (-0.12, 0.12, 0.45)),
    ]


def _tree() -> Painting:
    return [
        (2, rectangle(-0.14, 0.4, 0.14, 1)),
        (0, polygon((-0.75, 0.6), (0, -0.2), (0.75, 0.6))),
        (0, polygon((-0.6, 0.15), (0, -0.6), (0.6, 0.15))),
        (0, polygon((-0.42, -0.35), (0, -1), (0.42, -0.35))),
        *((1, ellipse(x, y, 0.08, 0.08)) for x, y in ((-0.25, 0.4), (0.2, 0.1), (0.0, -0.4))),
    ]


PAINTINGS: tuple[Callable[[], Painting], ...] = (
    _boat,
    _butterfly,
    _car,
    _cup,
    _fish,
    _flower,
    _house,
    _rocket,
    _snowman,
    _tree,
)
