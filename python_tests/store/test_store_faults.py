"""Unreadable images, a full disk, a folder that cannot be written, two writers at once."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess

import pytest
import torch
from killed_run import hold_lock
from store_parts import make_source

from sign_ext import SignTransform
from sign_ext.errors import DivergenceError
from sign_ext.store import StoreError, StoreInUseError, load_transformed, transform_to_store, verify

pytestmark = pytest.mark.xdist_group("processes")


def test_an_unreadable_image_ends_the_run_and_nothing_is_lost(sign, unreadable, tmp_path):
    with pytest.raises(StoreError, match=r"photos/12\.jpg.*--on-error skip"):
        transform_to_store(sign, unreadable(12), tmp_path, shard_size=5)
    kept = {each.name: each.stat().st_mtime_ns for each in tmp_path.glob("*.safetensors")}
    assert set(kept) == {"shard-000000.safetensors", "shard-000001.safetensors"}
    run = transform_to_store(sign, unreadable(12), tmp_path, shard_size=5, on_error="skip")
    assert (run.made, run.kept) == (3, 2)
    for name, when in kept.items():
        assert (tmp_path / name).stat().st_mtime_ns == when


@pytest.mark.parametrize("bad", [(0,), (12,), (4, 5, 6), (22,), tuple(range(5, 10))])
def test_skipped_images_are_listed_and_left_out(bad, sign, unreadable, tmp_path, content_of):
    source = unreadable(*bad)
    transform_to_store(sign, source, tmp_path / "a", shard_size=5, on_error="skip")
    store = load_transformed(tmp_path / "a")
    left = [position for position in range(23) if position not in bad]
    assert store.indices.tolist() == left
    assert [each.index for each in store.skipped] == list(bad)
    assert [each.key for each in store.skipped] == [f"photos/ü{position}.png" for position in bad]
    assert all("cannot be read" in each.why for each in store.skipped)
    assert store.keys == tuple(f"photos/ü{position}.png" for position in left)
    assert store.labels.tolist() == source.labels[left].tolist()
    whole = sign.transform(make_source().read(0, 23).float())
    torch.testing.assert_close(store.tensor(3), whole[3][left], rtol=1e-6, atol=1e-4)
    assert verify(tmp_path / "a").faults == ()
    transform_to_store(sign, source, tmp_path / "b", shard_size=5, on_error="skip")
    assert content_of(tmp_path / "a") == content_of(tmp_path / "b")


def test_no_readable_image_at_all(sign, unreadable, tmp_path):
    with pytest.raises(ValueError, match=r"none of the first 23 images.*photos/22\.jpg"):
        transform_to_store(sign, unreadable(*range(23)), tmp_path / "s", on_error="skip")
    assert not (tmp_path / "s").exists()


@pytest.mark.filterwarnings("ignore:δ was negligible")
def test_a_diverging_run_says_where_and_keeps_what_it_has(source, tmp_path):
    class Cube(torch.nn.Module):
        def forward(self, images):
            return (images**3).flatten(1)

    # Black images stay black; a white one grows from 255 to infinity in five steps.
    def read(start, stop):
        white = torch.arange(start, stop) == 17
        return (white * 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 9, 7).contiguous()

    sign = SignTransform(torch.nn.Sequential(Cube(), torch.nn.Linear(189, 3)).eval(), 6)
    with pytest.raises(DivergenceError, match=r"images 15 to 19 of random/train: step \d"):
        transform_to_store(sign, dataclasses.replace(source, reader=read), tmp_path, shard_size=5)
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB; its size can be changed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be made here: {mounted.stderr.strip()}")

    def remount(options):
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    yield folder, remount
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(small_disk, sign, tmp_path, content_of):
    disk, remount = small_disk
    source, out = make_source(500), disk / "store"
    with pytest.raises(StoreError, match=r"the disk is full: .*shard-00000\d.*run the same"):
        transform_to_store(sign, source, out, shard_size=60)
    kept = {each.name: each.stat().st_mtime_ns for each in out.glob("*.safetensors")}
    assert 1 <= len(kept) < 9
    assert not list(out.glob("*.tmp"))
    remount("size=8m")
    run = transform_to_store(sign, source, out, shard_size=60)
    assert run.kept == len(kept)
    for name, when in kept.items():
        assert (out / name).stat().st_mtime_ns == when
    transform_to_store(sign, source, tmp_path / "other", shard_size=60)
    assert content_of(out) == content_of(tmp_path / "other")


def test_a_folder_that_cannot_be_written(small_disk, sign, source, tmp_path):
    disk, remount = small_disk
    out = disk / "store"
    transform_to_store(sign, source, out, shard_size=5)
    (out / "shard-000001.safetensors").unlink()
    remount("ro")
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
        transform_to_store(sign, source, out, shard_size=5)
    assert len(verify(out).faults) == 1
    remount("rw")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        transform_to_store(sign, source, tmp_path / "file" / "store", shard_size=5)


def test_a_second_writer_is_told_who_writes(sign, source, tmp_path, content_of):
    transform_to_store(sign, source, tmp_path / "wanted", shard_size=5)
    out = tmp_path / "store"
    out.mkdir()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(out, ready))
    holder.start()
    try:
        assert ready.wait(60)
        with pytest.raises(StoreInUseError, match=rf"another run \(process {holder.pid} on "):
            transform_to_store(sign, source, out, shard_size=5)
        assert any(".store.lock" in note for note in _notes(out))
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    assert (out / ".store.lock").exists()  # the file stays, the lock does not
    transform_to_store(sign, source, out, shard_size=5)
    assert content_of(out) == content_of(tmp_path / "wanted")


def _notes(out):
    shutil.copy(out.parent / "wanted" / "manifest.json", out)
    try:
        return verify(out).notes
    finally:
        (out / "manifest.json").unlink()


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path):
    from sign_ext.store.coordination import exclusive_lock

    with exclusive_lock(tmp_path):
        assert (tmp_path / ".store.lock").exists()
        with pytest.raises(StoreInUseError), exclusive_lock(tmp_path):
            pass
    assert not (tmp_path / ".store.lock").exists()
    with exclusive_lock(tmp_path):
        pass


def test_options_are_checked_before_anything_is_done(sign, source, tmp_path):
    out = tmp_path / "s"
    for words, options in (
        ("shard_size is 0", {"shard_size": 0}),
        ("readers is 0", {"readers": 0}),
        ("dtype is 'int8'; accepted", {"dtype": "int8"}),
        ("on_error is 'ignore'; accepted", {"on_error": "ignore"}),
        (r"\(--memory\) allows 1 MB", {"memory": 10**6}),
    ):
        with pytest.raises(ValueError, match=words):
            transform_to_store(sign, source, out, **options)
    with pytest.raises(ValueError, match="no images"):
        transform_to_store(sign, make_source(0), out)
