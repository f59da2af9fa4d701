"""Names and formats of a store's files: a manifest, and shards that hold a range of images each.

STORE/
  manifest.json               what the images are, how they were made, the list of shards
  shard-000000.safetensors    images 0 … N−1 at every snapshot, labels, keys
  shard-000001.safetensors    …
  shard-000001.json           a shard's record, until the manifest lists it
      .store.lock                 held while a run writes
"""

from __future__ import annotations

import re

import torch

FORMAT = "sign_ext.store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".store.lock"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# One shard's images where nobody chose: large enough that opening files costs nothing, small
# enough to lose without regret.
SHARD_BYTES = 64 << 20

_OURS = re.compile(r"shard-\d{6,}\.(safetensors|json)(\..+\.tmp)?|manifest\.json\..+\.tmp")


def is_ours(name: str) -> bool:
    """Tell whether a file name is of a shard, a record or what a killed writer left of one.

    Args:
        name: without folders.

    Example:
        >>> is_ours("shard-000012.safetensors"), is_ours("notes.txt")
        (True, False)
    """
    return _OURS.fullmatch(name) is not None


def shard_file(index: int) -> str:
    """Return the file name of a shard.

    Args:
        index: 0 or more.

    Example:
        >>> shard_file(12)
        'shard-000012.safetensors'
    """
    return f"shard-{index:06d}.safetensors"


def record_file(index: int) -> str:
    """Return the file name of a shard's record.

    Args:
        index: 0 or more.
    """
    return f"shard-{index:06d}.json"


def tensor_name(step: int) -> str:
    """Return the name of a snapshot's images in a shard.

    Args:
        step: number of steps, 1 or more.

    Example:
        >>> tensor_name(50)
        'images_000050'
    """
    return f"images_{step:06d}"


def default_shard_size(image_bytes: int, images: int) -> int:
    """Return how many images make a shard of about `SHARD_BYTES`.

    Args:
        image_bytes: what one image takes, all its snapshots together.
        images: in the data set; a shard is never larger.

    Example:
        >>> default_shard_size(2 * 3 * 32 * 32 * 4, 50_000)
        2730
    """
    return max(1, min(images, SHARD_BYTES // max(image_bytes, 1)))


def shard_range(index: int, shard_size: int, images: int) -> range:
    """Return the positions in the data set that a shard is made from.

    Args:
        index: of the shard.
        shard_size: images a shard.
        images: in the data set.

    Example:
        >>> shard_range(1, 4, 6)
        range(4, 6)
    """
    return range(index * shard_size, min((index + 1) * shard_size, images))


def shard_count(shard_size: int, images: int) -> int:
    """Return how many shards a data set makes.

    Args:
        shard_size: images a shard.
        images: in the data set.

    Example:
        >>> shard_count(4, 6)
        2
    """
    return -(-images // shard_size)
