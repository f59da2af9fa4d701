"""Tars in WebDataset format: samples equal what was written, and errors name tar and key."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_on_disk import encoded, pixels, samples, write_split_tars, write_tar, write_tars
from PIL import Image

from sign_ext.data import load_data, open_data
from sign_ext.data.formats.webdataset import expand_pattern, index_tar


def square(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def members(rng: np.random.Generator, count: int) -> list[tuple[str, bytes]]:
    """Samples 00000 … with the label 0, an image and .cls each."""
    found = []
    for index in range(count):
        found += [(f"{index:05d}.png", encoded(square(rng))), (f"{index:05d}.cls", b"0")]
    return found


def test_samples_equal_what_was_written(tmp_path: Path, rng: np.random.Generator) -> None:
    images, labels = [square(rng) for _ in range(20)], [i % 2 for i in range(20)]
    for number in range(2):
        content = []
        for i in range(10 * number, 10 * number + 10):
            # The label before, after or long after the image; other members are ignored.
            parts = [
                (f"./deep.er/{i:04d}.png", encoded(images[i])),
                (f"./deep.er/{i:04d}.cls", str(labels[i]).encode()),
                (f"./deep.er/{i:04d}.json", b'{"label": "not read where there is a .cls"}'),
                (f"./deep.er/{i:04d}.seg.png", b"a mask"),
                (f"./deep.er/._{i:04d}.png", b"what macOS adds"),
            ]
            content += [parts[j] for j in rng.permutation(len(parts))]
        content = content[::2] + content[1::2]
        write_tar(tmp_path / "pets" / f"{number}.tar", content)
    source = open_data(tmp_path / "pets", split="all")
    assert sorted(source.keys(0, 20)) == [f"deep.er/{i:04d}" for i in range(20)]
    for position, key in enumerate(source.keys(0, 20)):
        which = int(key[-4:])
        found = source.read(position, position + 1)[0].numpy().transpose(1, 2, 0)
        np.testing.assert_array_equal(found, images[which])
        assert source.labels[position] == labels[which]
    assert source.class_names == ("0", "1")
    assert source.note == (
        "images of pets (20 in 2 classes, from 2 tars, resized to 32×32; left out: 20 hidden or "
        "tools' files, 20 other members of tars)"
    )


def test_splits_are_stratified_or_predefined(tmp_path: Path, rng: np.random.Generator) -> None:
    splits = load_data(write_tars(tmp_path / "a", rng))
    assert splits.class_names == ("ant", "bee", "cat")
    assert splits.validation.labels.bincount().tolist() == [1, 1, 2]
    assert splits.test.labels.bincount().tolist() == [1, 1, 2]
    root = write_split_tars(tmp_path / "b", rng)
    splits = load_data(root)
    # Of 24 training images 15%, 4, are held out; the other 24 samples are the test split.
    assert [len(each) for each in (splits.train, splits.validation, splits.test)] == [20, 4, 24]
    assert all(int(k[-5:]) >= 100 for k in open_data(root, split="test").keys(0, 24))
    shutil.copytree(root / "test", root / "val")
    whole = load_data(root)
    assert torch.equal(whole.validation.images, splits.test.images)
    assert len(whole.train) == 24
    (root / "val").rename(root / "extra")
    with pytest.raises(ValueError, match=r"\['extra', 'test', 'train'\]; accepted: photos.tar"):
        load_data(root)
    shutil.rmtree(root / "extra")
    (root / "train").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"holds the folders \['test'\]; accepted: photos.tar"):
        load_data(root)
    (tmp_path / "away").rename(root / "train")
    write_tar(root / "more.tar", members(rng, 3))
    with pytest.raises(ValueError, match=r"more.tar and the folders .*keep one kind"):
        load_data(root)


def test_patterns(tmp_path: Path, rng: np.random.Generator) -> None:
    for number in (8, 9, 10, 11):
        write_tar(tmp_path / f"a-{number:03d}.tar", [])
        write_tar(tmp_path / f"{number}" / "1.tar", samples(rng, [0, 0, 1, 1, 1, 0], 10 * number))
    found = expand_pattern(f"{tmp_path}/a-{{008..011}}.tar")
    assert [path.name for path in found] == ["a-008.tar", "a-009.tar", "a-010.tar", "a-011.tar"]
    found = expand_pattern(f"{tmp_path}/{{8..11}}/{{1..1}}.tar")
    assert [path.parent.name for path in found] == ["8", "9", "10", "11"]
    source = open_data(f"{tmp_path}/{{9..10}}/1.tar", split="all")
    assert {int(key[-5:]) // 10 for key in source.keys(0, 12)} == {9, 10}
    assert source.name == "1/all"
    for pattern, error, message in (
        ("a-{008..012}.tar", FileNotFoundError, "a-012.tar is missing"),
        ("b.tar", FileNotFoundError, "b.tar is missing"),
        ("a-{011..008}.tar", ValueError, "runs backwards"),
        ("a-{008,011}.tar", ValueError, "braces that are not a range"),
        ("a-{0..9999999}.tar", ValueError, "more than a million"),
    ):
        with pytest.raises(error, match=message):
            load_data(f"{tmp_path}/{pattern}")


def test_class_names(tmp_path: Path, rng: np.random.Generator) -> None:
    content = samples(rng, [0, 1, 0, 1, 0, 1, 1])
    tar = write_tar(tmp_path / "x.tar", content)
    assert load_data(tar).class_names == ("0", "1")
    write_tar(tar, [("./classes.txt", "inner\nnäme\n".encode()), *content])
    assert load_data(tar).class_names == ("inner", "näme")
    (tmp_path / "classes.txt").write_text("one\r\ntwo words\r\nspare\r\n", encoding="utf-8-sig")
    assert load_data(tar).class_names == ("one", "two words", "spare")
    for text in (b"one", b"one\n\nthree", b"\xff\xfe"):
        (tmp_path / "classes.txt").write_bytes(text)
        with pytest.raises(ValueError, match=r"classes\.txt (has|is not)"):
            load_data(tar)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([("b/k.cls", b"1")], r"'b/k' has no image"),
        ([("k.txt", b"a caption")], r"'k' has no image"),
        ([("k.png", b"x")], r"'k' has no label"),
        ([("k.png", b"x"), ("k.json", b"{}")], r"'k' has no label"),
        ([("k.png", b"x"), ("k.json", b"[1]")], r"'k' has no label"),
        ([("k.png", b"x"), ("k.json", b"{")], r"k\.json is not JSON"),
        ([("k.png", b"x"), ("k.json", b'{"label": true}')], r"k\.json has the label True"),
        ([("k.png", b"x"), ("k.json", b'{"label": "1"}')], r"k\.json has the label '1'"),
        ([("k.png", b"x"), ("k.cls", b"-1")], r"k\.cls holds b'-1'.* 0 to 999,999"),
        ([("k.png", b"x"), ("k.cls", b"1000000")], r"k\.cls holds b'1000000'"),
        ([("k.png", b"x"), ("k.cls", b"")], r"k\.cls holds b''"),
        ([("k.png", b"x"), ("k.cls", b"1"), ("k.jpg", b"x")], r"'k' has two images.*k\.jpg"),
    ],
)
def test_samples_that_are_refused(
    tmp_path: Path, rng: np.random.Generator, extra: list[tuple[str, bytes]], message: str
) -> None:
    tar = write_tar(tmp_path / "bad.tar", [*members(rng, 4), *extra])
    with pytest.raises(ValueError, match=r"bad\.tar: " + message):
        load_data(tar)


def test_tars_cut_short_anywhere(tmp_path: Path, rng: np.random.Generator) -> None:
    content = [(name, data[:700]) for name, data in members(rng, 3)]
    tar = write_tar(tmp_path / "cut.tar", content)
    whole = tar.read_bytes()
    end = 3 * (512 + 1024 + 512 + 512)
    assert len(index_tar(tar).samples) == 3
    for length in [*range(0, end + 1, 256), *rng.integers(1, end, 20).tolist()]:
        tar.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.tar is cut short or damaged after"):
            index_tar(tar)
    tar.write_bytes(whole[: end + 512])
    assert len(index_tar(tar).samples) == 3
    damaged = bytearray(whole)
    damaged[2 * (512 + 1024 + 512 + 512) + 3] ^= 1  # in the header of the third image
    tar.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"cut short or damaged after '00001\.cls'"):
        index_tar(tar)
    tar.write_bytes(rng.bytes(4096))
    with pytest.raises(ValueError, match=r"cut\.tar is cut short or damaged after its beginning"):
        load_data(tar)


def test_compressed_tars_links_and_empty_ones(tmp_path: Path, rng: np.random.Generator) -> None:
    tar = write_tar(tmp_path / "a.tar", members(rng, 4))
    packed = tmp_path / "only" / "a.tar.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.tar\.gz is compressed \(gzip\).*Decompress it"):
        load_data(packed)
    with pytest.raises(ValueError, match=r"has no class folders.*Decompress a\.tar\.gz first"):
        load_data(packed.parent)
    packed.rename(packed.with_name("renamed.tar"))
    with pytest.raises(ValueError, match=r"renamed\.tar is compressed"):
        load_data(packed.parent)
    with pytest.raises(ValueError, match=r"empty\.tar holds no samples"):
        load_data(write_tar(tmp_path / "empty.tar", [("classes.txt", b"a")]))
    with tarfile.open(tar, "a") as opened:
        link = tarfile.TarInfo("00009.png")
        link.type, link.linkname = tarfile.LNKTYPE, "00001.png"
        opened.addfile(link)
    with pytest.raises(ValueError, match=r"a\.tar: 00009\.png is a link.*--hard-dereference"):
        load_data(tar)
    few = write_tar(tmp_path / "few.tar", members(rng, 2))
    with pytest.raises(ValueError, match=r"class '0' has 2 images in .*few\.tar.*at least 3"):
        load_data(few)


def test_unreadable_images_name_tar_and_key(tmp_path: Path, rng: np.random.Generator) -> None:
    content = members(rng, 20)
    content[8] = ("00004.png", content[8][1][:60])
    content[14] = ("00007.png", b"")
    tar = write_tar(tmp_path / "some.tar", content)
    source = open_data(tar, split="all")
    bad = set()
    for i, key in enumerate(source.keys(0, 20)):
        try:
            assert source.read(i, i + 1).shape == (1, 3, 32, 32)
        except ValueError as error:
            assert f"some.tar: '{key}' cannot be read as an image" in str(error)  # noqa: PT017
            bad.add(key)
    assert bad == {"00004", "00007"}
    tar.unlink()
    with pytest.raises(ValueError, match=r"some\.tar: '.*cannot be read as an image"):
        source.read(0, 1)


def test_long_names_and_old_tar_formats(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = "ü" * 60 + "/" + "n" * 90
    image = square(rng)
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "long.tar", "w", format=form) as tar:
            for index in range(3):
                for ending, data in (("png", encoded(image)), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{folder}/{index}.{ending}")
                    member.size, member.mtime = len(data), 1.5
                    tar.addfile(member, io.BytesIO(data))
        source = open_data(tmp_path / "long.tar", split="all")
        assert sorted(source.keys(0, 3)) == [f"{folder}/{index}" for index in range(3)]
        np.testing.assert_array_equal(source.read(0, 1)[0].numpy().transpose(1, 2, 0), image)


def test_fingerprints(tmp_path: Path, rng: np.random.Generator) -> None:
    content = [(f"{i}.png", encoded(square(rng))) for i in range(4)]
    content += [(f"{i}.json", json.dumps({"label": i % 1}).encode()) for i in range(4)]

    def fingerprint(members: list[tuple[str, bytes]], mtime: int = 7, **options: int) -> str:
        return open_data(
            write_tar(tmp_path / "a.tar", members, mtime), split="all", **options
        ).fingerprint

    first = fingerprint(content)
    assert fingerprint(content) == first
    assert fingerprint(content, image_size=31) != first
    assert fingerprint(content, mtime=8) != first
    renamed = [(name.replace("3.", "9."), data) for name, data in content]
    assert fingerprint(renamed) != first
    other = io.BytesIO()
    Image.fromarray(pixels(rng)).save(other, "PNG")
    assert fingerprint([("0.png", other.getvalue()), *content[1:]]) != first
    # Members other than a sample's image and label are not hashed.
    assert fingerprint([*content, ("0.txt", b"a caption")]) == first
    moved = tmp_path / "elsewhere" / "b.tar"
    moved.parent.mkdir()
    write_tar(moved, content)
    assert open_data(moved, split="all").fingerprint == first
