"""Old files come back from a kill at any point, unless enough of the new ones exists."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sign_ext.set_aside import ASIDE, DISCARDED, discard, is_set_aside, recover, set_aside

OLD = {"a.json": "1", "b.bin": "2", "sub/c.bin": "3"}


class Killed(BaseException):
    """In place of a kill."""


def write(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name in files]


def content(folder: Path) -> dict[str, str]:
    files = (each for each in folder.rglob("*") if each.is_file())
    return {str(each.relative_to(folder)): each.read_text() for each in files}


@pytest.mark.parametrize("at", range(4))
def test_old_files_come_back_from_a_kill_while_they_are_set_aside(tmp_path, monkeypatch, at):
    files, moves, move = write(tmp_path, OLD), [], os.replace

    def dying(source, target):
        moves.append(source)
        if len(moves) > at:
            raise Killed
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dying)
        try:
            set_aside(tmp_path, files)
            assert at == 3
        except Killed:
            assert at < 3
    assert is_set_aside(tmp_path)
    recover(tmp_path, new=[], enough=False)
    assert content(tmp_path) == OLD
    assert not is_set_aside(tmp_path)


@pytest.mark.parametrize("at", range(3))
def test_old_files_come_back_from_a_kill_while_they_come_back(tmp_path, monkeypatch, at):
    set_aside(tmp_path, write(tmp_path, OLD))
    new, moves, move = write(tmp_path, {"a.json": "new"}), [], os.replace

    def dying(source, target):
        moves.append(source)
        if len(moves) > at:
            raise Killed
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", dying)
        with pytest.raises(Killed):
            recover(tmp_path, new=new, enough=False)
    assert not (tmp_path / "a.json").exists()  # the first one to go is the last one back
    recover(tmp_path, new=[], enough=True)
    assert content(tmp_path) == OLD


def test_enough_new_files_take_their_place(tmp_path, monkeypatch):
    set_aside(tmp_path, write(tmp_path, OLD))
    new = write(tmp_path, {"a.json": "new", "d": "4"})

    def dying(folder):
        (Path(folder) / ".all").unlink()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", dying)
        with pytest.raises(Killed):
            recover(tmp_path, new=new, enough=True)
    assert (tmp_path / DISCARDED).is_dir()
    recover(tmp_path, new=new, enough=True)
    assert content(tmp_path) == {"a.json": "new", "d": "4"}
    discard(tmp_path)
    assert not (tmp_path / ASIDE).exists()
