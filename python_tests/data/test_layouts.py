"""Folders of images as people have them: splits, wrappers, tables of labels; none is guessed wrong.

The images are numbered by their colour, so that what was read is compared with what was written.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from sign_ext.data import Splits, load_data
from sign_ext.data.splits import split_names


class Disk:
    """Writes images of one colour each and remembers where each of them is."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.written: dict[tuple[int, ...], str] = {}

    def write(self, *paths: str) -> None:
        for path in paths:
            number = len(self.written) + 1
            colour = (number % 256, number // 256, 77)
            file = self.root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 4), colour).save(file)
            self.written[colour] = path

    def classes(self, prefix: str, count: int = 4, names: tuple[str, ...] = ("a", "b")) -> None:
        self.write(*(f"{prefix}{name}/{index}.png" for name in names for index in range(count)))

    def read(self, splits: Splits) -> dict[str, tuple[str, str]]:
        """Path → (part, class) of every image that was read; each may be read once only."""
        found: dict[str, tuple[str, str]] = {}
        for part in ("train", "validation", "test"):
            images = getattr(splits, part)
            for image, label in zip(images.images, images.labels.tolist(), strict=True):
                path = self.written[tuple(image[:, 0, 0].tolist())]
                assert path not in found
                found[path] = (part, splits.class_names[label])
        return found


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "set")


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Training", None, "Testing"),
        ("TRAIN", "Val", None),
        ("train", "valid", "test"),
        ("training_set", "dev", "test_set"),
        ("seg_train/seg_train", None, "seg_test/seg_test"),
        ("archive/train2017", "archive/val2017", None),
        ("a zip/its wrapper/Train Data", None, "a zip/its wrapper/Test Data"),
        ("train", None, None),
    ],
)
def test_splits_by_their_common_names(
    disk: Disk, train: str, validation: str | None, test: str | None
) -> None:
    folders = {"train": train, "validation": validation, "test": test}
    for folder in folders.values():
        if folder:
            disk.classes(f"{folder}/", 7)
    splits = load_data(disk.root)
    found = disk.read(splits)
    assert sorted(found) == sorted(disk.written.values())
    cut = [split for split, folder in folders.items() if folder is None]
    for path, (part, class_name) in found.items():
        folder, name, _ = path.rsplit("/", 2)
        assert class_name == name
        accepted = [part for part, where in folders.items() if where == folder]
        assert part in (accepted if folder != train else [*accepted, *cut])
    summary = splits.summary
    assert list(summary.cut) == cut
    assert summary.images == len(disk.written)
    assert summary.classes == {"a": len(disk.written) // 2, "b": len(disk.written) // 2}
    said = "\n".join(summary.lines())
    assert f"a {summary.classes['a']}, b {summary.classes['b']}" in said
    assert ("--split all" in said) == bool(cut)
    sizes = ", ".join(
        f"{sum(part == each for part, _ in found.values())} {words}"
        for each, words in (("train", "training"), ("validation", "validation"), ("test", "test"))
    )
    assert f": {sizes} images in 2 classes\n" in said


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["wrapper/"], ("a", "b")),
        (["one/two/three/"], ("a", "b")),
        (["@eaDir/x/", ""], ("a", "b")),
        (["__MACOSX/train/", "photos/"], ("a", "b")),
    ],
)
def test_folders_that_only_wrap_others(
    disk: Disk, paths: list[str], classes: tuple[str, ...]
) -> None:
    for path in paths:
        disk.classes(path)
    splits = load_data(disk.root)
    assert splits.class_names == classes
    assert len(disk.read(splits)) == 8
    assert sum(splits.summary.left_out.values()) == len(disk.written) - 8


@pytest.mark.parametrize(
    ("classes_in", "images", "message"),
    [
        ([], ["train/1.png", "test/2.png"], r"\['test', 'train'\].* no class folders in them"),
        (["train/"], ["cat/1.png"], r"\['train'\].* and \['cat'\].*pass .*/set/train;"),
        (["train/", "test/"], ["cat/1.png"], r"\['test', 'train'\].* and \['cat'\]"),
        ([], ["a.jpg", "zoo/1.png"], "one class folder, 'zoo'.*Pass .*zoo if that"),
        (["train/"], ["test/1.png"], "test holds images but no class folders.*pass .*/set/train"),
        (["val/", "test/"], [], "none for training"),
        (["train/", "val/", "Valid/"], [], "both mean validation"),
        ([], ["cat/1.png", "cat/2.png"], "one class folder, 'cat'.* two classes"),
        ([], ["1.png", "2.png"], "no class folders.*--labels"),
    ],
)
def test_what_cannot_be_told_is_refused(
    disk: Disk, classes_in: list[str], images: list[str], message: str
) -> None:
    for prefix in classes_in:
        disk.classes(prefix)
    disk.write(*images)
    with pytest.raises(ValueError, match=message) as error:
        load_data(disk.root)
    assert "ROOT/CLASS/images" in str(error.value)


@pytest.mark.parametrize("images", ["images/", "", "images/deeper/"])
def test_images_beside_a_table_are_no_class(disk: Disk, images: str) -> None:
    disk.write(*(f"{images}{index}.png" for index in range(8)))
    table = disk.root / "labels.csv"
    table.write_text("file,class\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(8)))
    with pytest.raises(ValueError, match=r"If labels\.csv holds the labels, pass labels="):
        load_data(disk.root)
    splits = load_data(disk.root, labels=table)
    for path, (_, name) in disk.read(splits).items():
        assert name == "ab"[int(Path(path).stem) % 2]
    assert splits.summary.classes == {"a": 4, "b": 4}


def test_images_and_masks_beside_a_table(disk: Disk) -> None:
    disk.write(*(f"{folder}/{i}.png" for folder in ("images", "masks") for i in range(6)))
    (disk.root / "meta.csv").write_text("id,dx\n" + "".join(f"{i},{i % 2}\n" for i in range(6)))
    with pytest.raises(ValueError, match=r"'images' may be no class\. If meta\.csv"):
        load_data(disk.root)
    with pytest.raises(ValueError, match=r"row 2: '0' may be images/0\.png or masks/0\.png"):
        load_data(disk.root, labels=disk.root / "meta.csv")
    splits = load_data(disk.root / "images", labels=disk.root / "meta.csv")
    assert {n for _, n in disk.read(splits).values()} == {"0", "1"}


LABELS = {f"{index:02d}": ("cat", "dog", "eel")[index % 3] for index in range(12)}


def table_of(kind: str) -> tuple[str, str]:
    """A table of the labels of 00.png … 11.png, and the name of its file."""
    rows = list(LABELS.items())
    if kind == "csv":
        body = "".join(f"{i},{n}7,{c}\n" for n, (i, c) in enumerate(rows))
        return "l.csv", "id,age,label\n" + body
    if kind == "no header":
        return "l.csv", "".join(f"{i}.png,{c}\n" for i, c in rows)
    if kind == "tsv with BOM and paths":
        return "l.tsv", "\ufeffpath\tspecies\n" + "".join(f"./img/{i}.png\t{c}\n" for i, c in rows)
    if kind == "semicolons, Windows paths":
        return "l.csv", "n;x\r\n" + "".join(f"D:\\data\\img\\{i}.png;{c}\r\n" for i, c in rows)
    if kind == "one-hot":
        flags = {"cat": "1.0,0.0,0.0", "dog": "0.0,1.0,0.0", "eel": "0.0,0.0,1.0"}
        return "l.csv", "image,cat,dog,eel\n" + "".join(f"{i},{flags[c]}\n" for i, c in rows)
    names = {name: [f"{i}.png" for i, c in rows if c == name] for name in ("cat", "dog", "eel")}
    records = [{"file_name": f"img/{i}.png", "label": c, "boxes": [1, 2]} for i, c in rows]
    content = {
        "json of files": {f"{i}.png": c for i, c in rows},
        "json of classes": names,
        "json records": records,
        "json of StyleGAN": {"labels": [[f"img/{i}.png", c] for i, c in rows]},
    }
    if kind == "json lines":
        return "metadata.jsonl", "\n".join(json.dumps(each) for each in records)
    return "l.json", json.dumps(content[kind])


@pytest.mark.parametrize(
    "kind",
    [
        *("csv", "no header", "tsv with BOM and paths", "semicolons, Windows paths", "one-hot"),
        *("json of files", "json of classes", "json records", "json of StyleGAN", "json lines"),
    ],
)
def test_tables_of_labels(disk: Disk, kind: str) -> None:
    disk.write(*(f"img/{index}.png" for index in LABELS), "img/unlabelled.png")
    name, text = table_of(kind)
    table = disk.root / name
    table.write_text(text, encoding="utf-8")
    splits = load_data(disk.root, labels=table)
    found = disk.read(splits)
    assert {Path(path).stem: name for path, (_, name) in found.items()} == LABELS
    assert splits.summary.left_out == {"unlabelled": 1}
    assert "names the image" in "\n".join(splits.summary.lines())


def test_columns_can_be_named_and_a_column_of_splits_is_used(disk: Disk) -> None:
    disk.write(*(f"{index}.png" for index in range(12)))
    rows = [
        (f"{i}.png", i % 2, "xy"[i // 2 % 2], ("train", "Train", "test")[i % 3]) for i in range(12)
    ]
    table = disk.root / "meta.csv"
    text = "name,flag,letter,split\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    table.write_text(text)
    with pytest.raises(ValueError, match=r"name, flag, letter, split.*cannot be told.*label_col"):
        load_data(disk.root, labels=table)
    for column, position in (("flag", 1), ("letter", 2)):
        splits = load_data(disk.root, labels=table, label_columns=("name", column))
        found = disk.read(splits)
        for name, *cells in rows:
            part, class_name = found[name]
            assert class_name == str(cells[position - 1])
            assert (part == "test") == (cells[2] == "test")
    with pytest.raises(ValueError, match=r"label_columns=\('name', 'colour'\).*name, flag, letter"):
        load_data(disk.root, labels=table, label_columns=("name", "colour"))


def test_split_folders_without_classes_and_a_table(disk: Disk) -> None:
    disk.write(*(f"train/{i}.png" for i in range(8)), *(f"test/{i}.png" for i in range(8, 12)))
    table = disk.root.parent / "labels.csv"
    table.write_text("image,label\n" + "".join(f"{i},{i % 2}\n" for i in range(12)))
    found = disk.read(load_data(disk.root, labels=table))
    assert all((part == "test") == path.startswith("test/") for path, (part, _) in found.items())
    # A competition: the test images have no labels, so test images are cut out of the others.
    table.write_text("image,label\n" + "".join(f"{i},{i % 2}\n" for i in range(8)))
    splits = load_data(disk.root, labels=table)
    assert set(disk.read(splits)) == {f"train/{i}.png" for i in range(8)}
    assert splits.summary.left_out == {"unlabelled": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,label\n0.png,a\n9.png,b\n8.png,b\n",
            r"row 3: '9\.png' \(and 1 row more\) is no image",
        ),
        ("file,label\n0.png,a\n1.png,b\n0.png,b\n", r"row 4: 0\.png is 'b' here and 'a' in row 2"),
        ("file,label\n0.png,a\n1.png,a\n", "every image the class 'a'"),
        ("file,label\n0.png,a,b\n", "line 2 has 3 cells"),
        ("file\n0.png\n", "no two columns"),
        ("x,y\nq,z\n", r"none of which names an image below .*such as 0\.png"),
        ("", "no two columns"),
    ],
)
def test_tables_that_are_refused(disk: Disk, text: str, message: str) -> None:
    disk.write(*(f"{index}.png" for index in range(4)))
    table = disk.root / "t.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_data(disk.root, labels=table)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"a.png": {"b": 1}}', "[" * 100_000, "3"])
def test_json_that_is_refused(disk: Disk, text: str) -> None:
    disk.write("0.png")
    table = disk.root / "t.json"
    table.write_text(text)
    with pytest.raises(ValueError, match=r"t\.json cannot be read as a table of labels"):
        load_data(disk.root, labels=table)


def test_labels_of_what_is_no_folder_of_images(disk: Disk) -> None:
    disk.write("0.png")
    with pytest.raises(FileNotFoundError, match=r"none\.csv' is not a file; accepted: a CSV"):
        load_data(disk.root, labels=disk.root / "none.csv")
    with pytest.raises(ValueError, match="labels of a folder of images"):
        load_data("digits", labels="labels.csv")
    with pytest.raises(ValueError, match="label_columns needs labels"):
        load_data(disk.root, label_columns=("a", "b"))


def test_the_train_folder_of_a_whole_set(disk: Disk) -> None:
    disk.classes("train/")
    disk.classes("test/")
    said = "\n".join(load_data(disk.root / "train").summary.lines())
    assert "validation and test images are cut out of the training images (" in said
    assert f"pass it (--data {disk.root}) to use these parts" in said
    assert "also has" not in "\n".join(load_data(disk.root).summary.lines())


def test_names_that_are_no_splits() -> None:
    for name in ("trainer", "strain", "contest", "valley", "cat", "testament", "data", "develop"):
        assert name == "develop" or split_names([name]) == {}
    assert split_names(["steam_train", "sports_car"]) == {}
    assert split_names(["steam train", "steam test"]) == {
        "steam train": "train",
        "steam test": "test",
    }


@pytest.mark.parametrize("prefixes", [("",), ("train/", "test/")])
def test_the_folder_that_is_read_is_told_only_if_it_is_another(prefixes, disk: Disk) -> None:
    for prefix in prefixes:
        disk.classes(prefix)
    assert load_data(disk.root).summary.hints == ()
    inner = disk.root.rename(disk.root.parent / "inner")
    disk.root.mkdir()
    inner.rename(disk.root / "inner")
    assert load_data(disk.root).summary.hints == (f"read from {disk.root / 'inner'}",)
