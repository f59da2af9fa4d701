"""A store holds what SignTransform returns, and gives it back in every way it can be read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors import safe_open
from store_parts import SHAPE, make_sign, make_source
from torch.utils.data import DataLoader

import sign_ext
from sign_ext.data import ImageSet, fingerprint
from sign_ext.store import load_transformed, save_transformed, transform_to_store
from sign_ext.store.inspect import describe, in_words
from sign_ext.store.reader import require_made_from


def expected(source, **options):
    return make_sign(**options).transform(source.read(0, len(source)).float())


@pytest.mark.parametrize("shard_size", [1, 5, 23, 100, None])
def test_every_shard_size_holds_the_same_images(shard_size, sign, source, tmp_path):
    run = transform_to_store(sign, source, tmp_path / "s", shard_size=shard_size)
    store = load_transformed(tmp_path / "s")
    wanted = expected(source)
    assert run.made == -(-23 // (shard_size or 23)) == len(store.manifest.shards)
    assert store.steps == (1, 3)
    for step in (1, 3):
        # The last batch of a shard is another shape, which may round otherwise.
        torch.testing.assert_close(store.tensor(step), wanted[step], rtol=1e-6, atol=1e-4)
    assert store.labels.tolist() == source.labels.tolist()
    assert store.indices.tolist() == list(range(23))
    assert store.keys == tuple(source.keys(0, 23))
    assert store.class_names == ("a", "b", "c")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_values_are_the_computed_ones_rounded_once(dtype, sign, source, tmp_path):
    name = str(dtype).removeprefix("torch.")
    transform_to_store(sign, source, tmp_path, shard_size=8, dtype=name)
    # Shards of 8 in batches of 4: the last one has 4 and 3.
    wanted = expected(source)
    store = load_transformed(tmp_path)
    assert torch.equal(store.tensor(3, dtype=dtype), wanted[3].to(dtype))
    assert torch.equal(store.tensor(3), wanted[3].to(dtype).float())
    with safe_open(tmp_path / "shard-000001.safetensors", "pt") as file:
        assert file.get_tensor("images_000001").dtype == dtype
        assert file.get_tensor("labels").dtype == torch.int64
    bytes_an_image = 2 * int(np.prod(SHAPE)) * dtype.itemsize
    assert 0 < describe(tmp_path)["bytes"] - 23 * bytes_an_image < 5000


def test_a_value_that_float16_cannot_hold_is_refused(source, tmp_path):
    sign = make_sign(step_size=3e8, steps=1, snapshots=None)
    assert sign.transform(source.read(0, 4).float()).abs().max() > 65_504
    with pytest.raises(sign_ext.SignError, match="bfloat16 or float32"):
        transform_to_store(sign, source, tmp_path, dtype="float16")
    transform_to_store(sign, source, tmp_path, dtype="bfloat16", overwrite=True)
    assert torch.isfinite(load_transformed(tmp_path).tensor(1)).all()


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
    assert len(store._open) == 2


def test_description_and_change_are_of_these_images(sign, source, tmp_path):
    transform_to_store(sign, source, tmp_path, shard_size=6)
    store = describe(tmp_path)
    originals, wanted = source.read(0, 23).double(), expected(source)
    for step in (1, 3):
        delta = wanted[step].double() - originals
        assert store["change"][step]["rms"] == pytest.approx(
            float(delta.square().mean().sqrt()), rel=1e-4
        )
        assert store["change"][step]["largest"] == pytest.approx(float(delta.abs().max()), rel=1e-4)
    assert store["complete"]
    assert (store["images"], store["of"], store["shards"]) == (23, 23, 4)
    assert store["recipe"]["data"]["name"] == "random/train"
    text = "\n".join(f"{name} {words}" for name, words in in_words(store))
    assert "23 of 23" in text
    assert "K = 1, 3" in text


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
    with pytest.raises(ValueError, match=r"random/train, 23 images; these are 20"):
        require_made_from(store, originals.subset(range(20)))
    transform_to_store(sign, unreadable(4, 9), tmp_path / "b", shard_size=6, on_error="skip")
    require_made_from(load_transformed(tmp_path / "b"), originals)
    save_transformed(tmp_path / "c", {1: originals.float()}, originals.labels, recipe={})
    with pytest.raises(ValueError, match="not made by `sign-ext transform`"):
        require_made_from(load_transformed(tmp_path / "c"), originals)


def test_more_than_one_look_ahead_changes_nothing(sign, tmp_path, content_of):
    source = make_source(60)
    for readers in (1, 4):
        transform_to_store(sign, source, tmp_path / str(readers), shard_size=9, readers=readers)
    assert content_of(tmp_path / "1") == content_of(tmp_path / "4")


def test_tuned_choices_are_kept_and_obeyed(source, tmp_path, content_of, monkeypatch):
    tuned = make_sign(tune=True)
    run = transform_to_store(tuned, source, tmp_path / "a", shard_size=8)
    assert list(run.manifest.choices["choices"]) == ["4×3×9×7 float32"]
    before = content_of(tmp_path / "a")
    (tmp_path / "a" / "shard-000001.safetensors").unlink()

    def no_measuring(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr("sign_ext.engine.fused.engine.measure_choices", no_measuring)
    again = transform_to_store(make_sign(tune=True), source, tmp_path / "a", shard_size=8)
    assert again.made == 1
    assert content_of(tmp_path / "a") == before
    with pytest.raises(FileExistsError, match=r"engine\.tuned: true in the store, false now"):
        transform_to_store(make_sign(), source, tmp_path / "a", shard_size=8)
