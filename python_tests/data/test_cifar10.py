"""CIFAR-10: all formats give identical bytes, and no unverified pickle is opened."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_cifar10 import HEAD, NAMES, TinyCifar, pack, python2_batch, text, webp, write_parquet

from sign_ext.data import Splits, load_data
from sign_ext.data.datasets.cifar10 import PYTHON_FILE_MD5, unpickle_batch


def keyed(images: np.ndarray, labels: np.ndarray) -> dict[bytes, int]:
    """Image bytes → label; random images are all different."""
    found = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}
    assert len(found) == len(images)
    return found


def check(splits: Splits, tiny: TinyCifar) -> None:
    """Every byte of every image under its label, in one split only, in the original order."""
    parts = [
        keyed(part.images.numpy(), part.labels.numpy())
        for part in (splits.train, splits.validation, splits.test)
    ]
    assert [len(part) for part in parts] == [80, 20, 20]
    assert {**parts[0], **parts[1]} == keyed(tiny.train_images, tiny.train_labels)
    assert not parts[0].keys() & parts[1].keys()
    np.testing.assert_array_equal(splits.test.images.numpy(), tiny.test_images)
    np.testing.assert_array_equal(splits.test.labels.numpy(), tiny.test_labels)
    order = [image.tobytes() for image in tiny.train_images]
    positions = [order.index(image.tobytes()) for image in splits.train.images.numpy()]
    assert positions == sorted(positions)
    assert splits.train.labels.bincount().tolist() == [8] * 10
    assert splits.validation.labels.bincount().tolist() == [2] * 10
    assert splits.class_names[1] == "automobile"
    assert splits.class_names[8] == "ship"


def test_binary_folder(tiny: TinyCifar, tmp_path: Path) -> None:
    folder = tiny.write_binary(tmp_path / "cifar-10-batches-bin")
    for root in (tmp_path, folder):
        splits = load_data("cifar10", root)
        check(splits, tiny)
        assert splits.note == "CIFAR-10 (original binary files)"


def test_binary_archive(tiny: TinyCifar, tmp_path: Path, trust) -> None:
    folder = tiny.write_binary(tmp_path / "elsewhere" / "cifar-10-batches-bin")
    trust(pack(folder, tmp_path / "cifar-10-binary.tar.gz"))
    check(load_data("cifar10", tmp_path), tiny)


def test_python_folder(tiny: TinyCifar, tmp_path: Path, trust) -> None:
    trust(tiny.write_python(tmp_path / "cifar-10-batches-py"))
    splits = load_data("cifar10", tmp_path)
    check(splits, tiny)
    assert splits.note == "CIFAR-10 (original Python files)"


def test_python_archive(tiny: TinyCifar, tmp_path: Path, trust) -> None:
    folder = tiny.write_python(tmp_path / "elsewhere" / "cifar-10-batches-py")
    trust(pack(folder, tmp_path / "cifar-10-python.tar.gz"))
    check(load_data("cifar10", tmp_path), tiny)


def test_parquet(tiny: TinyCifar, tmp_path: Path) -> None:
    splits = load_data("cifar10", tiny.write_parquet(tmp_path))
    check(splits, tiny)
    assert splits.note == "CIFAR-10 (116 of 120 images lossless)"


def test_all_formats_are_split_alike(tiny: TinyCifar, tmp_path: Path, trust) -> None:
    trust(tiny.write_python(tmp_path / "p" / "cifar-10-batches-py"))
    tiny.write_binary(tmp_path / "b" / "cifar-10-batches-bin")
    (tmp_path / "q").mkdir()
    tiny.write_parquet(tmp_path / "q")
    sizes = {"train_size": 33, "test_size": 11, "seed": 5}
    one, *others = (load_data("cifar10", tmp_path / name, **sizes) for name in "pbq")
    for other in others:
        for part in ("train", "validation", "test"):
            assert torch.equal(getattr(one, part).images, getattr(other, part).images)
            assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)


def test_only_requested_images_are_decoded(tiny: TinyCifar, tmp_path: Path, monkeypatch) -> None:
    from sign_ext.data import decode as decoding

    decoded = []
    decode = decoding.decode_rgb
    monkeypatch.setattr(
        decoding, "decode_rgb", lambda *a, **k: decoded.append(1) or decode(*a, **k)
    )
    load_data("cifar10", tiny.write_parquet(tmp_path), train_size=13, test_size=7)
    assert len(decoded) == 13 + 20 + 7


def test_image_size_resizes(tiny: TinyCifar, tmp_path: Path) -> None:
    tiny.train_images[:] = 77
    splits = load_data("cifar10", tiny.write_parquet(tmp_path), image_size=75)
    assert splits.image_shape == (3, 75, 75)
    assert splits.train.images.unique().tolist() == [77]


@pytest.fixture
def trap(tmp_path: Path) -> tuple[bytes, Path]:
    """A pickle that creates a folder when it is opened with the ordinary unpickler."""
    sprung = tmp_path / "sprung"

    call = b"cos\nmkdir\n" + text(os.fsencode(sprung)) + b"\x85R"
    data = HEAD + text(b"data") + call + b"u."
    pickle.loads(data)
    assert sprung.is_dir()
    sprung.rmdir()
    return data, sprung


def test_unpublished_pickle_is_not_opened(tiny: TinyCifar, tmp_path: Path, trust, trap) -> None:
    data, sprung = trap
    folder = tiny.write_python(tmp_path / "cifar-10-batches-py")
    trust(folder)
    (folder / "data_batch_3").write_bytes(data)
    with pytest.raises(ValueError, match=r"data_batch_3 has the MD5 .*cifar-10-binary\.tar\.gz"):
        load_data("cifar10", tmp_path)
    assert not sprung.exists()


def test_pickle_in_a_changed_archive_is_not_opened(tiny, tmp_path: Path, trap) -> None:
    data, sprung = trap
    folder = tiny.write_python(tmp_path / "elsewhere" / "cifar-10-batches-py")
    (folder / "data_batch_1").write_bytes(data)
    pack(folder, tmp_path / "cifar-10-python.tar.gz")
    with pytest.raises(ValueError, match="published one is c58f30108f718f92721af3b95e74349a"):
        load_data("cifar10", tmp_path)
    assert not sprung.exists()


def test_pickle_does_nothing_even_if_its_checksum_matches(tiny, tmp_path, trust, trap) -> None:
    data, sprung = trap
    folder = tiny.write_python(tmp_path / "cifar-10-batches-py")
    (folder / "test_batch").write_bytes(data)
    trust(folder)
    with pytest.raises(ValueError, match=r"asks for os\.mkdir, which is not allowed"):
        load_data("cifar10", tmp_path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    "name", ["numpy\nfromfile", "numpy.core.multiarray\nfromfile", "builtins\neval", "numpy\nf2py"]
)
def test_unpickler_refuses_other_names(name: str) -> None:
    with pytest.raises(ValueError, match="not allowed"):
        unpickle_batch(b"\x80\x02c" + name.encode() + b"\n.", "a file")


@pytest.mark.parametrize(
    "data",
    [b"", b"not a pickle", b"\x80\x02}.", b"\x80\x02].", HEAD + text(b"data") + b"Nu."],
)
def test_unpickler_refuses_other_content(data: bytes) -> None:
    with pytest.raises(ValueError, match="a file is not a CIFAR-10 batch"):
        unpickle_batch(data, "a file")


def test_unpickler_refuses_other_arrays(tiny: TinyCifar) -> None:
    whole = python2_batch(tiny.test_images, tiny.test_labels)
    unpickle_batch(whole, "a file")
    with pytest.raises(ValueError, match="row-major array of bytes"):
        unpickle_batch(whole.replace(text(b"u1"), text(b"i1")), "a file")
    with pytest.raises(ValueError, match="not a CIFAR-10 batch"):
        unpickle_batch(whole[:-9], "a file")
    with pytest.raises(ValueError, match="labels from 0 to 10"):
        unpickle_batch(python2_batch(tiny.test_images, np.arange(20) % 11), "a file")


def test_truncated_files(tiny: TinyCifar, tmp_path: Path, trust) -> None:
    binary = tiny.write_binary(tmp_path / "b" / "cifar-10-batches-bin")
    batch = binary / "data_batch_4.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"data_batch_4\.bin .*61,459 bytes; accepted: 61,460"):
        load_data("cifar10", tmp_path / "b")
    batch.unlink()
    with pytest.raises(FileNotFoundError, match=r"data_batch_4\.bin is missing"):
        load_data("cifar10", tmp_path / "b")

    folder = tiny.write_binary(tmp_path / "elsewhere" / "cifar-10-batches-bin")
    archive = pack(folder, tmp_path / "cifar-10-binary.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="damaged, incomplete or another file"):
        load_data("cifar10", tmp_path)
    trust(archive)
    with pytest.raises(ValueError, match="cannot be unpacked"):
        load_data("cifar10", tmp_path)


def test_damaged_parquet(tiny: TinyCifar, tmp_path: Path, rng: np.random.Generator) -> None:
    tiny.write_parquet(tmp_path)
    file = tmp_path / "cifar10_test.parquet"
    cells = [webp(image) for image in tiny.test_images]

    write_parquet(file, cells[:-1], tiny.test_labels[:-1], [True] * 19)
    with pytest.raises(ValueError, match="19 rows"):
        load_data("cifar10", tmp_path)
    write_parquet(file, cells, tiny.test_labels + 1, [True] * 20)
    with pytest.raises(ValueError, match="labels outside 0 to 9"):
        load_data("cifar10", tmp_path)
    write_parquet(file, [*cells[:11], cells[11][:40], *cells[12:]], tiny.test_labels, [True] * 20)
    with pytest.raises(ValueError, match="row 11"):
        load_data("cifar10", tmp_path)
    small = rng.integers(0, 256, (3, 31, 32), dtype=np.uint8)
    write_parquet(file, [*cells[:5], webp(small), *cells[6:]], tiny.test_labels, [True] * 20)
    with pytest.raises(ValueError, match="row 5: it is 32×31 pixels"):
        load_data("cifar10", tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cifar10_test\.parquet cannot be used"):
        load_data("cifar10", tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"cifar10_test\.parquet is missing"):
        load_data("cifar10", tmp_path)


def test_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(FileNotFoundError) as caught:
            load_data("cifar10", root)
        for accepted in (
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            "cifar-10-python.tar.gz",
            "cifar10_train.parquet",
            "--data-root",
            "SIGN_EXT_DATA",
            str(root),
        ):
            assert accepted in str(caught.value)
    monkeypatch.delenv("SIGN_EXT_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="root is not given and SIGN_EXT_DATA is not set"):
        load_data("cifar10")


def test_root_from_the_environment(tiny: TinyCifar, tmp_path: Path, monkeypatch) -> None:
    tiny.write_binary(tmp_path / "cifar-10-batches-bin")
    monkeypatch.setenv("SIGN_EXT_DATA", str(tmp_path))
    check(load_data("cifar10"), tiny)


def test_published_checksums_cover_every_batch() -> None:
    assert set(PYTHON_FILE_MD5) == {*NAMES, "test_batch"}
    assert len(set(PYTHON_FILE_MD5.values())) == 6
