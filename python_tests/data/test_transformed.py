"""Transformed images on disk: exact, whole, checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sign_ext.data import load_transformed, save_transformed, transformed

SETTINGS = {"model": "basic_cnn", "step_size": 0.1, "snapshots": [50, 100]}


@pytest.fixture
def snapshots(torch_rng: torch.Generator) -> dict[int, torch.Tensor]:
    """Two snapshots with values far outside 0–255."""
    return {k: torch.randn(5, 3, 7, 9, generator=torch_rng) * 300 for k in (100, 50)}


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([4, 0, 2, 2, 1])


def data_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def test_round_trip_is_exact(snapshots, labels, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    save_transformed(folder, snapshots, labels, manifest=SETTINGS)
    loaded = load_transformed(folder)
    assert list(loaded.snapshots) == [50, 100]
    for step, images in snapshots.items():
        assert loaded.snapshots[step].dtype == torch.float32
        assert loaded.snapshots[step].numpy().tobytes() == images.numpy().tobytes()
    assert torch.equal(loaded.labels, labels)
    assert loaded.manifest == SETTINGS
    with safe_open(data_file(folder), "pt") as file:
        assert set(file.keys()) == {"images_000050", "images_000100", "labels"}
    assert sorted(each.suffix for each in folder.iterdir()) == [".json", ".safetensors"]


def test_any_layout_and_shared_memory(torch_rng: torch.Generator, labels, tmp_path: Path) -> None:
    both = torch.randn(10, 3, 7, 9, generator=torch_rng)
    turned = both[:5].to(memory_format=torch.channels_last)
    given = {1: both[:5], 2: both[5:], 3: both[2:7], 4: turned, 5: both[:5]}
    save_transformed(tmp_path, given, labels, manifest={})
    for step, images in load_transformed(tmp_path).snapshots.items():
        assert torch.equal(images, given[step])


def test_other_settings_are_not_overwritten(snapshots, labels, tmp_path: Path) -> None:
    save_transformed(tmp_path, snapshots, labels, manifest=SETTINGS)
    other = {**SETTINGS, "step_size": 0.2}
    with pytest.raises(FileExistsError, match=r"different: step_size.*overwrite=True"):
        save_transformed(tmp_path, snapshots, labels, manifest=other)
    assert load_transformed(tmp_path).manifest == SETTINGS

    changed = {50: snapshots[50] + 1}
    save_transformed(tmp_path, changed, labels, manifest=SETTINGS)
    assert torch.equal(load_transformed(tmp_path).snapshots[50], changed[50])
    save_transformed(tmp_path, snapshots, labels, manifest=other, overwrite=True)
    assert load_transformed(tmp_path).manifest == other
    data_file(tmp_path)  # the replaced data is gone

    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(FileExistsError, match="cannot be read"):
        save_transformed(tmp_path, snapshots, labels, manifest=other)


@pytest.mark.parametrize("failing", [0, 1])
def test_an_interrupted_write_leaves_the_old_content(
    failing: int, snapshots, labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_transformed(tmp_path, snapshots, labels, manifest=SETTINGS)
    replace, calls = transformed.os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) > failing:
            raise OSError("no space left")
        replace(source, target)

    monkeypatch.setattr(transformed.os, "replace", interrupted)
    with pytest.raises(OSError, match="no space left"):
        save_transformed(tmp_path, {50: snapshots[50] * 2}, labels, manifest=SETTINGS)
    monkeypatch.undo()
    assert torch.equal(load_transformed(tmp_path).snapshots[50], snapshots[50])
    assert not list(tmp_path.glob(".*"))


def test_damage_is_noticed(snapshots, labels, tmp_path: Path) -> None:
    save_transformed(tmp_path, snapshots, labels, manifest=SETTINGS)
    file = data_file(tmp_path)
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for data in (bytes(flipped), whole[:-4], b""):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="SHA-256"):
            load_transformed(tmp_path)
    file.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_transformed(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("format", "another", "not a manifest of transformed images"),
        ("format_version", 2, "format version 2; accepted: 1"),
        ("file", "../outside.safetensors", "names the file"),
        ("shapes", {"images_000050": [5, 3, 7, 8]}, "its manifest says"),
        ("shapes", None, "no proper 'shapes'"),
        ("settings", [], "no proper 'settings'"),
    ],
)
def test_other_manifests_are_refused(field, value, words, snapshots, labels, tmp_path) -> None:
    path = save_transformed(tmp_path, snapshots, labels, manifest=SETTINGS)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(ValueError, match=words):
        load_transformed(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"manifest\.json is missing"):
        load_transformed(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_transformed(tmp_path)


def test_bad_input_writes_nothing(snapshots, labels, tmp_path: Path) -> None:
    images = snapshots[50]
    folder = tmp_path / "out"
    for given, classes, manifest, error in (
        ({}, labels, {}, ValueError),
        ({0: images}, labels, {}, ValueError),
        ({"50": images}, labels, {}, ValueError),
        ({50: images.to(torch.uint8)}, labels, {}, TypeError),
        ({50: images.double()}, labels, {}, TypeError),
        ({50: images[:4]}, labels, {}, ValueError),
        ({50: images}, labels.int(), {}, TypeError),
        ({50: images}, labels, {"when": object()}, TypeError),
        ({50: images}, labels, {"rate": float("nan")}, TypeError),
    ):
        with pytest.raises(error):
            save_transformed(folder, given, classes, manifest=manifest)
    assert not folder.exists()


def test_settings_come_back_as_json_has_them(snapshots, labels, tmp_path: Path) -> None:
    given = {"pair": (1, 2), "name": "δ", "value": np.pi}
    save_transformed(tmp_path, snapshots, labels, manifest=given)
    assert load_transformed(tmp_path).manifest == {"pair": [1, 2], "name": "δ", "value": np.pi}
    save_transformed(tmp_path, snapshots, labels, manifest=given)
