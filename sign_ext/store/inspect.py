"""What a store is, as plain data and in words, without reading its shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sign_ext.compiler.ir.program import bytes_in_words
from sign_ext.store.change import together
from sign_ext.store.layout import shard_file
from sign_ext.store.lifecycle import entries
from sign_ext.store.manifest import read_manifest


def describe(folder: str | Path) -> dict[str, Any]:
    """Say what a store is, without reading its shards.

    Args:
        folder: the store, finished or not.

    Returns:
        Plain data: counts, sizes, what is there, and the recipe.

    Raises:
        FileNotFoundError: no manifest.
        ValueError: a manifest of another format.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    known = entries(folder, manifest)
    there = [i for i in range(manifest.shard_count) if (folder / shard_file(i)).is_file()]
    skipped = [each for entry in known.values() for each in entry.skipped]
    return {
        "folder": str(folder),
        "complete": manifest.complete,
        "images": sum(known[i].images for i in there if i in known),
        "of": manifest.images,
        "image_shape": list(manifest.image_shape),
        "snapshots": list(manifest.snapshots),
        "dtype": manifest.dtype,
        "classes": len(manifest.class_names),
        "class_names": list(manifest.class_names),
        "shards": len(there),
        "of_shards": manifest.shard_count,
        "shard_size": manifest.shard_size,
        "bytes": sum(known[i].bytes for i in there if i in known),
        "change": {
            step: {"rms": each.rms, "largest": each.largest}
            for step, each in together(entry.change for entry in known.values()).items()
        },
        "skipped": [{"index": s.index, "key": s.key, "why": s.why} for s in skipped],
        "choices": manifest.choices,
        "recipe": manifest.recipe,
    }


def in_words(store: dict[str, Any]) -> list[tuple[str, str]]:
    """The main lines of `describe`, as (name, text).

    Args:
        store: what `describe` returned.
    """
    shape = "×".join(map(str, store["image_shape"]))
    steps = ", ".join(map(str, store["snapshots"]))
    state = "complete" if store["complete"] else "unfinished"
    rows = [
        ("store", f"{store['folder']}, {state}"),
        ("images", f"{store['images']:,} of {store['of']:,}, {shape}, {store['dtype']}"),
        ("snapshots", f"K = {steps}"),
        ("classes", ", ".join(store["class_names"][:10]) + (" …" * (store["classes"] > 10))),
        (
            "shards",
            f"{store['shards']:,} of {store['of_shards']:,}, {store['shard_size']:,} images each, "
            f"{bytes_in_words(store['bytes'])}",
        ),
    ]
    rows += [
        (
            f"K = {step}",
            f"changed by {each['rms']:.3g} grey levels rms, at most {each['largest']:.3g}",
        )
        for step, each in store["change"].items()
    ]
    if store["skipped"]:
        first = store["skipped"][0]
        rows.append(("skipped", f"{len(store['skipped'])}, the first: {first['key']}"))
    return rows
