"""A data set joined with a store: what comes out, in which units, and what is refused."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from store_parts import make_source
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from sign_ext import PixelRangeWarning
from sign_ext.data import ImageSet, open_data
from sign_ext.store import Transformed, load_transformed, save_transformed, transform_to_store

COUNT, SIDE = 11, 7
LABELS = torch.arange(COUNT) * 5 % 3
NAMES = ("ant", "bee", "cat")


@pytest.fixture
def pixels(torch_rng: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch_rng)


@pytest.fixture
def store(pixels: Tensor, tmp_path: Path) -> Transformed:
    """Versions whose pixels say which they are: the originals plus 0.25 and 0.5."""
    return saved(tmp_path / "store", pixels)


def saved(folder: Path, pixels: Tensor, labels: Tensor = LABELS, **options) -> Transformed:
    versions = {3: pixels + 0.25, 8: pixels + 0.5}
    options = {"originals": pixels, "shard_size": 2, "recipe": {}, **options}
    save_transformed(folder, versions, labels, **options)
    return load_transformed(folder)


class Dicts(Dataset):
    """Pillow images in dicts, as Hugging Face's data sets give them."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> dict[str, object]:
        from PIL import Image

        image = Image.fromarray(self.pixels[index].permute(1, 2, 0).numpy())
        return {"img": image, "label": int(LABELS[index])}


def forms(pixels: Tensor) -> dict[str, Dataset]:
    return {
        "bytes": TensorDataset(pixels, LABELS),
        "grey levels": TensorDataset(pixels.float(), LABELS),
        "0 to 1": TensorDataset(pixels / 255, LABELS),
        "Pillow": Dicts(pixels),
        "ImageSet": ImageSet(pixels, LABELS, NAMES, "x"),
    }


@pytest.mark.parametrize("form", ["bytes", "grey levels", "0 to 1", "Pillow", "ImageSet"])
@pytest.mark.parametrize("value_range", [255, 1])
def test_originals_and_versions_come_in_the_same_units(store, pixels, form, value_range):
    joined = store.join(forms(pixels)[form], value_range=value_range)
    assert len(joined) == 3 * COUNT
    for position in (0, 4, COUNT + 4, 2 * COUNT + 10):
        image, target = joined[position]
        item, step = joined.origin(position)
        shift = {0: 0.0, 3: 0.25, 8: 0.5}[step]
        expected = (pixels[item].double() + shift) * value_range / 255
        assert image.dtype == torch.float32
        torch.testing.assert_close(image.double(), expected, rtol=0, atol=1e-5 * value_range)
        assert int(target) == LABELS[item]
    order = [joined.origin(position) for position in range(len(joined))]
    assert order == [(item, step) for step in (0, 3, 8) for item in range(COUNT)]
    assert "the contents of 3 of 6 shards" in joined.proof
    everything = store.join(forms(pixels)[form], check="all")
    assert "the contents of 6 of 6 shards" in everything.proof


@pytest.mark.parametrize(
    ("versions", "replace", "steps"),
    [("all", True, [3, 8]), (8, False, [0, 8]), ((8, 3), True, [3, 8]), ([3], True, [3])],
)
def test_the_versions_that_are_asked_for(store, pixels, versions, replace, steps):
    joined = store.join(TensorDataset(pixels, LABELS), versions, replace)
    origins = [joined.origin(position) for position in range(len(joined))]
    assert origins == [(item, step) for step in steps for item in range(COUNT)]


def drawn_steps(batches: list[Tensor], pixels: Tensor) -> list[int]:
    """Which version each image is, in the order of the data set."""
    shifts = torch.cat(batches) - pixels
    return [{0.25: 3, 0.5: 8}[round(float(shift.mean()), 3)] for shift in shifts]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_random_versions_are_drawn_anew_and_can_be_repeated(store, pixels, workers):
    joined = store.join(TensorDataset(pixels, LABELS), "random", True)
    assert len(joined) == COUNT
    assert joined.origin(4) == (4, None)

    def epochs(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        loader = DataLoader(joined, batch_size=3, num_workers=workers)
        return [drawn_steps([images for images, _ in loader], pixels) for _ in range(3)]

    first = epochs(1)
    assert first == epochs(1)
    assert first != epochs(2)
    assert first[0] != first[1] or first[1] != first[2]
    assert {step for epoch in first for step in epoch} == {3, 8}


def test_a_transform_sees_originals_and_versions_alike(store, pixels):
    seen = []

    def transform(image: Tensor) -> Tensor:
        seen.append((image.dtype, tuple(image.shape)))
        return image.mean()

    joined = store.join(TensorDataset(pixels / 255, LABELS), transform=transform, value_range=1)
    values = [float(joined[position][0]) for position in (5, COUNT + 5, 2 * COUNT + 5)]
    mean = float(pixels[5].double().mean())
    assert values == pytest.approx([(mean + shift) / 255 for shift in (0, 0.25, 0.5)], abs=1e-6)
    assert seen == [(torch.float32, (3, SIDE, SIDE))] * 3


def test_batches_and_pickles_give_the_same(store, pixels, rng):
    joined = pickle.loads(pickle.dumps(store.join(TensorDataset(pixels, LABELS))))
    positions = rng.integers(-3 * COUNT, 3 * COUNT, 20).tolist()
    for (image, target), position in zip(joined.__getitems__(positions), positions, strict=True):
        assert torch.equal(image, joined[position][0])
        assert target == joined[position][1]
    with pytest.raises(IndexError, match="33"):
        joined[3 * COUNT]


def test_what_is_not_the_stores_data_is_refused(store, pixels, tmp_path):
    one = pixels.clone()
    one[0] = 255 - one[0]
    unknown = saved(tmp_path / "unknown", pixels, originals=None)
    named = saved(tmp_path / "named", pixels, class_names=("ant", "bee", "dog"))
    standardised = (pixels / 255 - 0.5) / 0.25
    grey = TensorDataset(pixels[:, :1], LABELS)
    cases = [
        (store, TensorDataset(pixels[:9], LABELS[:9]), r"made from 11 images .*has 9"),
        (store, TensorDataset(pixels, LABELS.flip(0)), r"item \d+ has the label"),
        (store, TensorDataset(one, LABELS), "shard 0 .* item 0 is up to"),
        (store, TensorDataset(pixels.roll(1, 0), LABELS), "shard 0 was made from other images"),
        (store, TensorDataset(standardised, LABELS), "look standardised.*value_range=1"),
        (store, TensorDataset(pixels.float() / 25, LABELS), "neither 0 to 255 nor 0 to 1"),
        (store, TensorDataset(pixels.int() * 2, LABELS), "range from"),
        (store, grey, r"\(1, 7, 7\), and the images of .* are \(3, 7, 7\)"),
        (unknown, TensorDataset(pixels, LABELS), "originals=images"),
        (named, ImageSet(pixels, LABELS, NAMES, "x"), "label 2 is dog in .*, cat in x"),
        (store, TensorDataset(pixels), "accepted: .image, target."),
    ]
    for which, dataset, words in cases:
        with pytest.raises((ValueError, TypeError), match=words):
            which.join(dataset)
    good = TensorDataset(pixels, LABELS)
    for arguments, words in (
        ({"versions": 4}, "steps 3, 8"),
        ({"versions": "some"}, "'all', 'random'"),
        ({"versions": ()}, "accepted"),
        ({"value_range": 2}, "255"),
        ({"check": "none"}, "sample, all"),
    ):
        with pytest.raises(ValueError, match=words):
            store.join(good, **arguments)
    with pytest.raises(TypeError, match="callable"):
        store.join(good, transform=3)

    class Endless(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TypeError, match="map-style"):
        store.join(Endless())


class Flickering(Dataset):
    """Every reading gives another image."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8), int(LABELS[index])


def test_a_random_transform_inside_the_data_set_is_named(store):
    with pytest.raises(ValueError, match=r"its own transform is random.*join\(transform"):
        store.join(Flickering())


def test_one_image_out_of_range_is_an_error_when_it_is_read(store, pixels):
    unit = pixels / 255
    joined = store.join(TensorDataset(unit, LABELS))
    unit[7] *= 255  # the data set's own tensor
    with pytest.raises(ValueError, match="item 7: its values range from"):
        joined[7]


class OneHot(Dataset):
    """Lists classes as numbers, and gives vectors."""

    def __init__(self, pixels: Tensor) -> None:
        self.pixels, self.targets = pixels, LABELS.tolist()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pixels[index], torch.eye(3)[LABELS[index]]


def test_targets_are_the_data_sets_also_where_it_lists_classes(store, pixels):
    images, targets = next(iter(DataLoader(store.join(OneHot(pixels)), batch_size=3 * COUNT)))
    assert torch.equal(targets, torch.eye(3)[LABELS].repeat(3, 1))
    assert torch.equal(images[:COUNT], pixels.float())
    folder = OneHot(pixels)
    folder.targets = LABELS.flip(0).tolist()
    with pytest.raises(ValueError, match="has the label"):
        store.join(folder)


def test_a_part_is_matched_by_the_whole(store, pixels):
    part = Subset(TensorDataset(pixels, LABELS), [9, 2, 4])
    joined = store.join(part, 3)
    assert "positions of 3 of 11 images" in joined.proof
    for position, item in enumerate([9, 2, 4, 9, 2, 4]):
        shift = 0.25 if position >= 3 else 0.0
        assert torch.equal(joined[position][0], pixels[item] + shift)
        assert joined[position][1] == LABELS[item]
    turned = pixels.clone()
    turned[0] = pixels[1]
    with pytest.raises(ValueError, match="shard 0"):
        store.join(Subset(TensorDataset(turned, LABELS), [9, 2, 4]))


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of images of two sizes, for training and test."""
    Image = pytest.importorskip("PIL.Image")
    for split, count in (("train", 5), ("val", 1), ("test", 4)):
        for name in ("ant", "bee"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                height, width = (12, 12) if number % 2 else (16, 10)
                values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(values).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_a_folder_is_matched_by_its_paths(photos, tmp_path):
    folder = pytest.importorskip("torchvision.datasets").ImageFolder
    source = open_data(str(photos), image_size=12)
    versions = {1: source.read(0, len(source)) + 0.5}
    keys = source.keys(0, len(source))
    labels = torch.from_numpy(source.labels)
    save_transformed(
        tmp_path / "s",
        versions,
        labels,
        recipe={},
        originals=source.read(0, len(source)),
        keys=keys,
        shard_size=3,
        class_names=source.class_names,
    )
    store = load_transformed(tmp_path / "s")
    assert store.keys == tuple(keys)
    dataset = folder(photos / "train")
    joined = store.join(dataset)
    assert joined.proof.startswith(f"paths of {len(dataset)} images and their labels")
    by_key = {
        f"train/{Path(p).parent.name}/{Path(p).name}": i for i, (p, _) in enumerate(dataset.samples)
    }
    for row, key in enumerate(keys):
        item = by_key[key]
        assert torch.equal(joined[item][0], source.read(row, row + 1)[0].float())
        assert torch.equal(joined[len(dataset) + item][0], store.images(1, [row])[0])
    with pytest.raises(ValueError, match="has 8"):
        store.join(folder(photos / "test"))
    whole = folder(photos / "train")
    whole.samples += [(str(photos / "val" / "ant" / "0.png"), 0)]
    with pytest.raises(ValueError, match=r"no version of .*val/ant/0\.png' and of 0 other"):
        store.join(whole)
    dataset.samples[3] = dataset.samples[4]
    with pytest.raises(ValueError, match="both end like"):
        store.join(dataset)
    cropped = pytest.importorskip("torchvision.transforms.v2").CenterCrop(12)
    with pytest.raises(ValueError, match=r"has a transform of its own.* value_range=1"):
        store.join(folder(photos / "train", transform=cropped))


def test_an_image_that_was_skipped_stays_an_original(sign, unreadable, tmp_path):
    transform_to_store(sign, unreadable(4, 9), tmp_path / "s", shard_size=6, on_error="skip")
    store = load_transformed(tmp_path / "s")
    whole = make_source()
    for dataset in (whole, whole.read_all()):
        joined = store.join(dataset, "random", replace=True)
        assert len(joined) == 23
        kinds = dict(joined.origin(position) for position in range(23))
        assert {item for item, step in kinds.items() if step == 0} == {4, 9}
        originals = [joined.origin(position) for position in range(2)]
        assert originals == [(4, 0), (9, 0)]
        assert torch.equal(joined[1][0], whole.read(9, 10)[0].float())
        version, label = store.join(dataset, 3)[23 + 4]  # of image 5: 4 has none
        assert torch.equal(version, store.images(3, [4])[0])
        assert label == whole.labels[5]


def test_hugging_faces_data_sets(store, pixels, tmp_path):
    datasets = pytest.importorskip("datasets")
    Image = pytest.importorskip("PIL.Image")
    images = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in pixels]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))}
    )
    rows = {"image": images, "label": LABELS.tolist()}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    joined = store.join(dataset)
    assert torch.equal(joined[3][0], pixels[3].float())
    assert torch.equal(joined[COUNT + 3][0], pixels[3] + 0.25)
    assert joined.class_names == NAMES
    with pytest.raises(ValueError, match="has the label"):
        store.join(dataset.shuffle(seed=3))
    with pytest.raises(ValueError, match=r"with_format\(None\)"):
        store.join(dataset.with_transform(lambda batch: batch))
    with pytest.raises(TypeError, match="several data sets"):
        store.join(datasets.DatasetDict({"train": dataset}))


def test_a_normalisation_for_zero_to_one_is_warned_of_once(pixels, store):
    def normalise(image: Tensor) -> Tensor:
        return (image - 0.485) / 0.229

    dataset = TensorDataset(pixels, LABELS)
    joined = store.join(dataset, transform=normalise)
    with pytest.warns(PixelRangeWarning, match=r"values of 1\d\d\d .* value_range=1"):
        assert float(joined[0][0].max()) > 1000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len([joined[place] for place in range(3)]) == 3
        assert float(store.join(dataset, transform=normalise, value_range=1)[0][0].max()) < 3
        store.join(dataset, transform=lambda image: (image - 123) / 58)[0]
        store.join(dataset, transform=lambda image: image * 1.4)[0]
    dark = TensorDataset(pixels // 9, LABELS)
    path = store.folder.parent / "dark"
    joined = saved(path, pixels // 9).join(dark, transform=normalise)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        joined[0]


def test_another_size_is_named(tmp_path, pixels):
    large = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    large[:, :, 1::2, ::2] //= 2
    store = saved(tmp_path / "large", large)
    sizes = rf"{2 * SIDE}×{2 * SIDE} in the store, {SIDE}×{SIDE} here"
    with pytest.raises(ValueError, match=sizes):
        store.join(TensorDataset(pixels, LABELS))
    assert "here" not in store.join(TensorDataset(large, LABELS)).proof
