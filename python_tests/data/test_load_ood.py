"""The door to out-of-distribution sets, and that they are not taken for training sets."""

from __future__ import annotations

import pytest

from sign_ext.commands.console import UsageError
from sign_ext.commands.shared import check_data_name
from sign_ext.data import DATA_NAMES, OOD_NAMES, load_data, load_ood


def test_unknown_names() -> None:
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
def test_they_are_no_training_sets(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
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
