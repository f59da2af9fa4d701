"""What is there is kept, what is missing or damaged is made, and other settings are refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store_parts import make_net, make_sign, make_source

from sign_ext import SignTransform
from sign_ext.store import (
    StoreError,
    load_transformed,
    save_transformed,
    transform_to_store,
    verify,
)
from sign_ext.store.manifest import differences

SHARD = "shard-000002.safetensors"


@pytest.fixture
def store(sign, source, tmp_path):
    folder = tmp_path / "store"
    transform_to_store(sign, source, folder, shard_size=5)
    return folder


def flip(path, where):
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)


def damages(store):
    """Each does one thing to the store; all must be found and mended."""
    size = (store / SHARD).stat().st_size
    yield "damaged", lambda: flip(store / SHARD, size - 1)
    yield "damaged", lambda: flip(store / SHARD, 9)  # in the header
    yield "damaged", lambda: flip(store / SHARD, size // 2)
    yield "truncated", lambda: (store / SHARD).write_bytes((store / SHARD).read_bytes()[:-7])
    yield "truncated", lambda: (store / SHARD).write_bytes(b"")
    yield "missing", lambda: (store / SHARD).unlink()


def test_damage_is_found_and_mended_to_the_same_bytes(store, sign, source, content_of):
    whole, said = content_of(store), []
    assert verify(store).faults == ()
    for word, damage in damages(store):
        damage()
        verdict = verify(store)
        (fault,) = verdict.faults
        assert SHARD in fault
        assert word in fault
        assert verdict.whole == 4
        run = transform_to_store(sign, source, store, shard_size=5, say=said.append)
        assert (run.made, run.kept) == (1, 4)
        assert content_of(store) == whole
    assert sum("made again" in line for line in said) == 5  # a missing one is nothing to tell


def test_trust_looks_at_sizes_only(store, sign, source):
    flip(store / SHARD, 4000)
    assert transform_to_store(sign, source, store, shard_size=5, trust=True).made == 0
    (store / SHARD).write_bytes(b"short")
    assert transform_to_store(sign, source, store, shard_size=5, trust=True).made == 1


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


def test_a_complete_store_is_left_alone(store, sign, source):
    before = {each: each.stat().st_mtime_ns for each in store.iterdir()}
    run = transform_to_store(sign, source, store, shard_size=5)
    assert (run.made, run.kept, run.shares.images) == (0, 5, 0)
    assert {each: each.stat().st_mtime_ns for each in store.iterdir()} == before


CHANGES = {
    "settings.steps: 3 in the store, 4 now": {"steps": 4},
    "settings.step_size: 2.0 in the store, 2.5 now": {"step_size": 2.5},
    "settings.clamp: null in the store, [0.0, 255.0] now": {"clamp": (0, 255)},
    "settings.batch_size: 4 in the store, 5 now": {"batch_size": 5},
    "engine.backend: fused in the store, autograd now": {"backend": "autograd"},
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_changed_setting_is_refused_with_the_difference(words, store, source, content_of):
    before = content_of(store)
    with pytest.raises(FileExistsError) as refused:
        transform_to_store(make_sign(**CHANGES[words]), source, store, shard_size=5)
    assert words in str(refused.value)
    assert "--overwrite" in str(refused.value)
    assert content_of(store) == before


def test_a_changed_network_or_data_set_or_shape_is_refused(store, sign, source):
    other = SignTransform(make_net(4), **vars(make_sign().settings))
    with pytest.raises(FileExistsError, match=r"network\.weights_sha256"):
        transform_to_store(other, source, store, shard_size=5)
    with pytest.raises(FileExistsError, match=r"data\.fingerprint"):
        transform_to_store(sign, make_source(seed=6), store, shard_size=5)
    with pytest.raises(FileExistsError, match=r"images: 23 in the store, 24 now"):
        transform_to_store(sign, make_source(24), store, shard_size=5)
    with pytest.raises(FileExistsError, match=r"shard_size: 5 in the store, 6 now"):
        transform_to_store(sign, source, store, shard_size=6)
    with pytest.raises(FileExistsError, match=r"dtype: float32 in the store, float16 now"):
        transform_to_store(sign, source, store, shard_size=5, dtype="float16")
    with pytest.raises(FileExistsError, match=r"photos: nothing in the store, 7 now"):
        transform_to_store(sign, source, store, shard_size=5, about={"photos": 7})


def test_overwrite_begins_anew_but_keeps_what_is_the_same(store, sign, source):
    stranger = store / "notes.txt"
    stranger.write_text("mine")
    assert transform_to_store(sign, source, store, shard_size=5, overwrite=True).made == 0
    run = transform_to_store(make_sign(steps=4), source, store, shard_size=9, overwrite=True)
    assert run.made == 3
    assert verify(store).faults == ()
    assert sorted(each.name for each in store.glob("shard*")) == [
        f"shard-00000{i}.safetensors" for i in range(3)
    ]
    assert stranger.read_text() == "mine"
    assert verify(store).notes == ("notes.txt is not of this store",)


def test_leftovers_of_a_killed_run_are_removed(store, sign, source, content_of):
    whole = content_of(store)
    for name in ("shard-000001.safetensors.host-12.tmp", "shard-000001.json.12.tmp"):
        (store / name).write_bytes(b"half")
    (store / "manifest.json.77.tmp").write_text("{")
    assert len(verify(store).notes) == 3
    transform_to_store(sign, source, store, shard_size=5)
    assert content_of(store) == whole


def test_a_manifest_that_was_changed_is_refused(store, sign, source):
    path = store / "manifest.json"
    text = path.read_text()
    changes = {
        '"format": "sign_ext.store"': '"format": "other"',
        '"format_version": 1': '"format_version": 2',
        '"shard-000003.safetensors"': '"../../etc/passwd"',
        '"dtype": "float32"': '"dtype": "int3"',
        '"complete": true': '"complete": false',
        '"sha256": "': '"sha256": "zz',
        "{": "",
    }
    for old, new in changes.items():
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"manifest\.json"):
            load_transformed(store)
        with pytest.raises(FileExistsError, match="--overwrite"):
            transform_to_store(sign, source, store, shard_size=5)
    transform_to_store(sign, source, store, shard_size=5, overwrite=True)
    assert verify(store).faults == ()
    with pytest.raises(FileNotFoundError, match="sign-ext transform"):
        load_transformed(store.parent)


def test_an_unfinished_store_says_how_far_it_is(store, sign, source):
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shards": [], "complete": False}))
    (store / SHARD).unlink()
    with pytest.raises(StoreError, match=r"4 of 5 shards"):
        load_transformed(store)
    faults = verify(store).faults
    assert any("unfinished" in fault for fault in faults)
    assert any("has no record" in fault for fault in faults)
    # Shards without a record cannot be trusted, so all are made.
    assert transform_to_store(sign, source, store, shard_size=5).made == 5


def test_images_in_memory_round_trip(tmp_path, torch_rng):
    both = torch.randn(10, 3, 7, 9, generator=torch_rng) * 300
    turned = both[:5].to(memory_format=torch.channels_last)
    snapshots = {1: both[:5], 2: both[5:], 3: both[2:7], 4: turned, 5: both[:5]}
    labels = torch.tensor([4, 0, 2, 2, 1])
    save_transformed(tmp_path / "s", snapshots, labels, recipe={"a": (1, 2)}, shard_size=2)
    store = load_transformed(tmp_path / "s")
    assert store.recipe == {"a": [1, 2]}
    for step, images in snapshots.items():
        assert torch.equal(store.tensor(step), images)
    assert torch.equal(store.labels, labels)
    again = {1: both[1:6]}
    with pytest.raises(FileExistsError, match="snapshots"):
        save_transformed(tmp_path / "s", again, labels, recipe={"a": [1, 2]})
    with pytest.raises(FileExistsError, match=r"a: \[1, 2\] in the store, 3 now"):
        save_transformed(tmp_path / "s", snapshots, labels, recipe={"a": 3}, shard_size=2)
    save_transformed(tmp_path / "s", again, labels, recipe={"a": 3}, overwrite=True)
    assert torch.equal(load_transformed(tmp_path / "s").tensor(1), both[1:6])


def test_what_could_not_be_read_back_is_refused(tmp_path):
    good, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    wrong = [
        (TypeError, {1: good.double()}, labels, {}, "float64"),
        (TypeError, {1: good}, labels.int(), {}, "int32"),
        (TypeError, {1: good}, labels, {"a": object()}, "JSON"),
        (TypeError, {1: good}, labels, {"a": float("nan")}, "JSON"),
        (ValueError, {}, labels, {}, "empty"),
        (ValueError, {0: good}, labels, {}, "≥ 1"),
        (ValueError, {1: good[:1]}, labels, {}, "shape"),
        (ValueError, {1: good[:0]}, labels[:0], {}, "no images"),
    ]
    for error, snapshots, given_labels, recipe, words in wrong:
        with pytest.raises(error, match=words):
            save_transformed(tmp_path / "none", snapshots, given_labels, recipe=recipe)
    assert not (tmp_path / "none").exists()


@given(st.recursive(st.integers() | st.text(), lambda deep: st.dictionaries(st.text(), deep)))
def test_nothing_differs_from_itself(value):
    assert differences(value, json.loads(json.dumps(value))) == []
    assert differences({"a": value}, {}) != []
