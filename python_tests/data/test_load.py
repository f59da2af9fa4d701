"""Data sets by name or path: how they are recognised, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data_on_disk import MAKERS, write_folder, write_tars

from sign_ext.commands.console import UsageError
from sign_ext.commands.shared import check_data_name
from sign_ext.data import DATA_NAMES, OOD_NAMES, load_data, load_ood, open_data
from sign_ext.data.names import is_path


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match=r"'cifar100' is neither .* Did you mean 'cifar10'"
    ) as caught:
        load_data("cifar100")
    for name in DATA_NAMES:
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="neither a data set nor an existing folder"):
        load_data("/no/such/folder")


def test_a_folder_with_a_data_sets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_data("digits", train_size=10).name == "digits"
    with pytest.raises(ValueError, match="has no class folders"):
        load_data("./digits")


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_paths_are_recognised_by_their_content(
    kind: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = MAKERS[kind](tmp_path, rng)
    assert is_path(str(path))
    check_data_name(str(path))
    expected = "tar" if "tar" in kind else "Hugging Face" if "hf" in kind else ""
    note = open_data(path).note
    for file_format in ("tar", "Hugging Face"):
        assert (file_format in note) == (file_format == expected)


def test_folders_with_two_formats(tmp_path: Path, rng: np.random.Generator) -> None:
    root = write_folder(tmp_path, rng)
    (root / "images.tgz").write_bytes(b"what the folders came from")
    assert len(load_data(root).class_names) == 3
    write_tars(root, rng).rename(root / "shards")
    with pytest.raises(ValueError, match=r"folders \['ant', 'bee', 'cat', 'shards'\].*no tars"):
        load_data(root)


@pytest.mark.parametrize("name", ["cifar100", "/no/such/folder", "photos.zip", "photos"])
def test_names_that_are_not_paths(name: str) -> None:
    assert not is_path(name)
    with pytest.raises(UsageError, match=r"accepted: digits, .*or an existing folder or tar"):
        check_data_name(name)


@pytest.mark.parametrize("option", [{"image_size": 0}, {"seed": -1}, {"seed": 2**32}])
def test_numbers_out_of_range(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*accepted"):
        load_data("digits", **option)


def test_unknown_names_of_test_sets() -> None:
    with pytest.raises(ValueError, match=r"'tiny_imagnet'.*Did you mean 'tiny_imagenet'") as caught:
        load_ood("tiny_imagnet")
    for name in OOD_NAMES:
        assert name in str(caught.value)
    for name in OOD_NAMES:
        with pytest.raises(ValueError, match=r"synsets='most'; accepted: paper, all"):
            load_ood(name, synsets="most")
        with pytest.raises(ValueError, match="image_size=-1; accepted"):
            load_ood(name, image_size=-1)


@pytest.mark.parametrize("name", OOD_NAMES)
def test_test_sets_are_not_training_sets(
    name: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert name not in DATA_NAMES
    with pytest.raises(ValueError, match=rf"'{name}' is a test set .* Load it with load_ood"):
        load_data(name)
    with pytest.raises(UsageError, match=r"test set for `sign-ext reproduce table3`.*isic2017"):
        check_data_name(name)
    # A folder of that name is still to be had.
    check_data_name(f"./{name}")


@pytest.mark.parametrize("name", DATA_NAMES)
def test_commands_take_every_data_set(name: str) -> None:
    check_data_name(name)


def test_importing_needs_torch_and_numpy_only() -> None:
    code = (
        "import sys\n"
        "from sign_ext.data import *\n"
        "from sign_ext.models import *\n"
        "from sign_ext.evaluation import *\n"
        "assert 'torch' in sys.modules\n"
        "heavy = {'sklearn', 'pyarrow', 'PIL', 'datasets', 'torchvision', 'timm', 'torchmetrics'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
