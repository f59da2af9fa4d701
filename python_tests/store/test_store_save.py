"""Images in memory: what is saved is what is read, and what cannot be stored is refused."""

from __future__ import annotations

import pytest
import torch

from sign_ext.store import (
    load_transformed,
    save_transformed,
)


def test_images_in_memory_round_trip(tmp_path, torch_rng):
    both = torch.randn(10, 3, 7, 9, generator=torch_rng) * 300
    turned = both[:5].to(memory_format=torch.channels_last)
    snapshots = {1: both[:5], 2: both[5:], 3: both[2:7], 4: turned, 5: both[:5]}
    labels = torch.tensor([4, 0, 2, 2, 1])
    save_transformed(tmp_path / "s", snapshots, labels, recipe={"a": (1, 2)}, shard_size=2)
    store = load_transformed(tmp_path / "s")
    assert store.recipe == {"a": [1, 2]}
    for step, images in snapshots.items():
        assert torch.equal(store.tensor(step), images)
    assert torch.equal(store.labels, labels)
    again = {1: both[1:6]}
    with pytest.raises(FileExistsError, match="snapshots"):
        save_transformed(tmp_path / "s", again, labels, recipe={"a": [1, 2]})
    with pytest.raises(FileExistsError, match=r"a: \[1, 2\] in the store, 3 now"):
        save_transformed(tmp_path / "s", snapshots, labels, recipe={"a": 3}, shard_size=2)
    save_transformed(tmp_path / "s", again, labels, recipe={"a": 3}, overwrite=True)
    assert torch.equal(load_transformed(tmp_path / "s").tensor(1), both[1:6])


def test_what_could_not_be_read_back_is_refused(tmp_path):
    good, labels = torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])
    wrong = [
        (TypeError, {1: good.double()}, labels, {}, "float64"),
        (TypeError, {1: good}, labels.int(), {}, "int32"),
        (TypeError, {1: good}, labels, {"a": object()}, "JSON"),
        (TypeError, {1: good}, labels, {"a": float("nan")}, "JSON"),
        (ValueError, {}, labels, {}, "empty"),
        (ValueError, {0: good}, labels, {}, "≥ 1"),
        (ValueError, {1: good[:1]}, labels, {}, "shape"),
        (ValueError, {1: good[:0]}, labels[:0], {}, "no images"),
    ]
    for error, snapshots, given_labels, recipe, words in wrong:
        with pytest.raises(error, match=words):
            save_transformed(tmp_path / "none", snapshots, given_labels, recipe=recipe)
    assert not (tmp_path / "none").exists()
