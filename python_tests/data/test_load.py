"""The one door: names, paths and numbers that are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sign_ext.data import DATA_NAMES, load_data


def test_unknown_names() -> None:
    with pytest.raises(
        ValueError, match=r"'cifar100' is neither .* Did you mean 'cifar10'"
    ) as caught:
        load_data("cifar100")
    for name in DATA_NAMES:
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="neither a data set nor a folder"):
        load_data("/no/such/folder")


def test_a_folder_with_a_data_sets_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_data("digits", train_size=10).name == "digits"
    with pytest.raises(ValueError, match="has no class folders"):
        load_data("./digits")


@pytest.mark.parametrize("option", [{"image_size": 0}, {"seed": -1}, {"seed": 2**32}])
def test_numbers_out_of_range(option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.*accepted"):
        load_data("digits", **option)


def test_importing_needs_torch_and_numpy_only() -> None:
    code = (
        "import sys, sign_ext.data, sign_ext.models, sign_ext.evaluation\n"
        "heavy = {'sklearn', 'pyarrow', 'PIL', 'torchvision', 'timm', 'torchmetrics'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
