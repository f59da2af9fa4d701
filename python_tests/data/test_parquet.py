"""Images in Parquet files: what is read from the file, and cells that are empty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from tiny_cifar10 import TinyCifar, webp, write_parquet

from sign_ext.data import open_data


def test_row_groups_are_read_once_in_order(
    tmp_path: Path, tiny: TinyCifar, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.write_parquet(tmp_path)
    file = pyarrow.parquet.ParquetFile
    parts = [file(tmp_path / f"cifar10_{part}.parquet").metadata for part in ("train", "test")]
    sizes = [
        [each.row_group(i).column(0).total_uncompressed_size for i in range(each.num_row_groups)]
        for each in parts
    ]
    assert [len(each) for each in sizes] == [4, 1]
    source = open_data("cifar10", tmp_path, split="all")
    assert source.resident_bytes == sum(sorted(sizes[0])[-2:]) + sizes[1][0]
    groups: list[int] = []
    read = file.read_row_group
    monkeypatch.setattr(
        file, "read_row_group", lambda self, i, **k: groups.append(i) or read(self, i, **k)
    )
    train = open_data("cifar10", tmp_path, split="train")
    assert groups == [0, 1, 2, 3]  # for the fingerprint
    groups.clear()
    for start in range(0, len(train), 2):
        train.read(start, start + 2)
    assert groups == [0, 1, 2, 3]


def test_an_empty_cell_of_a_parquet_file(tmp_path: Path, tiny: TinyCifar) -> None:
    tiny.write_parquet(tmp_path)
    cells = [webp(image) for image in tiny.test_images]
    cells[3] = None
    write_parquet(tmp_path / "cifar10_test.parquet", cells, tiny.test_labels, [True] * 20)
    source = open_data("cifar10", tmp_path, split="test")
    assert np.array_equal(source.read(4, 20).numpy(), tiny.test_images[4:])
    with pytest.raises(ValueError, match=r"cifar10_test.parquet, row 3: its image is None"):
        source.read(3, 4)
