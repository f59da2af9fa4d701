"""Real builds of a copy of the source tree, installed outside the environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from build_tools import environment
from build_tools.decide import Missing

pytestmark = pytest.mark.build

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
import json, warnings
warnings.simplefilter("error", RuntimeWarning)
import torch, sign_ext
from sign_ext.ops import sign_update_, sign_update_route
p = torch.zeros(5)
sign_update_(p, torch.ones(5), torch.ones(5), step_size=2.0, momentum=0.5)
route = sign_update_route(p, torch.ones(5))
print(json.dumps([sign_ext.__file__, sign_ext.build_config(), route, p.tolist()]))
"""
needs_compiler = pytest.mark.skipif(
    isinstance(environment.find_compiler(), Missing), reason="no C++ compiler here"
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clean copy of the files that a build reads."""
    copy = tmp_path / "source"
    copy.mkdir()
    for folder in ("build_tools", "csrc", "sign_ext"):
        ignored = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "build_backend.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (copy / "README.md").write_text("A copy made by a test.\n")
    return copy


@pytest.fixture
def quick_compiler(tmp_path: Path) -> str:
    """The compiler without optimisation, which takes most of the time of a build."""
    script = tmp_path / "quick-c++"
    compiler = os.environ.get("CXX", "c++")
    script.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


def pip(source: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run pip on the source tree, with SIGN_EXT_BUILD and the like in `variables`."""
    return subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "-v", "--no-deps", "."],
        cwd=source,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def summary_of(output: str) -> str:
    """The build's last line, as pip shows it."""
    return [line.strip() for line in output.splitlines() if line.strip().startswith("sign_ext:")][
        -1
    ]


def probe(target: Path) -> tuple[dict, str]:
    """Import and use the installed package in a new interpreter; return its build and route."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=target,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    file, config, route, p = json.loads(result.stdout.splitlines()[-1])
    assert Path(file).is_relative_to(target)
    assert p == [3.0] * 5
    return config, route


def test_none_installs_pure_python(source, tmp_path):
    target = tmp_path / "target"
    result = pip(
        source, "install", "--no-build-isolation", "--target", str(target), SIGN_EXT_BUILD="none"
    )
    assert result.returncode == 0, result.stdout
    assert "no native operator is built" in summary_of(result.stdout)
    assert "py3-none-any.whl" in result.stdout
    config, route = probe(target)
    assert config["native"] is False
    assert "SIGN_EXT_BUILD=none" in config["why"]
    assert route.startswith("torch: ")


def test_without_a_compiler_auto_installs_pure_python_and_says_so(source, tmp_path):
    target = tmp_path / "target"
    result = pip(
        source,
        *("install", "--no-build-isolation", "--target", str(target)),
        SIGN_EXT_BUILD="auto",
        CXX="no-such-compiler",
    )
    assert result.returncode == 0, result.stdout
    assert "no-such-compiler is not on PATH" in summary_of(result.stdout)
    config, _ = probe(target)
    assert "no-such-compiler is not on PATH" in config["why"]


@pytest.mark.slow
@needs_compiler
def test_isolated_build_uses_the_torch_of_the_environment_it_installs_into(
    source, quick_compiler, tmp_path
):
    """Needs the package index, for setuptools and ninja."""
    target = tmp_path / "target"
    arguments = ("install", "--target", str(target))
    result = pip(source, *arguments, SIGN_EXT_BUILD="cpu", CXX=quick_compiler)
    assert result.returncode == 0, result.stdout
    where = Path(sysconfig.get_path("purelib"), "torch")
    if where.is_dir():  # else torch is in a base environment
        assert f"building against torch {torch.__version__} in {where}" in result.stdout
    assert "the CPU operators are built" in summary_of(result.stdout)
    assert re.search(r"sign_ext-[\d.]+-py3-none-\w+\.whl", result.stdout)
    assert list(target.glob("sign_ext/_C*")), "the module for this Python"
    config, route = probe(target)
    assert Path(config["library"]).parent == target / "sign_ext"
    assert config["native"] is True
    assert config["cuda"] is False
    assert route == "native-cpu"


def test_cuda_without_a_toolkit_fails_in_one_sentence(source, tmp_path):
    result = pip(
        source,
        *("wheel", "--no-build-isolation", "-w", str(tmp_path)),
        SIGN_EXT_BUILD="cuda",
        CUDA_HOME=str(tmp_path / "no-toolkit-here"),
    )
    assert result.returncode != 0
    assert "SIGN_EXT_BUILD=cuda cannot be done" in summary_of(result.stdout) or (
        "needs a C++ compiler" in summary_of(result.stdout)
    )
    assert "Traceback" not in result.stdout


def test_an_unknown_value_fails_in_one_sentence(source, tmp_path):
    result = pip(source, "wheel", "--no-build-isolation", "-w", str(tmp_path), SIGN_EXT_BUILD="gpu")
    assert result.returncode != 0
    assert "'gpu' is not one of auto, cpu, cuda, none" in summary_of(result.stdout)
    assert "Traceback" not in result.stdout


def test_a_source_distribution_holds_what_a_build_needs(source, tmp_path):
    code = f"import build_backend; print(build_backend.build_sdist({str(tmp_path)!r}))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    archive = tmp_path / result.stdout.splitlines()[-1]
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(archive, unpacked, filter="data")
    (root,) = unpacked.iterdir()
    for folder, pattern in (("csrc", "*.*"), ("build_tools", "*.py"), ("sign_ext", "*.py")):
        wanted = {path.relative_to(source) for path in (source / folder).rglob(pattern)}
        assert wanted <= {path.relative_to(root) for path in (root / folder).rglob(pattern)}
    assert (root / "build_backend.py").exists()
