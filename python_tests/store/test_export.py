"""Exports: pixels against NumPy, names and labels kept, losses counted, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sign_ext.data import ImageSet, load_data
from sign_ext.errors import StoreError
from sign_ext.store import export, export_formats, export_store, save_transformed
from sign_ext.store.export_loss import to_bytes
from sign_ext.store.export_names import class_folders, image_names

CLASSES = ("cat", "a dog", "cat")
KEYS = tuple(f"train/{['cat', 'a dog', 'other'][n % 3]}/x/photo.{n}.JPG" for n in range(7))
LABELS = torch.tensor([n % 3 for n in range(7)])


def make_images(shape=(3, 5, 4), seed: int = 0) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(7, *shape, generator=generator) * 90 + 128 for k in (2, 50)}


def make_store(folder: Path, keys=KEYS, labels=LABELS, images=None, **options) -> Path:
    images = make_images() if images is None else images
    given = {"recipe": {"split": {"name": "test"}}, "class_names": CLASSES, **options}
    if not (labels.dtype == torch.int64 and labels.ndim == 1):
        del given["class_names"]
    save_transformed(folder, images, labels, keys=list(keys), **given)
    return folder


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", shard_size=3)


def expected_pixels(images: torch.Tensor) -> np.ndarray:
    return np.rint(np.clip(images.double().numpy(), 0, 255)).astype(np.uint8).transpose(0, 2, 3, 1)


def own(n: int) -> str:
    return f"{['cat', 'a dog', 'cat (2)'][n % 3]}/" + (
        f"x/photo.{n}" if n % 3 < 2 else f"photo.{n}"
    )


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_pictures_have_the_rounded_pixels_and_their_names(store, tmp_path, kind):
    done = export_store(store, tmp_path / "out", kind)
    for k, images in make_images().items():
        for n, pixels in enumerate(expected_pixels(images)):
            with Image.open(tmp_path / f"out/K{k:03d}/{own(n)}.{kind}") as image:
                np.testing.assert_array_equal(np.array(image), pixels)
    assert done.files == len(list((tmp_path / "out").rglob(f"*.{kind}"))) == 14
    with (tmp_path / "out/images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [f"{own(n)}.{kind}" for n in range(7)]
    assert [row["key"] for row in rows] == list(KEYS)
    assert [int(row["label"]) for row in rows] == LABELS.tolist()
    assert json.loads((tmp_path / "out/classes.json").read_text()) == list(CLASSES)
    assert not list(tmp_path.glob("out.*"))


def test_what_is_lost_is_counted(store, tmp_path):
    done = export_store(store, tmp_path / "out", "png")
    for k, images in make_images().items():
        x = images.double().numpy()
        clipped, loss = np.clip(x, 0, 255), done.loss[k]
        assert (loss.values, loss.below, loss.above) == (x.size, (x < 0).sum(), (x > 255).sum())
        assert loss.below > 10
        assert loss.above > 10
        assert loss.clipping_rms == pytest.approx(np.sqrt(np.mean((x - clipped) ** 2)), rel=1e-12)
        rounded = np.sqrt(np.mean((clipped - np.rint(clipped)) ** 2))
        assert loss.rounding_rms == pytest.approx(rounded, rel=1e-12)
        assert loss.clipped_share == (loss.below + loss.above) / x.size


def test_halves_go_to_the_even_number():
    pixels, loss = to_bytes(torch.tensor([0.5, 1.5, 2.5, -0.5]).view(1, 1, 2, 2))
    assert pixels.ravel().tolist() == [0, 2, 2, 0]
    assert (loss.below, loss.above, loss.rounding, loss.clipping) == (1, 0, 0.75, 0.25)


def test_npy_loses_nothing(store, tmp_path):
    done = export_store(store, tmp_path / "out", "npy")
    for k, images in make_images().items():
        found = np.load(tmp_path / f"out/K{k:03d}.npy", allow_pickle=False)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, images.numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "out/labels.npy"), LABELS.numpy())
    assert done.loss == {}


def test_npy_holds_images_of_any_channels_and_masks(tmp_path):
    images = make_images((2, 9, 4))
    masks = torch.randint(0, 5, (7, 9, 4), dtype=torch.uint8)
    store = make_store(tmp_path / "store", images=images, labels=masks)
    export_store(store, tmp_path / "out", "npy", snapshots=(50,))
    np.testing.assert_array_equal(np.load(tmp_path / "out/K050.npy"), images[50].numpy())
    np.testing.assert_array_equal(np.load(tmp_path / "out/targets.npy"), masks.numpy())
    assert not (tmp_path / "out/K002.npy").exists()
    for to in ("png", "webp", "hf", "webdataset"):
        with pytest.raises(ValueError, match="export to npy, which holds any shape"):
            export_store(store, tmp_path / to, to)
        assert not (tmp_path / to).exists()


def test_datasets_opens_hf(store, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    export_store(store, tmp_path / "out", "hf")
    cache = str(tmp_path / "cache")
    one = datasets.load_dataset(str(tmp_path / "out"), "K050", cache_dir=cache)
    assert list(one) == ["test"]
    one = one["test"]
    assert one.features["label"].names == ["cat", "a dog", "cat (2)"]
    pixels = expected_pixels(make_images()[50])
    assert len(one) == 7
    for n, row in enumerate(one):
        np.testing.assert_array_equal(np.array(row["image"]), pixels[n])
        assert (row["label"], row["key"], row["index"], row["steps"]) == (n % 3, KEYS[n], n, 50)
    both = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)["test"]
    assert sorted(both["steps"]) == [2] * 7 + [50] * 7


def test_webdataset_has_the_stored_names(store, tmp_path):
    export_store(store, tmp_path / "out", "webdataset")
    pixels = expected_pixels(make_images()[2])
    found = {}
    for path in sorted((tmp_path / "out/K002").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = tar.extractfile(member).read()
    for n in range(7):
        key = f"photo_{n}"
        np.testing.assert_array_equal(
            np.array(Image.open(io.BytesIO(found[f"{key}.png"]))), pixels[n]
        )
        assert int(found[f"{key}.cls"]) == n % 3
        about = json.loads(found[f"{key}.json"])
        wanted = {"key": KEYS[n], "index": n, "steps": 2, "label": n % 3, "class": CLASSES[n % 3]}
        assert about == wanted


def test_a_killed_run_continues_and_nothing_is_half_there(store, tmp_path, monkeypatch):
    out, whole = tmp_path / "out", export_formats.write_pictures
    calls = []

    def dies(folder, rows, kind, advance):
        calls.append(rows.names)
        if len(calls) == 3:
            (folder / "K002/cat").mkdir(parents=True, exist_ok=True)
            (folder / "K002/cat/half.png").write_bytes(b"\x89PNG")
            raise KeyboardInterrupt
        return whole(folder, rows, kind, advance)

    monkeypatch.setattr(export, "write_pictures", dies)
    with pytest.raises(KeyboardInterrupt):
        export_store(store, out, "png")
    assert not out.exists()
    done = []
    monkeypatch.setattr(export, "write_pictures", whole)
    result = export_store(store, out, "png", progress=lambda n, total: done.append((n, total)))
    assert (result.made, result.parts) == (4, 6)  # two of three shards a K existed
    assert done[-1] == (14, 14)
    fresh = export_store(store, tmp_path / "fresh", "png")
    assert result.loss == fresh.loss
    assert result.bytes == fresh.bytes
    for file in (tmp_path / "fresh").rglob("*"):
        if file.is_file() and file.name != "export.json":
            assert file.read_bytes() == (out / file.relative_to(tmp_path / "fresh")).read_bytes()


def test_a_file_that_was_cut_is_written_again(store, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr(export, "_write_rest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_store(store, out, "png")
    cut = tmp_path / "out.unfinished/K050" / f"{own(4)}.png"
    cut.write_bytes(cut.read_bytes()[:20])
    monkeypatch.undo()
    assert export_store(store, out, "png").made == 1
    with Image.open(out / f"K050/{own(4)}.png") as image:
        np.testing.assert_array_equal(np.array(image), expected_pixels(make_images()[50])[4])


def test_the_same_export_is_not_written_twice_and_another_one_is_refused(store, tmp_path):
    out = tmp_path / "out"
    first = export_store(store, out, "png")
    again = export_store(store, out, "png")
    assert (again.made, again.loss, again.bytes) == (0, first.loss, first.bytes)
    with pytest.raises(FileExistsError, match="--to was png, now npy"):
        export_store(store, out, "npy")
    export_store(store, out, "npy", overwrite=True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "store"]
    assert not list(out.rglob("*.png"))


def test_an_export_whose_files_are_gone_is_not_called_complete(store, tmp_path):
    out = tmp_path / "out"
    export_store(store, out, "png")
    (out / f"K050/{own(2)}.png").unlink()
    with pytest.raises(FileExistsError, match="changed or removed since"):
        export_store(store, out, "png")
    assert export_store(store, out, "png", overwrite=True).made == 6
    assert (out / f"K050/{own(2)}.png").exists()


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_run_killed_while_it_takes_its_place(store, tmp_path, monkeypatch, renames):
    """Between the renames that replace another export, and after them."""
    out, rename, remove = tmp_path / "out", export.os.rename, export.shutil.rmtree
    done = []
    export_store(store, out, "npy")

    def dies(*names):
        if len(done) == renames:
            raise KeyboardInterrupt
        rename(*names)
        done.append(names)

    def removes(*names, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        remove(*names, **options)

    monkeypatch.setattr(export.os, "rename", dies)
    monkeypatch.setattr(export.shutil, "rmtree", removes)
    with pytest.raises(KeyboardInterrupt):
        export_store(store, out, "png", overwrite=True)
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("K050.npy"))) == 1  # nothing is lost before the new one is there
    made = export_store(store, out, "png", overwrite=True).made
    assert made == 0
    assert len(list(out.rglob("*.png"))) == 14
    assert not (out / ".records").exists()


def test_a_folder_with_other_files_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="other files than an export's"):
        export_store(store, tmp_path / "out", "png", overwrite=True)
    assert (tmp_path / "out/thesis.tex").read_text() == "mine"


def test_an_unfinished_store_is_refused(store, tmp_path):
    (store / "shard-000001.safetensors").unlink()
    with pytest.raises(StoreError):
        export_store(store, tmp_path / "out", "png")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "naming", "words"),
    [
        (["a/1.jpg", "b/1.jpg"], "name", "--names path keeps the whole key, --names position"),
        (["a/1.jpg", "a/1.png"], "path", "would both be called 'cat/a/1': --names position"),
        (["../1.jpg", "2.jpg"], "path", "leads out of its folder"),
        (["/etc/passwd", "2.jpg"], "path", "is empty"),
        (["a\\b.jpg", "2.jpg"], "name", "a backslash"),
        (["A.jpg", "a.jpg"], "name", "which many file systems take for one"),
        (["x" * 300 + ".jpg", "2.jpg"], "name", "longer than 240 bytes"),
        (["a. ", "2.jpg"], "name", "white space"),
    ],
)
def test_names_that_collide_or_escape_are_refused(keys, naming, words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (its words are compared)
        image_names(keys, ["cat", "cat"], naming)
    assert words in str(caught.value)
    assert image_names(keys, ["cat", "cat"], "position") == ("cat/000000", "cat/000001")


@pytest.mark.parametrize("name", ["a/b", "..", "", " x", "x" * 241])
def test_classes_that_are_no_folders_are_refused(name):
    with pytest.raises(ValueError, match="cannot be the name of a folder"):
        class_folders([name, "dog"])


def test_a_store_with_names_that_collide_writes_nothing(tmp_path):
    keys = [f"part{n}/1.jpg" for n in range(7)]
    store = make_store(tmp_path / "store", keys=keys, labels=torch.zeros(7, dtype=torch.int64))
    with pytest.raises(ValueError, match="would both be called"):
        export_store(store, tmp_path / "out", "png")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store"]
    export_store(store, tmp_path / "out", "png", naming="path")
    assert (tmp_path / "out/K002/cat/part3/1.png").exists()


@pytest.mark.parametrize("to", ["png", "webdataset"])
def test_an_export_is_a_data_set_again(tmp_path, to):
    keys = [f"{CLASSES[n % 2]}/{n}.png" for n in range(7)]
    labels = torch.tensor([n % 2 for n in range(7)])
    names = CLASSES[:2]
    images = {k: torch.cat([each, each[:5]]) for k, each in make_images().items()}
    keys += [f"{names[n % 2]}/more{n}.png" for n in range(5)]
    labels = torch.cat([labels, torch.tensor([n % 2 for n in range(5)])])
    store = make_store(
        tmp_path / "store", keys=keys, labels=labels, images=images, class_names=names
    )
    export_store(store, tmp_path / "out", to)
    data = load_data(str(tmp_path / "out/K050"), image_size=4)
    assert data.class_names == (tuple(sorted(names)) if to == "png" else names)
    assert sum(len(data.part(part)) for part in ("train", "validation", "test")) == 12
    assert isinstance(data.train, ImageSet)


def test_targets_are_kept(tmp_path):
    """Several classes an image: a list in Parquet, an array in a tar and beside pictures."""
    pq = pytest.importorskip("pyarrow.parquet")
    several = torch.rand(7, 4, generator=torch.Generator().manual_seed(2))
    store = make_store(tmp_path / "store", labels=several, keys=[f"k{n}" for n in range(7)])
    export_store(store, tmp_path / "hf", "hf", snapshots=(50,))
    table = pq.read_table(tmp_path / "hf/data").to_pydict()
    np.testing.assert_array_equal(np.array(table["target"], np.float32), several.numpy())
    export_store(store, tmp_path / "tar", "webdataset", snapshots=(50,))
    with tarfile.open(tmp_path / "tar/K050/000000.tar") as tar:
        assert "k3.cls" not in tar.getnames()
        found = np.load(io.BytesIO(tar.extractfile("k3.npy").read()))
    np.testing.assert_array_equal(found, several[3].numpy())
    export_store(store, tmp_path / "png", "png", snapshots=(50,))
    assert (tmp_path / "png/K050/k6.png").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "png/targets.npy"), several.numpy())


def test_masks_are_refused_by_hf_before_anything_is_written(tmp_path):
    masks = torch.zeros(7, 5, 4, dtype=torch.uint8)
    store = make_store(tmp_path / "store", labels=masks)
    with pytest.raises(ValueError, match="export to webdataset or npy"):
        export_store(store, tmp_path / "out", "hf")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["store"]
