"""The GPU check reports a missing GPU, and its stages work on a tiny package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_check
import gpu_plan
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

FILES = {
    "pyproject.toml": PYPROJECT,
    "sign_ext/__init__.py": 'def build_config():\n    return {"native": False, "cuda": False}\n',
    "python_tests/ops/test_small.py": (
        "import json, os, pathlib, pytest, sign_ext\n"
        "@pytest.mark.gpu\n"
        "def test_installed_elsewhere():\n"
        "    assert 'site' in sign_ext.__file__\n"
        "@pytest.mark.gpu\n"
        "def test_finished_stages_are_written_before_the_end():\n"
        "    written = pathlib.Path(os.environ['OUT_OF_TEST'], 'gpu_check.json')\n"
        "    if written.exists():\n"
        "        stages = json.loads(written.read_text())['stages']\n"
        "        assert [stage['name'] for stage in stages] == ['build', 'import']\n"
    ),
    "python_tests/test_harness.py": "import a_library_that_is_not_there\n",
    "benchmarks/conftest.py": ("def pytest_addoption(parser):\n    parser.addoption('--device')\n"),
    "benchmarks/test_speed.py": "def test_speed(benchmark):\n    benchmark(sum, [1, 2])\n",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of a few lines, laid out as this repository is; built by the first who needs it."""
    root = tmp_path_factory.mktemp("gpu") / "checkout"
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def run(root: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), "--root", str(root), "--out", str(out), *options]
    # As on a machine without a GPU, also where there is one.
    environ = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OUT_OF_TEST": str(out)}
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def test_a_missing_gpu_is_reported_in_one_sentence(checkout: Path, tmp_path: Path) -> None:
    result = run(checkout, tmp_path / "out")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "so nothing was checked" in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_stage_works_on_the_cpu(checkout: Path, tmp_path: Path) -> None:
    before = sorted(checkout.rglob("*"))
    result = run(checkout, tmp_path / "out", "--allow-cpu")
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    status = {stage["name"]: stage["status"] for stage in written["stages"]}
    assert status == {
        "build": stages.PASSED,
        "import": stages.PASSED,
        "gpu tests: test_small": stages.PASSED,
        "gpu tests: all others": stages.SKIPPED,
        "engine tests": stages.SKIPPED,
        "compute-sanitizer memcheck: all others": stages.SKIPPED,
        "benchmarks: others": stages.PASSED,
    }
    assert written["passed"] is True
    assert {"torch", "gpu", "driver", "commit", "uncommitted_changes", "date"} <= set(written)
    # The table comes last, and the checkout is unchanged except for build/.
    assert "benchmarks" in "\n".join(result.stdout.splitlines()[-4:])
    after = [
        path for path in checkout.rglob("*") if checkout / "build" not in [path, *path.parents]
    ]
    assert sorted(after) == before


def test_a_failing_gpu_test_fails_the_check_but_the_rest_still_runs(
    checkout: Path, tmp_path: Path
) -> None:
    test = checkout / "python_tests/ops/test_small.py"
    good = test.read_text()
    test.write_text(good + "    assert 1 == 2\n")
    result = run(checkout, tmp_path / "out", "--allow-cpu")
    test.write_text(good)
    assert result.returncode == 1
    written = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    status = {stage["name"]: stage["status"] for stage in written["stages"]}
    assert status["gpu tests: test_small"] == stages.FAILED
    assert status["benchmarks: others"] == stages.PASSED
    assert written["passed"] is False
    assert "assert 1 == 2" in (tmp_path / "out" / "gpu_check.log").read_text()


@pytest.mark.slow
def test_a_part_after_another_does_not_build_again(checkout: Path, tmp_path: Path) -> None:
    def build_of(part: str) -> str:
        result = run(checkout, tmp_path / "out", "--allow-cpu", "--part", part)
        assert result.returncode == 0, result.stdout + result.stderr
        written = json.loads((tmp_path / "out" / f"gpu_check_{part}.json").read_text())
        return written["stages"][0]["status"]

    assert build_of("correct") in (stages.PASSED, stages.SKIPPED)  # by another test
    assert build_of("measure") == stages.SKIPPED
    more = checkout / "sign_ext/more.py"
    more.write_text("")
    assert build_of("correct") == stages.PASSED
    more.unlink()


def test_each_stage_belongs_to_one_part(checkout: Path, tmp_path: Path) -> None:
    todo = gpu_plan.plan(checkout, tmp_path, tmp_path / "home", on_gpu=True)
    stages_of = {part: gpu_check.stages_of_part(todo, part) for part in gpu_check.PARTS}
    assigned = [stage.name for part in stages_of.values() for stage in part]
    assert sorted(assigned) == sorted(stage.name for stage in todo)
    assert gpu_check.PART_SECONDS + stages.GRACE < 10 * 60
    assert gpu_check.stages_of_part(todo, None) == todo


def test_the_benchmarks_of_all_processes_are_merged_in_order(tmp_path: Path) -> None:
    def raw(name: str) -> str:
        one = {"name": name, "stats": {"median": 1.0, "rounds": 2}}
        return json.dumps({"machine_info": {}, "benchmarks": [one]})

    for time, name in enumerate(["second", "first"]):
        file = tmp_path / f"bench-raw-{name}.json"
        file.write_text(raw(name))
        os.utime(file, (time, time))
    (tmp_path / "bench-raw-killed.json").write_text("")
    facts = {"commit": "abc"}
    gpu_check.report(tmp_path / "all.json", [], facts, tmp_path)
    written = json.loads((tmp_path / "all.json").read_text())
    assert [race["name"] for race in written["benchmarks"]] == ["second", "first"]


def test_help_describes_each_part(checkout: Path, tmp_path: Path) -> None:
    help_text = run(checkout, tmp_path, "--help").stdout
    assert all(f"\n  {part} " in help_text for part in gpu_check.PARTS)
    assert "but test_iterative_sign" in help_text
