"""Existing shards are kept, missing ones are made, and other settings are refused."""

from __future__ import annotations

import errno
import json

import pytest
from store_parts import SHARD, flip, make_net, make_sign, make_source

from sign_ext import SignTransform
from sign_ext.errors import DivergenceError
from sign_ext.store import (
    StoreError,
    load_transformed,
    transform_to_store,
    verify,
)
from sign_ext.store.shard import write_shard

CHANGES = {
    "settings.steps: 3 in the store, 4 now": {"steps": 4},
    "settings.step_size: 2.0 in the store, 2.5 now": {"step_size": 2.5},
    "settings.clamp: null in the store, [0.0, 255.0] now": {"clamp": (0, 255)},
    "settings.batch_size: 4 in the store, 5 now": {"batch_size": 5},
    "engine.backend: fused in the store, autograd now": {"backend": "autograd"},
}


def test_trust_looks_at_sizes_only(store, sign, source):
    flip(store / SHARD, 4000)
    assert transform_to_store(sign, source, store, shard_size=5, trust=True).made == 0
    (store / SHARD).write_bytes(b"short")
    assert transform_to_store(sign, source, store, shard_size=5, trust=True).made == 1


def test_a_complete_store_is_left_alone(store, sign, source):
    before = {each: each.stat().st_mtime_ns for each in store.iterdir()}
    run = transform_to_store(sign, source, store, shard_size=5)
    assert (run.made, run.kept, run.shares.images) == (0, 5, 0)
    assert {each: each.stat().st_mtime_ns for each in store.iterdir()} == before


def test_a_complete_store_may_be_read_only(store, sign, source, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(folder))

    monkeypatch.setattr("sign_ext.store.transform.exclusive_lock", refuse)
    before, folder = {each: each.read_bytes() for each in store.iterdir()}, store.stat()
    store.chmod(0o555)
    try:
        run = transform_to_store(sign, source, store, shard_size=5)
    finally:
        store.chmod(folder.st_mode)
    assert (run.made, run.kept, run.manifest.complete) == (0, 5, True)
    assert {each: each.read_bytes() for each in store.iterdir()} == before
    assert store.stat().st_mtime_ns == folder.st_mtime_ns
    flip(store / SHARD, 4000)
    with pytest.raises(StoreError, match="cannot be written"):
        transform_to_store(sign, source, store, shard_size=5)


@pytest.mark.parametrize("text", ["[1]", "{", '{"images": "5"}', '{"images": 10}'])
def test_a_broken_record_is_named_and_its_shard_made_again(store, sign, source, content_of, text):
    whole, messages = content_of(store), []
    manifest = json.loads((store / "manifest.json").read_text())
    for shard in manifest["shards"]:
        name = shard.pop("file").replace("safetensors", "json")
        (store / name).write_text(json.dumps(shard))
    (store / "manifest.json").write_text(json.dumps({**manifest, "shards": [], "complete": False}))
    (store / "shard-000002.json").write_text(text)
    run = transform_to_store(sign, source, store, shard_size=5, say=messages.append)
    assert (run.made, run.kept) == (1, 4)
    assert any("shard-000002.json" in each and "made again" in each for each in messages)
    assert content_of(store) == whole


def test_choices_that_are_no_tuning_plan_are_named(store, sign, source):
    path = store / "manifest.json"
    flip(store / SHARD, 4000)
    for broken in ({"format": 99}, {"format": 1, "machine": "", "choices": [1]}, {"a": 1}):
        path.write_text(json.dumps({**json.loads(path.read_text()), "choices": broken}))
        with pytest.raises(StoreError, match=r"manifest\.json: choices is not a tuning plan"):
            transform_to_store(sign, source, store, shard_size=5)


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


def test_overwrite_replaces_a_store_of_other_settings_only(store, sign, source):
    other_file = store / "notes.txt"
    other_file.write_text("mine")
    assert transform_to_store(sign, source, store, shard_size=5, overwrite=True).made == 0
    run = transform_to_store(make_sign(steps=4), source, store, shard_size=9, overwrite=True)
    assert run.made == 3
    assert verify(store).faults == ()
    assert sorted(each.name for each in store.glob("shard*")) == [
        f"shard-00000{i}.safetensors" for i in range(3)
    ]
    assert other_file.read_text() == "mine"
    assert verify(store).notes == ("notes.txt is not part of this store",)


def test_leftovers_of_a_killed_run_are_removed(store, sign, source, content_of):
    whole = content_of(store)
    for name in (
        "shard-000001.safetensors.host-12.tmp",
        "shard-000001.json.12.tmp",
        ".tmpa1B2c3",  # of safetensors
    ):
        (store / name).write_bytes(b"half")
    (store / "manifest.json.77.tmp").write_text("{")
    assert len(verify(store).notes) == 4
    transform_to_store(sign, source, store, shard_size=5)
    assert content_of(store) == whole


def test_an_unfinished_store_says_how_far_it_is(store, sign, source):
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "shards": [], "complete": False}))
    for shard in (0, 2):
        (store / f"shard-00000{shard}.safetensors").unlink()
    with pytest.raises(StoreError, match=r"3 of 5 shards"):
        load_transformed(store)
    faults = verify(store).faults
    assert [fault for fault in faults if "has no record" not in fault] == [
        "the store is unfinished: it has 3 of 5 shards, and manifest.json lists no shards yet"
    ]
    assert len(faults) == 4
    assert verify(store).unfinished
    # Shards without a record cannot be trusted, so all are made.
    assert transform_to_store(sign, source, store, shard_size=5).made == 5


@pytest.mark.parametrize("lost", ["all", "some"])
def test_shards_without_a_manifest_are_not_lost(lost, store, source, content_of):
    (store / "manifest.json").unlink()
    if lost == "all":
        for shard in store.glob("shard-*"):
            shard.unlink()
        (store / "shard-000007.safetensors").write_bytes(b"mine")
    before = content_of(store)
    with pytest.raises(FileExistsError, match=r"shard-00000\d\.safetensors.*--overwrite"):
        transform_to_store(make_sign(steps=4), source, store, shard_size=5)
    assert content_of(store) == before
    assert transform_to_store(make_sign(), source, store, shard_size=5, overwrite=True).made == 5


def test_files_of_others_are_not_replaced(sign, source, tmp_path):
    text = '{"name": "a web page", "icons": []}'
    (tmp_path / "manifest.json").write_text(text)
    (tmp_path / "shard-000000.safetensors").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"manifest\.json is not the manifest of a store"):
        transform_to_store(sign, source, tmp_path, overwrite=True)
    assert (tmp_path / "manifest.json").read_text() == text
    assert (tmp_path / "shard-000000.safetensors").read_bytes() == b"mine"


def test_the_folder_of_a_training_run_is_refused(sign, source, tmp_path):
    for name in ("last.safetensors", "model.safetensors"):
        folder = tmp_path / name[:4]
        folder.mkdir()
        (folder / name).write_bytes(b"a network")
        with pytest.raises(FileExistsError, match=name):
            transform_to_store(sign, source, folder, overwrite=True)
        assert [each.name for each in folder.iterdir()] == [name]


def dying_at(monkeypatch, call):
    """Let writing the CALLth shard fail."""
    calls = []

    def write(*arguments, **options):
        calls.append(arguments)
        if len(calls) == call:
            raise StoreError("the disk is full")
        return write_shard(*arguments, **options)

    monkeypatch.setattr("sign_ext.store.pipeline.write_shard", write)


def test_an_overwritten_store_comes_back_unless_a_new_shard_exists(
    store, source, content_of, monkeypatch
):
    before, other = content_of(store), make_sign(steps=4)
    dying_at(monkeypatch, 1)
    with pytest.raises(StoreError, match="disk is full"):
        transform_to_store(other, source, store, shard_size=5, overwrite=True)
    assert content_of(store) == before
    dying_at(monkeypatch, 2)
    with pytest.raises(StoreError, match="disk is full"):
        transform_to_store(other, source, store, shard_size=5, overwrite=True)
    assert not (store / ".replaced").exists()
    assert transform_to_store(other, source, store, shard_size=5).kept == 1


def test_an_overwritten_store_comes_back_from_a_kill(store, sign, source, content_of, monkeypatch):
    before, other = content_of(store), make_sign(steps=4)
    dying_at(monkeypatch, 1)
    with monkeypatch.context() as patch:
        patch.setattr("sign_ext.store.lifecycle.bring_back", lambda folder: None)
        with pytest.raises(StoreError, match="disk is full"):
            transform_to_store(other, source, store, shard_size=5, overwrite=True)
    assert any("brings it back" in note for note in verify(store).notes)
    with pytest.raises(FileExistsError, match=r"settings\.steps: 3 in the store, 4 now"):
        transform_to_store(other, source, store, shard_size=5)
    assert content_of(store) == before
    assert transform_to_store(sign, source, store, shard_size=5).kept == 5


def test_a_part_of_the_recipe_is_not_shown_as_json(store, source, sign):
    about = {"calibration": {"data": "photos/train", "rms": 5.1}}
    with pytest.raises(FileExistsError) as refused:
        transform_to_store(sign, source, store, shard_size=5, about=about)
    assert "calibration (--step-size auto): nothing in the store, recorded now" in str(
        refused.value
    )
    assert "{" not in str(refused.value)


def test_one_range_of_images_diverges(source, tmp_path, monkeypatch):
    transform, calls = SignTransform.transform, []

    def diverging(self, images, **options):
        if options.get("out") is not None:
            calls.append(len(images))
            if len(calls) == 3:
                raise DivergenceError("step 2 of 3 is not finite for images 0 to 3", 2)
        return transform(self, images, **options)

    monkeypatch.setattr(SignTransform, "transform", diverging)
    with pytest.raises(DivergenceError) as raised:
        transform_to_store(make_sign(), source, tmp_path, shard_size=5)
    assert str(raised.value) == (
        "random/train, counting images from the one at position 10: "
        "step 2 of 3 is not finite for images 0 to 3"
    )
