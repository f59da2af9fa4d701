"""Every file below the folder of a data set is either read or counted, whatever it is."""

from __future__ import annotations

import io
import os
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_on_disk import CLASSES, encoded, pixels, samples, write_folder, write_tar, write_tars

from sign_ext.data import load_data, open_data
from sign_ext.data.listing import LEFT_OUT


def files_below(root: Path) -> int:
    """The number of directory entries that are no folders, links to folders followed once."""
    return sum(len(files) for _, _, files in os.walk(root))


def png(rng: np.random.Generator) -> bytes:
    return encoded(pixels(rng))


def test_hidden_and_tools_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write_folder(tmp_path, rng)
    plain = open_data(root, split="all")
    hidden = [
        *("ant/.ipynb_checkpoints/00-checkpoint.png", "bee/deeper/@eaDir/00.png/THUMB.png"),
        *("__MACOSX/ant/._00.png", ".thumbs/ant/00.png", "cat/._01.png", ".DS_Store"),
        "cat/.git/objects/1",
    ]
    for name in hidden:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(rng))
    source = open_data(root, split="all")
    assert source.keys(0, len(source)) == plain.keys(0, len(plain))
    assert source.fingerprint == plain.fingerprint
    summary = source.summary()
    assert summary.left_out == {"hidden": len(hidden)}
    assert summary.images + len(hidden) == files_below(root)
    assert summary.classes == CLASSES
    assert "7 hidden or tools' files" in source.note


def test_loose_images_other_files_and_broken_links(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    root = write_folder(tmp_path, rng)
    (root / "loose.png").write_bytes(png(rng))
    (root / "notes").mkdir()
    (root / "readme.txt").write_text("none")
    (root / "bee" / "00.xml").write_text("none")
    (root / "photos.tgz").write_bytes(b"what the folders came from")
    (root / "notes" / "a.txt").write_text("none")
    (root / "bee" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat" / "itself.png").symlink_to(root / "cat" / "itself.png")
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(ValueError, match="class 'notes' has 0 images"):
        load_data(root)
    (root / "notes" / "a.txt").rename(root / "a.txt")
    (root / "notes").rmdir()
    splits = load_data(root)
    assert splits.summary.left_out == {
        "loose_images": 1,
        "other": 3,
        "compressed_tars": 1,
        "broken_links": 2,
        "special": 1,
    }
    assert splits.summary.images == 28
    assert 28 + sum(splits.summary.left_out.values()) == files_below(root)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 28


def test_beside_split_folders(tmp_path: Path, rng: np.random.Generator) -> None:
    root = tmp_path / "set"
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in "ab" for i in range(4)]
    names += ["train/loose.png", "test/x.txt", "list.csv", "docs/x/y.pdf", "top.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(rng))
    summary = load_data(root).summary
    assert summary.left_out == {"loose_images": 2, "other": 3}
    assert summary.images == 16


def test_linked_folders_are_read_once(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write_folder(tmp_path, rng)
    for name, count in (("more", 3), ("elsewhere", 4)):
        for index in range(count):
            file = tmp_path / name / "deep" / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(rng))
    (root / "bee" / "more").symlink_to(tmp_path / "more")  # followed
    (root / "dog").symlink_to(tmp_path / "elsewhere")  # a class
    (root / "ant" / "up").symlink_to(root)  # a circle
    (root / "ant" / "bees").symlink_to(root / "bee")  # read as bees, not as ants too
    (root / "ant" / "a file.png").symlink_to(tmp_path / "more" / "deep" / "0.png")
    source = open_data(root, split="all")
    keys = source.keys(0, len(source))
    assert source.summary().classes == {**CLASSES, "ant": 6, "bee": 9 + 3, "dog": 4}
    assert {"bee/more/deep/2.png", "dog/deep/3.png", "ant/a file.png"} < set(keys)
    assert source.summary().left_out == {"linked_twice": 2}
    assert source.read(0, len(source)).shape[0] == len(keys)


def test_a_folder_that_cannot_be_listed_is_an_error(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_folder(tmp_path, rng)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deeper"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ValueError, match=r"deeper cannot be listed: Permission denied"):
        load_data(root)


@pytest.mark.parametrize("seed", range(4))
def test_random_trees(tmp_path: Path, seed: int) -> None:
    """Whatever lies in three classes: images read + left out = files, and each kind as written."""
    rng = np.random.default_rng(seed)
    image = png(rng)
    expected: Counter[str] = Counter()
    keys = set()
    names = ("a", "b", ".hidden", "__MACOSX", "deep.er", "Thumbs")
    for number in range(60):
        depth = rng.integers(0, 4)
        parts = ["xyz"[rng.integers(3)], *(names[rng.integers(len(names))] for _ in range(depth))]
        ending = (".png", ".PNG", ".txt", "", ".tar.gz", ".jpeg.bak")[rng.integers(6)]
        base = f"{'.' if rng.random() < 0.2 else ''}{number}{ending}"
        file = tmp_path / "set" / Path(*parts) / base
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
        if base.startswith(".") or {".hidden", "__MACOSX"} & set(parts):
            expected["hidden"] += 1
        elif ending.lower() == ".png":
            keys.add("/".join([*parts, base]))
        else:
            expected["compressed_tars" if ending == ".tar.gz" else "other"] += 1
    for name in "xyz":
        for index in range(3):
            (tmp_path / "set" / name / f"k{index}.png").write_bytes(image)
            keys.add(f"{name}/k{index}.png")
    source = open_data(tmp_path / "set", split="all")
    assert set(source.keys(0, len(source))) == keys
    assert source.summary().left_out == dict(expected)
    assert len(keys) + expected.total() == files_below(tmp_path / "set")


def test_concatenated_tars(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [
        write_tar(tmp_path / f"part-{n}.tar", samples(rng, [0, 1, 0, 1, 0, 1], 6 * n))
        for n in range(3)
    ]
    joined = tmp_path / "joined" / "all.tar"
    joined.parent.mkdir()
    joined.write_bytes(b"".join(part.read_bytes() for part in parts) + bytes(3 << 20))
    whole = open_data(joined, split="all")
    apart = open_data(tmp_path / "part-{0..2}.tar", split="all")
    assert len(whole) == 18
    assert whole.keys(0, 18) == apart.keys(0, 18)
    assert whole.labels.tolist() == apart.labels.tolist()
    assert (whole.read(0, 18) == apart.read(0, 18)).all()
    # The second part cut short, or followed by something that is no tar.
    for tail in (parts[1].read_bytes()[:1300], b"\1" * 600):
        joined.write_bytes(parts[0].read_bytes() + tail)
        with pytest.raises(ValueError, match=r"all\.tar is cut short or damaged after "):
            open_data(joined)


def test_what_lies_in_and_beside_tars(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write_tars(tmp_path, rng)
    plain = open_data(root, split="all")
    extra = [
        ("a/1.seg.png", b"mask"),
        ("a/1.txt", b"x"),
        (".cache/2.png", b"x"),
        ("a/._1.png", b""),
    ]
    write_tar(root / "zoo-003.tar", [*samples(rng, [0, 1, 2], 50), ("a/1.cls", b"1"), *extra[:0]])
    with pytest.raises(ValueError, match="'a/1' has no image"):
        open_data(root)
    write_tar(
        root / "zoo-003.tar",
        [*samples(rng, [0, 1, 2], 50), ("a/1.cls", b"1"), ("a/1.png", png(rng)), *extra],
    )
    for name in ("more.tar.gz", "old.tgz", ".hidden.tar", "readme.md", "loose.png", "docs/x.md"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    source = open_data(root, split="all")
    assert len(source) == len(plain) + 4
    summary = source.summary()
    assert summary.left_out == {
        "compressed_tars": 2,
        "hidden": 1 + 2,
        "other": 2,
        "loose_images": 1,
        "members": 2,
    }
    assert "2 compressed tars" in source.note
    assert sum(summary.classes.values()) == summary.images == len(source)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("train", "valid"), ("train",)])
def test_split_folders_of_tars(
    tmp_path: Path, rng: np.random.Generator, names: tuple[str, ...]
) -> None:
    for number, name in enumerate(names):
        write_tar(tmp_path / "set" / name / "a.tar", samples(rng, [0, 1] * 4, 100 * number))
        (tmp_path / "set" / name / "b.tar.zst").write_bytes(b"x")
    splits = load_data(tmp_path / "set")
    assert splits.summary.images == 8 * len(names)
    assert splits.summary.left_out == {"compressed_tars": len(names)}
    assert len(splits.summary.cut) == 3 - len(names)


def test_a_tar_of_one_compressed_stream_is_refused(tmp_path: Path) -> None:
    for mode in ("gz", "bz2", "xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{mode}"):  # type: ignore[call-overload]
            pass
        (tmp_path / "x.tar").write_bytes(buffer.getvalue())
        with pytest.raises(ValueError, match=r"x\.tar is compressed"):
            open_data(tmp_path / "x.tar")


def test_every_kind_has_words() -> None:
    for kind, (one, many) in LEFT_OUT.items():
        assert kind.isidentifier()
        assert one != many
