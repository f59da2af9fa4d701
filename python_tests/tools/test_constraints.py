"""constraints.txt pins everything that pyproject.toml requires, and contains only pins."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from refresh_constraints import check_pins
from requirements import requirements

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ("core", "build", "experiments", "huggingface", "test", "bench", "wheels", "lint", "docs")


def pins() -> list[Requirement]:
    """The pins, read by packaging rather than by the tool's own pattern."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [Requirement(line) for line in lines]


def environment(version: str) -> dict[str, str]:
    """The values of environment markers on Linux x86-64."""
    return {
        "python_version": version,
        "python_full_version": f"{version}.7",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }


def pinned(version: str) -> dict[str, str]:
    """Name → version on one Python."""
    chosen: dict[str, str] = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate(environment(version)):
            name = canonicalize_name(pin.name)
            assert name not in chosen, f"{name} is pinned twice for Python {version}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            chosen[name] = specifier.version
    return chosen


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("group", GROUPS)
def test_every_requirement_has_a_pin_in_its_range(group: str, version: str) -> None:
    chosen = pinned(version)
    for line in requirements(group):
        wanted = Requirement(line)
        name = canonicalize_name(wanted.name)
        assert name in chosen, f"{name} of [{group}] is not pinned: run make constraints"
        assert wanted.specifier.contains(chosen[name]), f"{name} {chosen[name]} against {line}"


def test_every_group_of_pyproject_is_checked() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras) == set(GROUPS) - {"core", "build"}


def test_pip_itself_is_pinned() -> None:
    assert {"pip", "setuptools", "ninja"} <= set(pinned("3.11"))


def test_no_addresses_paths_hashes_or_local_versions() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pin_lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in pin_lines:
        assert not re.search(r"://|[/@\\]|--|sha256|\+", line), line


@pytest.mark.parametrize(
    "line",
    [
        "torch @ https://example.org/torch.whl",
        "torch==2.15.0 --hash=sha256:00",
        "--index-url https://example.org/simple",
        "-e file:///somewhere",
        "torch>=2.15",
        "",
    ],
)
def test_the_refresh_rejects_everything_but_pins(line: str) -> None:
    with pytest.raises(ValueError, match="not a plain pin"):
        check_pins(["numpy==2.4.6 ; python_full_version < '3.12'", line])


def test_the_refresh_rejects_an_empty_result() -> None:
    with pytest.raises(ValueError, match="no pins"):
        check_pins([])


def test_an_unknown_group_lists_the_existing_ones() -> None:
    with pytest.raises(ValueError, match=r"'dos' .*core, build, experiments"):
        requirements("dos")
