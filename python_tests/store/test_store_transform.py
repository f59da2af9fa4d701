"""A store holds what SignTransform returns; unreadable images, full disks and bad options."""

from __future__ import annotations

import dataclasses
import subprocess

import numpy as np
import pytest
import torch
from safetensors import safe_open
from store_parts import SHAPE, expected, make_net, make_sign, make_source

import sign_ext
from sign_ext import SignTransform
from sign_ext.errors import DivergenceError
from sign_ext.store import (
    StoreError,
    load_transformed,
    transform_to_store,
    verify,
)
from sign_ext.store.inspect import describe


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


def test_images_in_other_units_than_the_networks_are_warned_of(source, tmp_path):
    model = make_net()
    model[1] = torch.nn.Sequential(torch.nn.BatchNorm2d(8).eval(), torch.nn.ReLU())
    with torch.no_grad():  # the running statistics of images of 0–1
        behind = model[0](source.read(0, 23).float() / 255)
        model[1][0].running_mean.copy_(behind.mean((0, 2, 3)))
        model[1][0].running_var.copy_(behind.var((0, 2, 3)))
    with pytest.warns(sign_ext.PixelRangeWarning, match=r"'1\.0' \(BatchNorm2d\)") as caught:
        transform_to_store(SignTransform(model, 2), source, tmp_path)
    assert len([each for each in caught if each.category is sign_ext.PixelRangeWarning]) == 1


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


def test_the_number_of_readers_does_not_change_the_bytes(sign, tmp_path, content_of):
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
    with pytest.raises(
        DivergenceError, match=r"from the one at position 15: step \d.* images 0 to 4"
    ):
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
    (out / "shard-000000.json.1.tmp").write_text("")  # left by a killed run
    remount("ro")
    assert transform_to_store(sign, source, out, shard_size=5).kept == 5
    remount("rw")
    (out / "shard-000001.safetensors").unlink()
    remount("ro")
    with pytest.raises(StoreError, match=r"cannot be written \(Read-only file system\)"):
        transform_to_store(sign, source, out, shard_size=5)
    assert len(verify(out).faults) == 1
    remount("rw")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        transform_to_store(sign, source, tmp_path / "file" / "store", shard_size=5)


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
