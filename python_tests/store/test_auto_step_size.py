"""A step size found for a store: on which images, by which process, and once."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import pytest
import torch
from store_parts import make_sign, make_source

from sign_ext import SignTransform
from sign_ext.data.splits import stratified_choice
from sign_ext.store import StoreError, auto_step_size, transform_to_store
from sign_ext.store.coordination import Ranks
from sign_ext.store.manifest import read_manifest


@pytest.fixture
def no_calibration(monkeypatch):
    """Make measuring an error from here on."""

    def forbid() -> None:
        def calibrate(*_: object, **__: object) -> None:
            raise AssertionError("calibrated again")

        monkeypatch.setattr(SignTransform, "calibrate", calibrate)

    return forbid


def test_it_is_the_proposal_for_64_training_images(tmp_path):
    source = make_source(150)
    lines: list[str] = []
    sign, found = auto_step_size(make_sign(), source, tmp_path / "s", seed=4, say=lines.append)
    chosen = stratified_choice(source.labels, 64, seed=4)
    images = source.read(0, 150)[torch.from_numpy(chosen)].float()
    wanted = make_sign().calibrate(images, steps=3)
    assert sign.settings.step_size == found["step_size"] == wanted.proposed
    assert sign.settings == dataclasses.replace(make_sign().settings, step_size=wanted.proposed)
    moved = make_sign(step_size=wanted.proposed).transform(images)[3]
    rms = float((moved - images).square().mean().sqrt())
    assert rms == pytest.approx(0.02 * 255, rel=0.1)
    assert found["rms"] == pytest.approx(rms, rel=1e-5)
    assert (found["images"], found["seed"], found["steps"]) == (64, 4, 3)
    assert f"step size {wanted.proposed:g}" in lines[-1]


def made(folder: Path, seed: int = 0, **options: object) -> float:
    """Make a store with a step size found for it, and return that."""
    source = make_source()
    sign, found = auto_step_size(make_sign(**options), source, folder, seed=seed)
    transform_to_store(sign, source, folder, shard_size=5, about={"calibration": found})
    return sign.settings.step_size


def test_a_rerun_takes_the_recorded_number(tmp_path, no_calibration, content_of):
    folder = tmp_path / "store"
    step_size = made(folder)
    recipe = read_manifest(folder).recipe
    assert recipe["settings"]["step_size"] == recipe["calibration"]["step_size"] == step_size
    before = content_of(folder)
    no_calibration()
    assert made(folder) == step_size
    # Also to complete a store that was not finished.
    (folder / "shard-000002.safetensors").unlink()
    assert made(folder) == step_size
    assert content_of(folder) == before


@pytest.mark.parametrize("change", ["seed", "steps", "weights", "images", "record", "number"])
def test_another_calibration_is_measured(tmp_path, no_calibration, change):
    folder = tmp_path / "store"
    made(folder)
    sign, source, seed = make_sign(), make_source(), 0
    if change == "seed":
        seed = 1
    elif change == "steps":
        sign = sign.with_options(steps=4)
    elif change == "weights":
        with torch.no_grad():
            sign.model[0].weight.mul_(2)
    elif change == "images":
        source = make_source(seed=6)
    else:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_text())
        if change == "record":
            manifest["recipe"]["calibration"] = "1.5"
        else:
            manifest["recipe"]["calibration"]["step_size"] = "nan"
            manifest["recipe"]["settings"]["step_size"] = "nan"
        path.write_text(json.dumps(manifest))
    no_calibration()
    with pytest.raises(AssertionError, match="calibrated again"):
        auto_step_size(sign, source, folder, seed=seed)


def test_a_number_typed_in_leaves_no_trace(tmp_path):
    source = make_source()
    transform_to_store(make_sign(), source, tmp_path / "s")
    assert "calibration" not in read_manifest(tmp_path / "s").recipe


def test_images_that_cannot_be_read(tmp_path, unreadable):
    source = unreadable(3, 11)
    with pytest.raises(StoreError, match=r"photos/3\.jpg"):
        auto_step_size(make_sign(), source, tmp_path / "s")
    sign, _ = auto_step_size(make_sign(), source, tmp_path / "s", on_error="skip")
    readable = [i for i in range(23) if i not in (3, 11)]
    images = make_source().read(0, 23)[readable].float()
    assert sign.settings.step_size == make_sign().calibrate(images, steps=3).proposed
    with pytest.raises(ValueError, match="none of the 23 images"):
        auto_step_size(make_sign(), unreadable(*range(23)), tmp_path / "s", on_error="skip")


class Messages:
    """The launcher's key-value store, whose readers wait."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.changed = threading.Condition()

    def set(self, key: str, value: str) -> None:
        with self.changed:
            self.values[key] = value.encode()
            self.changed.notify_all()

    def get(self, key: str) -> bytes:
        with self.changed:
            assert self.changed.wait_for(lambda: key in self.values, timeout=60)
            return self.values[key]


@pytest.mark.parametrize("fails", [False, True])
def test_the_first_process_measures_for_all(tmp_path, monkeypatch, fails):
    messages = Messages()
    measured: list[int] = []
    own = SignTransform.calibrate

    def calibrate(self: SignTransform, *args: object, **options: object) -> object:
        measured.append(1)
        if fails:
            raise ValueError("δ is zero")
        return own(self, *args, **options)

    monkeypatch.setattr(SignTransform, "calibrate", calibrate)
    results: dict[int, object] = {}

    def process(rank: int) -> None:
        try:
            sign, found = auto_step_size(
                make_sign(), make_source(), tmp_path / "s", ranks=Ranks(rank, 3, messages)
            )
            results[rank] = (sign.settings.step_size, found)
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measured) == 1
    if fails:
        assert isinstance(results[0], ValueError)
        assert all(isinstance(results[rank], StoreError) for rank in (1, 2))
    else:
        assert results[0] == results[1] == results[2]
