"""Random numbers of each image's own, from a seed and the image's position in its data set.

Whatever is drawn for an image is the same on every device, in every batch and shard and process,
and beside any other images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


def draw_each(
    shape: Sequence[int],
    seed: int,
    numbers: Sequence[tuple[int, int]],
    draw: Callable[[Tensor, Generator], Any],
) -> Tensor:
    """Fill one tensor for each pair of numbers, from the seed and this pair alone.

    Args:
        shape: of one tensor.
        seed: 0 or above.
        numbers: (draw, index) of each tensor, both 0 or above: the how manieth draw for an image,
            and the image's position in its data set.
        draw: fills a float32 tensor in place, with numbers of the generator.

    Returns:
        float32 (len(numbers), *shape), on the CPU.

    Example:
        >>> def normal(noise, generator):
        ...     noise.normal_(generator=generator)
        >>> both = draw_each((3,), 0, [(0, 7), (0, 9)], normal)
        >>> torch.equal(both[1:], draw_each((3,), 0, [(0, 9)], normal))
        True
    """
    noise = torch.empty((len(numbers), *shape))
    generator = Generator()
    for each, pair in zip(noise, numbers, strict=True):
        words = np.random.SeedSequence((seed, *pair)).generate_state(1, np.uint64)
        draw(each, generator.manual_seed(int(words[0]) >> 1))
    return noise


def seed_from(seed: Any, generator: Any) -> int:
    """Return the seed, or one that is drawn from a generator.

    Args:
        seed: an integer, 0 or above.
        generator: on the CPU; None to take the seed.

    Raises:
        TypeError: neither is what it should be.
        ValueError: a negative seed, or a generator on another device.

    Example:
        >>> seed_from(3, None)
        3
    """
    if generator is None:
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed must be an integer, got {seed!r}")
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        return seed
    if not isinstance(generator, Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != "cpu":
        raise ValueError(
            f"generator is on {generator.device}; random numbers are drawn on the CPU, the same on "
            "every device: pass torch.Generator()"
        )
    return int(torch.randint(2**63 - 1, (), generator=generator))


def indices_of(indices: Any, images: Tensor) -> list[int]:
    """Return the images' positions in their data set, by default 0 to N − 1.

    Args:
        indices: integers (N,), 0 or above, on any device; or None.
        images: (N, ...).

    Raises:
        TypeError: no tensor of integers.
        ValueError: of another length, or negative.

    Example:
        >>> indices_of(None, torch.zeros(2, 3)), indices_of(torch.tensor([9, 4]), torch.zeros(2, 3))
        ([0, 1], [9, 4])
    """
    if indices is None:
        return list(range(len(images)))
    if not isinstance(indices, Tensor):
        raise TypeError(f"indices must be a torch.Tensor of integers, got {type(indices).__name__}")
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"indices must be integers, positions in the data set; got {indices.dtype}")
    if indices.shape != (len(images),):
        raise ValueError(
            f"indices must have shape ({len(images)},), one position for each image; got "
            f"{tuple(indices.shape)}"
        )
    found: list[int] = indices.tolist()
    if found and min(found) < 0:
        raise ValueError(f"indices must be at least 0, got {min(found)}")
    return found
