"""The GPU check's plan on a GPU: which files run, in what order, in which processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import gpu_build
import gpu_check
import gpu_package
import gpu_plan
import pytest
import stages
from stages import Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Stage]:
    """The plan for this repository on a GPU, by name."""
    monkeypatch.setattr(gpu_plan, "find_sanitizer", lambda: "/toolkit/compute-sanitizer")
    todo = gpu_plan.plan(ROOT, tmp_path, tmp_path / "home", on_gpu=True)
    assert len({stage.name for stage in todo}) == len(todo)
    return {stage.name: stage for stage in todo}


def files_of(stage: Stage) -> list[str]:
    """The names of the test files in a command."""
    return [Path(word).stem for word in stage.command if re.search(r"/test_\w+\.py$", word)]


def begin(plan: dict[str, Stage], start: str) -> list[Stage]:
    return [stage for name, stage in plan.items() if name.startswith(start)]


def test_only_files_with_gpu_tests_are_collected(tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops/test_small.py").write_text("@pytest.mark.gpu\ndef test_it(): ...\n")
    (tmp_path / "test_harness.py").write_text("import a_library_that_is_not_there\n")
    assert gpu_plan.gpu_tests(tmp_path) == [str(tmp_path / "ops/test_small.py")]


def test_the_build_is_for_cuda(tmp_path: Path) -> None:
    build, imported = gpu_build.build_stages(tmp_path, tmp_path / "home", on_gpu=True)
    assert build.environ["SIGN_EXT_BUILD"] == "cuda"
    assert "cuda" in imported.command


def test_every_gpu_test_file_runs_once(plan: dict[str, Stage]) -> None:
    run = [begin(plan, start) for start in ("gpu tests", "engine tests", "family tests")]
    names = [name for found in run for stage in found for name in files_of(stage)]
    expected = [Path(file).stem for file in gpu_plan.gpu_tests(ROOT / "python_tests")]
    assert sorted(names) == sorted(expected)


def test_operators_run_in_one_process_per_file_riskiest_first(plan: dict[str, Stage]) -> None:
    *operators, others = [files_of(stage) for stage in begin(plan, "gpu tests")]
    assert all(len(files) == 1 for files in operators)
    assert [files[0] for files in operators[:7]] == [
        "test_inverted_residual_cuda",
        "test_onchip",
        "test_stem_update_cuda",
        "test_sign_update_cuda",
        "test_gate_cuda",
        "test_depthwise_cuda",
        "test_max_pool_cuda",
    ]
    in_ops = {file.stem for file in (ROOT / "python_tests/ops").glob("test_*.py")}
    assert not in_ops & set(others)


def test_families_and_risky_kernels_run_separately_from_the_engines_tests(
    plan: dict[str, Stage],
) -> None:
    families = [files_of(stage) for stage in begin(plan, "family tests")]
    assert families == [["test_families_gpu"], ["test_ops_gpu"], ["test_twenty_gpu"]]
    # They, and the build before them, end within the part.
    assert sum(stage.limit for stage in begin(plan, "family tests")) <= gpu_check.PART_SECONDS - 20
    engine = files_of(plan["engine tests"])
    assert "test_graph_gpu" in engine
    assert not {"test_blocks_gpu", "test_onchip_gpu", *gpu_plan.FAMILIES} & set(engine)
    assert files_of(plan["engine tests: test_onchip_gpu"]) == ["test_onchip_gpu"]


def test_pytest_output_is_short_and_stops_after_many_failures(plan: dict[str, Stage]) -> None:
    commands = [stage.command for stage in plan.values() if "pytest" in stage.command]
    assert len(commands) > 20
    for command in commands:
        assert {"--tb=short", "--maxfail=40", "--durations=25"} <= set(command)


def test_the_sanitizer_watches_our_kernels_on_a_few_tests(plan: dict[str, Stage]) -> None:
    found = begin(plan, "compute-sanitizer")
    for stage in found:
        words = " ".join(stage.command)
        tool = stage.name.split()[1].rstrip(":")
        assert words.startswith(f"/toolkit/compute-sanitizer --tool {tool} --kernel-regex kns=sign")
        assert "--report-api-errors no" in words
        assert stage.environ["HYPOTHESIS_PROFILE"] == "sanitizer"
        assert int(stage.environ["SANITIZER_CASES"]) <= 10
    names = [(stage.name.split()[1].rstrip(":"), files_of(stage)) for stage in found]
    shared = [["test_inverted_residual_cuda"], ["test_onchip"]]
    shared += [["test_stem_update_cuda"], ["test_sign_update_cuda"], ["test_gate_cuda"]]
    assert names[:10] == [(tool, f) for tool in ("memcheck", "racecheck") for f in shared]
    (last,) = names[10:]
    assert last[0] == "memcheck"
    assert last[1][:2] == [
        "test_depthwise_cuda",
        "test_max_pool_cuda",
    ]
    assert "test_activate_cuda" in last[1]


def test_racecheck_covers_the_kernels_with_shared_memory() -> None:
    sources = [file for file in (ROOT / "csrc").glob("*/*.cu*") if file.parent.name != "common"]
    used = re.compile(r"__shared__|dynamic_shared<|\breport<")  # the last: common/watch.cuh
    found = {file.parent.name for file in sources if used.search(file.read_text())}
    assert found == set(gpu_plan.SHARED)


def test_the_sanitizer_keeps_a_few_cases_of_every_test() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "gpu"]
    command += ["-p", "no:cacheprovider", "-k", "not graph"]
    names = ("test_depthwise_cuda", "test_stem_update_cuda")
    command += [str(ROOT / f"python_tests/ops/{name}.py") for name in names]
    environ = {**os.environ, "HYPOTHESIS_PROFILE": "sanitizer", "SANITIZER_CASES": "8"}

    def collected() -> list[str]:
        done = subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True
        )
        return [line for line in done.stdout.splitlines() if "::" in line]

    few = collected()
    for name in names:
        assert len([line for line in few if f"{name}.py" in line]) == 8
    environ["HYPOTHESIS_PROFILE"] = "local"
    everything = collected()
    assert len(everything) > 200
    assert {line.partition("[")[0] for line in few} == {
        line.partition("[")[0] for line in everything
    }
    assert [line for line in everything if line in set(few)] == few


def test_benchmarks_start_with_the_riskiest_kernels(plan: dict[str, Stage]) -> None:
    onchip, blocks, others = [files_of(stage) for stage in begin(plan, "benchmarks")]
    assert (onchip, blocks) == (["test_onchip"], ["test_inverted_residual"])
    operators, rest = others[:-2], others[-2:]
    assert rest == ["test_attacks", "test_memory"]
    assert operators == sorted(operators)
    here = {file.stem for file in (ROOT / "benchmarks").glob("test_*.py")}
    assert {*onchip, *blocks, *others} == here - {"test_iterative_sign"}
    outputs = [w for s in begin(plan, "benchmarks") for w in s.command if "benchmark-json" in w]
    assert len(set(outputs)) == 3
    assert all("finished_benchmarks" in stage.command for stage in begin(plan, "benchmarks"))
    assert not any("--benchmark-disable" in stage.command for stage in plan.values())


def test_a_checkout_without_gpu_tests_does_not_pass_on_a_gpu(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / "python_tests").mkdir(parents=True)
    (root / "pyproject.toml").write_text("")
    (root / "python_tests/test_harness.py").write_text("def test_on_cpu(): ...\n")
    on_gpu, on_cpu = (
        next(s for s in todo if s.name == "gpu tests: all others")
        for todo in (gpu_plan.plan(root, tmp_path, tmp_path, on_gpu=flag) for flag in (True, False))
    )
    assert not on_cpu.command
    log = tmp_path / "log"
    outcome = stages.run_stage(on_gpu, seconds_left=60, folder=root, log=log)
    assert outcome.status == stages.FAILED


def test_only_a_finished_build_is_reused(tmp_path: Path) -> None:
    root, work = tmp_path / "checkout", tmp_path / "work"
    (root / "sign_ext").mkdir(parents=True)
    home = gpu_build.build_folder(root, {}, on_gpu=False)
    (home / "site").mkdir(parents=True)
    (home / "site" / "unfinished").touch()
    gpu_build.prepare(root, work, home)
    assert not (home / "site").exists()
    assert gpu_build.build_stages(work, home, on_gpu=False)[0].command
    # Only a successful import finishes a build; a failed import marks it as unfinished again.
    package = home / "site" / "sign_ext" / "__init__.py"
    for text, finished in [
        ("def build_config():\n    return {'cuda': False}\n", True),
        ("raise ImportError('broken')\n", False),
    ]:
        package.parent.mkdir(parents=True, exist_ok=True)
        package.write_text(text)
        last = gpu_build.build_stages(work, home, on_gpu=False)[1]
        stages.run_stage(last, seconds_left=60, folder=tmp_path, log=tmp_path / "log")
        assert (home / gpu_build.MARKER).exists() == finished
        first = gpu_build.build_stages(work, home, on_gpu=False)[0]
        assert bool(first.command) != finished


def test_other_sources_torch_or_gpu_need_another_build(tmp_path: Path) -> None:
    def folder(**facts: str) -> Path:
        return gpu_build.build_folder(tmp_path, {"torch": "2.15", **facts}, on_gpu=True)

    (tmp_path / "csrc/__pycache__").mkdir(parents=True)
    folders = [folder(), folder(torch="2.16"), folder(capability="9.0")]
    for source in ("csrc/one.cu", "setup.py"):
        (tmp_path / source).write_text("first")
        folders.append(folder())
        (tmp_path / source).write_text("second")
        folders.append(folder())
    assert len(set(folders)) == len(folders)
    (tmp_path / "csrc/__pycache__/one.pyc").touch()
    assert folder() == folders[-1]


def test_other_abis_but_not_patch_versions_need_another_build(tmp_path: Path) -> None:
    def folder(**changes: str) -> Path:
        facts = {
            "python": "3.12.3",
            "abi": "cpython-312-x86_64-linux-gnu",
            "torch": "2.11.0+cu130",
            "cuda": "13.0",
            "capability": "9.0",
        }
        return gpu_build.build_folder(tmp_path, {**facts, **changes}, on_gpu=True)

    same = [{"python": "3.12.1"}, {"torch": "2.11.0"}, {"torch": "2.11.1+cu132"}, {"cuda": "13.2"}]
    assert {folder(**changes) for changes in same} == {folder()}
    others = [
        {"abi": "cpython-313-x86_64-linux-gnu"},
        {"abi": "cpython-312-aarch64-linux-gnu"},
        {"torch": "2.12.0"},
        {"cuda": "12.8"},
        {"capability": "8.0"},
    ]
    assert len({folder(), *(folder(**changes) for changes in others)}) == 1 + len(others)


@pytest.mark.parametrize("imports", [True, False])
def test_a_build_that_does_not_import_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imports: bool
) -> None:
    root, work, home = tmp_path / "checkout", tmp_path / "work", tmp_path / "home"
    root.mkdir()
    work.mkdir()
    good = "def build_config():\n    return {'cuda': False}\n"
    (root / "sign_ext.py").write_text(good)
    (home / "site").mkdir(parents=True)
    (home / "site/sign_ext.py").write_text(good if imports else "raise ImportError('other ABI')\n")
    (home / gpu_build.MARKER).touch()
    copy = "import shutil, sys; shutil.copytree(sys.argv[1], sys.argv[2])"
    real = gpu_build.build_stages

    def build_stages(work: Path, home: Path, **options: object) -> list[Stage]:
        build, imported = real(work, home, on_gpu=False)
        if build.command:
            command = [sys.executable, "-c", copy, str(work / "source"), str(home / "site")]
            build = Stage("build", command, 60)
        return [build, imported]

    monkeypatch.setattr(gpu_build, "build_stages", build_stages)
    outcomes = gpu_build.ensure_package(
        root, work, home, on_gpu=False, deadline=time.monotonic() + 100, log=tmp_path / "log"
    )
    assert stages.succeeded(outcomes)
    assert (home / gpu_build.MARKER).exists()
    statuses = [(outcome.name, outcome.status) for outcome in outcomes]
    if imports:
        assert statuses == [("build", stages.SKIPPED), ("import", stages.PASSED)]
    else:
        assert statuses == [
            ("import of what was built before", stages.SKIPPED),
            ("build", stages.PASSED),
            ("import", stages.PASSED),
        ]
        assert "other ABI" in outcomes[0].detail


def test_an_interpreter_is_found_by_path_and_by_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "shims"))
    for place, text in [
        ("shims/python3.99", "exit 127"),  # like a pyenv shim of a version that is not activated
        ("versions/3.99.1/bin/python3", "exit 0"),
    ]:
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)
    assert gpu_package.find_python(sys.executable) == sys.executable
    assert gpu_package.find_python("3.99") == str(tmp_path / "versions/3.99.1/bin/python3")
    with pytest.raises(SystemExit, match=r"no Python '3\.98'"):
        gpu_package.find_python("3.98")
