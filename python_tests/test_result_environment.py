"""What a result says about the commit and the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from sign_ext import environment

ROOT = Path(__file__).parents[1]


def git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or ROOT != environment.ROOT,
    reason="the tests run on an installed package, or outside a checkout",
)
def test_a_checkout_names_its_commit():
    changed = bool(git("status", "--porcelain", "-uno"))
    assert environment.commit() == git("rev-parse", "--short=12", "HEAD") + "+changes" * changed


def test_outside_a_checkout_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.commit.__wrapped__() == ""
    (tmp_path / ".git").mkdir()  # no repository that git can read
    assert environment.commit.__wrapped__() == ""


def test_the_machine_in_short_and_in_detail():
    short, details = environment.machine(), environment.machine_details(torch.device("cpu"))
    assert sorted(short) == ["cores", "device", "processor", "system", "threads"]
    assert short["device"] == "cpu"
    for found in (short, details):
        assert found["cores"] == os.cpu_count()
        assert found["threads"] == torch.get_num_threads()
        assert platform.node() not in (v for v in found.values() if isinstance(v, str))
    assert details["torch"] == torch.__version__
    assert details["gpu"] is None


class Installed:
    """A distribution with the files that pip leaves beside a package."""

    def __init__(self, folder: Path, origin: dict | None, *tags: str) -> None:
        self.folder = folder
        wheel = "Wheel-Version: 1.0\n" + "".join(f"Tag: {tag}\n" for tag in tags)
        self.files = {"WHEEL": wheel}
        if origin is not None:
            self.files["direct_url.json"] = json.dumps(origin)

    def read_text(self, name: str) -> str | None:
        return self.files.get(name)

    def locate_file(self, name: str) -> Path:
        return self.folder / name


HERE = Path(environment.__file__).resolve().parents[1]
LINUX = "py3-none-linux_x86_64"
MANYLINUX = "py3-none-manylinux_2_28_x86_64"


def archive(url: str) -> dict:
    return {"url": url, "archive_info": {"hashes": {}}}


@pytest.mark.parametrize(
    ("origin", "tags", "source", "platforms"),
    [
        (
            archive("file:///tmp/a%20b/sign_ext-0.1.0%2Bcu13-py3-none-manylinux_2_28_x86_64.whl"),
            [MANYLINUX, "py3-none-manylinux_2_34_x86_64"],
            "the wheel sign_ext-0.1.0+cu13-py3-none-manylinux_2_28_x86_64.whl",
            ["manylinux_2_28_x86_64", "manylinux_2_34_x86_64"],
        ),
        (None, [MANYLINUX], "a package index", ["manylinux_2_28_x86_64"]),
        (
            {"url": "file:///home/me/sign%20ext", "dir_info": {}},
            [LINUX],
            "built from the folder /home/me/sign ext",
            ["linux_x86_64"],
        ),
        (
            archive("https://example.org/sign_ext-0.1.0.tar.gz"),
            ["py3-none-any"],
            "built from https://example.org/sign_ext-0.1.0.tar.gz",
            ["any"],
        ),
        (
            {"url": HERE.as_uri(), "dir_info": {"editable": True}},
            [LINUX],
            f"built in {HERE}, an editable install",
            ["linux_x86_64"],
        ),
    ],
    ids=["wheel", "index", "folder", "sdist", "editable"],
)
def test_where_an_installed_package_came_from(monkeypatch, origin, tags, source, platforms):
    installed = Installed(HERE, origin, *tags)
    monkeypatch.setattr(environment, "distribution", lambda name: installed)
    assert environment.installation() == {"source": source, "platforms": platforms}


@pytest.mark.parametrize("other", ["nothing", "another folder", "an editable install"])
def test_a_source_tree_is_not_taken_for_what_is_installed_elsewhere(monkeypatch, tmp_path, other):
    def distribution(name: str) -> Installed:
        if other == "nothing":
            raise environment.PackageNotFoundError(name)
        editable = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
        return Installed(tmp_path, editable if other == "an editable install" else None, LINUX)

    monkeypatch.setattr(environment, "distribution", distribution)
    assert environment.installation() == {
        "source": f"the source tree {HERE}, not installed",
        "platforms": [],
    }
