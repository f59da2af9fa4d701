"""Stores of targets that are not one class an image: several classes, numbers, masks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from store_parts import SHAPE, make_sign
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from sign_ext.data import source_of
from sign_ext.store import (
    StoreError,
    load_transformed,
    save_transformed,
    transform_to_store,
    verify,
)

COUNT = 7


def targets(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    drawn = torch.rand(COUNT, *SHAPE[1:], generator=generator)
    return {
        "several classes": (drawn[:, 0, :4] > 0.5).float(),
        "flags": drawn[:, 0, :4] > 0.5,
        "a number": drawn[:, 0, 0],
        "a mask": (drawn * 5).to(torch.uint8),
        "a mask with places left out": (drawn * 5).long() - 1,
        "a depth a pixel": drawn.double(),
    }[kind]


KINDS = [
    "several classes",
    "flags",
    "a number",
    "a mask",
    "a mask with places left out",
    "a depth a pixel",
]


@pytest.fixture
def pixels(torch_rng: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch_rng)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_of_any_kind_are_stored_and_joined(kind, pixels, tmp_path):
    wanted = targets(kind)
    dataset = TensorDataset(pixels / 255, wanted)
    transform_to_store(make_sign(), dataset, tmp_path / "s", shard_size=3)
    assert verify(tmp_path / "s").faults == ()
    store = load_transformed(tmp_path / "s")
    assert store.labels.dtype == wanted.dtype
    assert torch.equal(store.labels, wanted)
    assert torch.equal(store[4][1], wanted[4])
    batches = list(DataLoader(store.at(3), batch_size=4))
    assert torch.equal(torch.cat([found for _, found in batches]), wanted)
    joined = store.join(dataset)
    images, found = next(iter(DataLoader(joined, batch_size=3 * COUNT)))
    assert torch.equal(found, wanted.repeat(3, *[1] * (wanted.ndim - 1)))
    assert torch.equal(images[COUNT : 2 * COUNT], store.tensor(1))
    other = wanted.clone()
    other[0] = ~other[0] if kind == "flags" else other[0] + 1
    with pytest.raises(ValueError, match="item 0 has another target"):
        store.join(TensorDataset(pixels, other))
    save_transformed(tmp_path / "m", {1: pixels.float()}, wanted, recipe={}, originals=pixels)
    assert torch.equal(load_transformed(tmp_path / "m").labels, wanted)
    assert load_transformed(tmp_path / "m").join(dataset).proof.startswith("positions of 7")


def test_images_and_masks_are_transformed_together(pixels, tmp_path):
    masks = targets("a mask")
    dataset = TensorDataset(pixels, masks)
    save_transformed(tmp_path / "s", {2: pixels + 0.5}, masks, recipe={}, originals=pixels)
    joined = load_transformed(tmp_path / "s").join(
        dataset, transform=lambda image, mask: (image.flip(2), mask.flip(1))
    )
    image, mask = joined[COUNT + 2]
    assert torch.equal(image, (pixels[2] + 0.5).flip(2))
    assert torch.equal(mask, masks[2].flip(1))


def test_the_manifest_names_the_kind_and_old_ones_have_none(pixels, tmp_path):
    for folder, labels, kind in (
        ("classes", torch.arange(COUNT), None),
        ("several", targets("several classes"), {"dtype": "float32", "shape": [4]}),
    ):
        save_transformed(tmp_path / folder, {1: pixels.float()}, labels, recipe={})
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text())
        assert manifest.get("targets") == kind
        assert ("targets" in manifest) == (kind is not None)
    with pytest.raises(FileExistsError, match=r"targets: .*float32.* in the store, null now"):
        save_transformed(tmp_path / "several", {1: pixels.float()}, torch.arange(COUNT), recipe={})
    manifest["targets"]["shape"] = [5]
    (tmp_path / "several" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"labels is \[7, 4\], not \[7, 5\]"):
        load_transformed(tmp_path / "several").labels  # noqa: B018
    assert "labels is [7, 4], not [7, 5]" in verify(tmp_path / "several").faults[0]
    manifest["targets"]["dtype"] = "complex64"
    (tmp_path / "several" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"targets\.dtype"):
        load_transformed(tmp_path / "several")


@pytest.mark.parametrize(
    "labels", [torch.zeros(COUNT, dtype=torch.bool), torch.zeros(COUNT, 2, dtype=torch.bfloat16)]
)
def test_targets_that_no_store_holds_are_refused(labels, pixels, tmp_path):
    with pytest.raises(TypeError, match="accepted: classes as"):
        save_transformed(tmp_path / "s", {1: pixels.float()}, labels, recipe={})


class Mixed(Dataset):
    """Items that the tests choose."""

    def __init__(self, *items: tuple[object, object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[object, object]:
        return self.items[index]


def test_what_cannot_be_a_source_is_refused():
    grey, white = torch.zeros(3, 4, 6, dtype=torch.uint8), torch.full((3, 4, 6), 0.123) * 255
    mask = torch.zeros(4, 6, dtype=torch.uint8)
    cases = [
        (Mixed((grey, 0), (grey[:, 1:], 0)), {}, "pass image_size"),
        (Mixed((grey, 0), (grey, 1.5)), {}, "accepted: one kind for all"),
        (Mixed((grey, 0), (grey, -1)), {}, "accepted: 0 or more"),
        (Mixed((grey, "cat")), {}, "the target of item 0 is a str"),
        (Mixed((white, 0)), {}, "not of whole grey levels"),
        (Mixed((grey, mask)), {"image_size": 8}, "resize both"),
        (Mixed((grey, 2)), {"class_names": ("a", "b")}, "2 class_names"),
        (Mixed((grey[0], 0)), {}, r"accepted: \(C, H, W\)"),
        (Mixed(("photo.png", 0)), {}, "its image is a str"),
        (Mixed(), {}, "no images"),
        (Mixed(grey), {}, "gives a Tensor for an index"),
        (Mixed({"picture": grey, "label": 0}), {}, "keys picture, label"),
    ]
    for dataset, options, words in cases:
        with pytest.raises((ValueError, TypeError), match=words):
            source_of(dataset, **options)


def test_a_source_of_a_part_keeps_its_images_and_classes(pixels):
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 1])
    source = source_of(Subset(TensorDataset(pixels / 255, labels), [6, 2]), name="mine")
    assert torch.equal(source.read(0, 2), pixels[[6, 2]])
    assert source.labels.tolist() == [1, 1]
    assert source.class_names == ("0", "1")
    assert source.keys(0, 2) == ["mine/0", "mine/1"]
    again = source_of(TensorDataset(pixels[[6, 2]], labels[[6, 2]]), name="other")
    assert again.fingerprint == source.fingerprint
    changed = pixels[[6, 2]].clone()
    changed[1, 2, 8, 6] ^= 1
    for images, classes in ((changed, labels[[6, 2]]), (pixels[[6, 2]], torch.tensor([1, 0]))):
        assert source_of(TensorDataset(images, classes)).fingerprint != source.fingerprint


class Damaged(Mixed):
    """The second image cannot be read; classes are listed as torchvision's data sets do."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__(*zip(pixels[:3], [0, 2, 1], strict=True))
        self.targets = [0, 2, 1]

    def __getitem__(self, index: int) -> tuple[object, object]:
        if index == 1:
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_an_item_that_cannot_be_read_can_be_skipped(pixels, tmp_path):
    dataset = Damaged(pixels)
    with pytest.raises(StoreError, match=r"item 1 cannot be read: the disk is gone"):
        transform_to_store(make_sign(), dataset, tmp_path / "s")
    transform_to_store(make_sign(), dataset, tmp_path / "s", on_error="skip")
    store = load_transformed(tmp_path / "s")
    assert [each.index for each in store.skipped] == [1]
    assert store.indices.tolist() == [0, 2]
    assert store.labels.tolist() == [0, 1]
    joined = store.join(TensorDataset(pixels[:3], torch.tensor([0, 2, 1])), 3, replace=True)
    origins = [joined.origin(position) for position in range(len(joined))]
    assert origins == [(1, 0), (0, 3), (2, 3)]
    dataset.targets = None
    with pytest.raises(ValueError, match="the disk is gone"):
        source_of(dataset)
    masked = source_of(TensorDataset(pixels, targets("a mask")))
    with pytest.raises(TypeError, match="use read and targets_of"):
        masked.read_all()


def test_a_folder_is_listed_without_being_decoded(tmp_path: Path, rng, monkeypatch):
    folder = pytest.importorskip("torchvision.datasets").ImageFolder
    Image = pytest.importorskip("PIL.Image")
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for number in range(3):
            values = rng.integers(0, 256, (10, 14, 3), dtype="uint8")
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    decoded = []
    from sign_ext.data import pairs

    def counted(path, *rest, decode=pairs.decode_file):
        decoded.append(path)
        return decode(path, *rest)

    monkeypatch.setattr(pairs, "decode_file", counted)
    source = source_of(folder(tmp_path), image_size=8)
    assert {path.name for path in decoded} == {"0.png"}  # the first, to know its kind
    assert source.keys(2, 4) == ["ant/2.png", "bee/0.png"]
    assert source.class_names == ("ant", "bee")
    picture = Image.open(tmp_path / "bee" / "0.png").resize((8, 8), Image.Resampling.BILINEAR)
    values = torch.tensor(list(picture.tobytes()), dtype=torch.uint8)
    assert torch.equal(source.read(3, 4)[0], values.reshape(8, 8, 3).permute(2, 0, 1))
