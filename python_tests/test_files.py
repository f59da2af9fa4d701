"""Files appear whole or not at all."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sign_ext.files import replacing, sha256_of, write_json, write_whole


def test_write_whole_leaves_the_old_file_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_arrives(tmp_path: Path) -> None:
    write_whole(tmp_path / "bytes", b"\x00\xff")
    write_whole(tmp_path / "text", "δ")
    write_json(tmp_path / "json", {"a": [1, None]})
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    assert (tmp_path / "text").read_bytes() == "δ".encode()
    assert json.loads((tmp_path / "json").read_text()) == {"a": [1, None]}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "json", math.nan)
    # SHA-256 of "abc", from FIPS 180-2.
    write_whole(tmp_path / "abc", "abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
