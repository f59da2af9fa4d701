"""Whether a store was made from the images at hand: its shards remember their originals."""

from __future__ import annotations

from sign_ext.data import ImageSet, fingerprint
from sign_ext.store.reader import Transformed


def require_made_from(store: Transformed, originals: ImageSet) -> None:
    """Refuse to join a store with images that it was not made from.

    Args:
        store: open for reading.
        originals: the images, in the order of the data set.

    Raises:
        ValueError: a shard was made from other images, or in another order.
    """
    data = store.recipe.get("data", {})
    what = (
        f"{store.folder} holds {data.get('name', 'unknown data')}, {store.manifest.images:,} images"
    )
    hint = "use the same --data, --train-size, --image-size and --seed in both commands"
    if store.manifest.images != len(originals):
        raise ValueError(
            f"{store.folder} was not made from this training set ({what}; these are "
            f"{len(originals):,}): {hint}"
        )
    for shard, entry in enumerate(store.manifest.shards):
        if entry.originals is None:
            raise ValueError(f"{what}, but not which: it was not made by `sign-ext transform`")
        rows = store.indices[store.shard_rows(shard)]
        if fingerprint(originals.subset(rows)) != entry.originals:
            raise ValueError(f"{store.folder} was not made from this training set ({what}): {hint}")
