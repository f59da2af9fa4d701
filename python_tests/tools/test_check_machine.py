"""Everything that a machine lacks is reported in one message, with what to install."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import check_machine
import pytest


def script(folder: Path, name: str) -> None:
    """Create an executable script."""
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.mark.parametrize("name", ["c++", "g++", "clang++"])
def test_a_compiler_is_found_under_each_name(tmp_path: Path, name: str) -> None:
    assert not check_machine.has_compiler({"PATH": str(tmp_path)})
    script(tmp_path, name)
    assert check_machine.has_compiler({"PATH": str(tmp_path)})


def test_cxx_may_contain_a_launcher(tmp_path: Path) -> None:
    script(tmp_path, "ccache")
    environ = {"PATH": str(tmp_path), "CXX": "ccache odd-compiler"}
    assert check_machine.has_compiler(environ)
    assert not check_machine.has_compiler({**environ, "CXX": "absent-compiler"})


def test_without_a_compiler_the_package_and_the_alternative_are_named(tmp_path: Path) -> None:
    found = check_machine.missing({"PATH": str(tmp_path)})
    text = check_machine.message(found)
    assert "C++ compiler" in text
    assert "for the native operators" in text
    assert "apt-get install" in text
    assert "g++" in text
    assert "SIGN_EXT_BUILD=none" in text


def test_pure_python_needs_no_compiler(tmp_path: Path) -> None:
    environ = {"PATH": str(tmp_path), "SIGN_EXT_BUILD": "none"}
    assert not [item for item, _ in check_machine.missing(environ) if "compiler" in item]


def test_an_old_python_is_reported_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    ((item, package),) = check_machine.missing({})
    assert "3.11" in item
    assert "3.9" in item
    assert package == ""


def test_missing_venv_names_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_machine.importlib.util, "find_spec", lambda name: None)
    found = check_machine.missing({"SIGN_EXT_BUILD": "none"})
    assert [package for _, package in found] == ["python3-venv"]


@pytest.fixture
def without_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a compiler and without Python's headers."""
    script(tmp_path, "c++")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    return tmp_path


def test_the_operators_need_no_headers_of_python(without_headers: Path) -> None:
    environ = {"PATH": str(without_headers)}
    assert check_machine.missing(environ) == []
    note = check_machine.left_out(environ)
    assert "sign_ext._C is left out" in note
    assert str(without_headers / "include" / "Python.h") in note
    assert "python3-dev" in note


@pytest.mark.parametrize("variable", ["SIGN_EXT_BUILD", "SIGN_EXT_MODULE"])
def test_a_module_that_nobody_asked_for_is_not_missed(without_headers: Path, variable: str) -> None:
    assert check_machine.left_out({variable: "none"}) == ""


def test_with_headers_nothing_is_left_out(without_headers: Path) -> None:
    (without_headers / "include").mkdir()
    (without_headers / "include" / "Python.h").touch()
    assert check_machine.left_out({}) == ""
