"""Every way of reading a store gives the stored images."""

from __future__ import annotations

import pickle

import pytest
import torch
from store_parts import SHARD
from torch.utils.data import DataLoader

import sign_ext
from sign_ext.data import ImageSet, fingerprint
from sign_ext.store import (
    StoreError,
    load_transformed,
    save_transformed,
    transform_to_store,
)
from sign_ext.store.reader import require_made_from


def test_random_access_equals_reading_whole(sign, source, tmp_path, rng):
    transform_to_store(sign, source, tmp_path, shard_size=4)
    store = sign_ext.load_transformed(tmp_path)
    whole = store.snapshots
    positions = rng.integers(-23, 23, 40).tolist()
    assert torch.equal(store.images(3, positions), whole[3][positions])
    images, label = store[7]
    assert torch.equal(images[1], whole[1][7])
    assert label == int(store.labels[7])
    for outside in (23, -24):
        with pytest.raises(IndexError, match="holds 23 images"):
            store[outside]
    with pytest.raises(KeyError, match="no snapshot 2"):
        store.at(2)
    with pytest.raises(KeyError, match="no snapshot 2"):
        store.tensor(2)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_reads_it(workers, sign, source, tmp_path):
    transform_to_store(sign, source, tmp_path, shard_size=5)
    store = load_transformed(tmp_path)
    loader = DataLoader(store.at(3), batch_size=6, shuffle=True, num_workers=workers)
    batches = list(loader)
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert len(images) == 23
    whole, remaining = store.tensor(3), list(range(23))
    for image, label in zip(images, labels, strict=True):
        place = next(i for i in remaining if torch.equal(whole[i], image))
        remaining.remove(place)
        assert int(store.labels[place]) == int(label)
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.tensor(1), store.tensor(1))


def test_few_shards_are_open_at_a_time(sign, source, tmp_path, monkeypatch):
    monkeypatch.setattr("sign_ext.store.reader.OPEN_SHARDS", 2)
    transform_to_store(sign, source, tmp_path, shard_size=1)
    store = load_transformed(tmp_path)
    images = store.images(3, range(23))
    assert torch.equal(images, store.tensor(3))
    assert store._shard.cache_info().currsize == 2
    assert len(pickle.loads(pickle.dumps(store)).images(1, range(23))) == 23


def test_a_damaged_store_is_not_opened(store):
    content = (store / SHARD).read_bytes()
    for left in (content[:-7], None):
        (store / SHARD).unlink(missing_ok=True)
        if left is not None:
            (store / SHARD).write_bytes(left)
        with pytest.raises(StoreError, match=r"shard-000002.*transform"):
            load_transformed(store)
    (store / SHARD).write_bytes(b"\xff" * len(content))
    with pytest.raises(StoreError, match="verify"):
        load_transformed(store).tensor(1)


def test_joining_asks_for_the_originals(sign, source, tmp_path, unreadable):
    transform_to_store(sign, source, tmp_path / "a", shard_size=6)
    store = load_transformed(tmp_path / "a")
    originals = source.read_all()
    require_made_from(store, originals)
    assert store.manifest.shards[1].originals == fingerprint(originals.subset(range(6, 12)))
    other = originals.images.clone()
    other[22, 0, 0, 0] += 1
    changed = ImageSet(other, originals.labels, originals.class_names, "x")
    with pytest.raises(ValueError, match="not made from this training set"):
        require_made_from(store, changed)
    small = ImageSet(originals.images[:, :, :5], originals.labels, originals.class_names, "x")
    with pytest.raises(ValueError, match=r"9×7 in the store, 5×7 here.*--image-size"):
        require_made_from(store, small)
    with pytest.raises(ValueError, match=r"random/train, 23 images; these are 20"):
        require_made_from(store, originals.subset(range(20)))
    transform_to_store(sign, unreadable(4, 9), tmp_path / "b", shard_size=6, on_error="skip")
    require_made_from(load_transformed(tmp_path / "b"), originals)
    save_transformed(tmp_path / "c", {1: originals.float()}, originals.labels, recipe={})
    with pytest.raises(ValueError, match="not made by `sign-ext transform`"):
        require_made_from(load_transformed(tmp_path / "c"), originals)
