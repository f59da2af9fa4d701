"""The GPU check says so where there is no GPU, and its stages work, tried on a tiny package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_check
import pytest
import stages

TOOL = Path(gpu_check.__file__)

PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "sign-ext"
version = "0.0.1"
[tool.setuptools]
packages = ["sign_ext"]
[tool.pytest.ini_options]
markers = ["gpu: needs a GPU"]
"""

# The benchmark leaves pytest-benchmark's form of a result, as --benchmark-json would on a GPU.
FILES = {
    "pyproject.toml": PYPROJECT,
    "sign_ext/__init__.py": 'def build_config():\n    return {"native": False, "cuda": False}\n',
    "python_tests/ops/test_small.py": (
        "import pytest, sign_ext\n"
        "@pytest.mark.gpu\n"
        "def test_installed_elsewhere():\n"
        "    assert 'site' in sign_ext.__file__\n"
    ),
    "python_tests/test_harness.py": "import a_library_that_is_not_there\n",
    "benchmarks/conftest.py": ("def pytest_addoption(parser):\n    parser.addoption('--device')\n"),
    "benchmarks/test_speed.py": "def test_speed(benchmark):\n    benchmark(sum, [1, 2])\n",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package of a few lines, laid out as this repository is."""
    root = tmp_path / "checkout"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def run(root: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--root", str(root), "--out", str(out), *options]
    # As on a machine without a GPU, also where there is one.
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_without_a_gpu_it_says_so_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    result = run(checkout, tmp_path / "out")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "so nothing was checked" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_stage_works_on_the_cpu(checkout: Path, tmp_path: Path) -> None:
    before = sorted(path for path in checkout.rglob("*"))
    result = run(checkout, tmp_path / "out", "--allow-cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    status = {stage["name"]: stage["status"] for stage in written["stages"]}
    assert status == {
        "build": stages.PASSED,
        "import": stages.PASSED,
        "gpu tests": stages.PASSED,
        "engine tests": stages.SKIPPED,
        "compute-sanitizer memcheck": stages.SKIPPED,
        "compute-sanitizer racecheck": stages.SKIPPED,
        "benchmarks": stages.PASSED,
    }
    assert written["passed"] is True
    assert {"torch", "gpu", "driver", "commit", "uncommitted_changes", "date"} <= set(written)
    # The table comes last, and the checkout is left as it was.
    assert "benchmarks" in "\n".join(result.stdout.splitlines()[-4:])
    assert sorted(path for path in checkout.rglob("*")) == before


def test_a_failing_gpu_test_fails_the_check_and_the_rest_still_runs(
    checkout: Path, tmp_path: Path
) -> None:
    test = checkout / "python_tests/ops/test_small.py"
    test.write_text(test.read_text() + "    assert 1 == 2\n")
    result = run(checkout, tmp_path / "out", "--allow-cpu")
    assert result.returncode == 1
    written = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    status = {stage["name"]: stage["status"] for stage in written["stages"]}
    assert status["gpu tests"] == stages.FAILED
    assert status["benchmarks"] == stages.PASSED
    assert written["passed"] is False
    assert "assert 1 == 2" in (tmp_path / "out" / "gpu_check.log").read_text()


def test_only_files_with_gpu_tests_are_collected(checkout: Path) -> None:
    assert [Path(name).name for name in gpu_check.gpu_tests(checkout / "python_tests")] == [
        "test_small.py"
    ]


def test_on_a_gpu_everything_is_asked_for(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: "/toolkit/compute-sanitizer")
    plan = {stage.name: stage for stage in gpu_check.plan(checkout, tmp_path, on_gpu=True)}
    assert plan["build"].environ["SIGN_EXT_BUILD"] == "cuda"
    assert plan["import"].command[-1] == "cuda"
    for tool in ("memcheck", "racecheck"):
        stage = plan[f"compute-sanitizer {tool}"]
        assert list(stage.command[:3]) == ["/toolkit/compute-sanitizer", "--tool", tool]
        assert stage.command[-1].endswith("ops/test_small.py")
    assert "--benchmark-disable" not in plan["benchmarks"].command
    assert sum(stage.limit for stage in plan.values()) <= gpu_check.SECONDS
    whole = list(plan)
    stages_of = {
        part: [s.name for s in gpu_check.of_part(list(plan.values()), part)]
        for part in gpu_check.PARTS
    }
    assert all(names[:2] == ["build", "import"] for names in stages_of.values())
    assert sorted(name for names in stages_of.values() for name in names[2:]) == sorted(whole[2:])
    assert gpu_check.PART_SECONDS < 10 * 60
    assert gpu_check.of_part(list(plan.values()), None) == list(plan.values())


def test_a_checkout_without_gpu_tests_does_not_pass_on_a_gpu(
    checkout: Path, tmp_path: Path
) -> None:
    (checkout / "python_tests/ops/test_small.py").unlink()
    (checkout / "python_tests/test_harness.py").unlink()
    on_gpu, on_cpu = (
        next(s for s in gpu_check.plan(checkout, tmp_path, on_gpu=flag) if s.name == "gpu tests")
        for flag in (True, False)
    )
    assert not on_cpu.command
    folder, log = checkout, tmp_path / "log"
    outcome = stages.run_stage(on_gpu, seconds_left=60, folder=folder, log=log)
    assert outcome.status == stages.FAILED
