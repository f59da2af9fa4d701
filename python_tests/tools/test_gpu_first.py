"""The part `first` keeps its facts if a step fails or hangs, or the check itself is killed."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import facts
import gpu_first
import pytest
import stages
from gpu_first import DROPPED, Step

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(gpu_first.__file__).parent
RECORD = """
import os, sys, time
from pathlib import Path
from facts import Facts

began = float(os.environ["FIRST_BEGAN"])
facts = Facts(Path(os.environ["FIRST_FACTS"]), os.environ["FIRST_STEP"], began)
facts.record("found", rate_flop_per_s=12345678.9, right=True, process=os.getpid())
"""
ENDINGS = {
    "fine": "",
    "raises": "raise ValueError('a shape does not fit')",
    "crashes": "print('about to', flush=True); import ctypes; ctypes.string_at(0)",
    "hangs": "print('waiting', flush=True); time.sleep(600)",
    "ignores SIGINT": (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
    ),
}


def step(ending: str, limit: float = 30.0) -> Step:
    """A step that records a fact and then ends in the given way."""
    command = [sys.executable, "-c", RECORD + ENDINGS[ending]]
    return Step(ending, command, limit, {"PYTHONPATH": str(TOOLS)})


def run(out: Path, steps: list[Step], seconds: float = 100.0) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the facts."""
    out.mkdir(exist_ok=True)
    code = gpu_first.check(
        ROOT, out, {"torch": "2.11"}, on_gpu=False, started=time.monotonic(), seconds=seconds,
        steps=steps,
    )  # fmt: skip
    return code, facts.read(out / gpu_first.FACTS)


def facts_of(found: list[dict[str, Any]], name: str) -> dict[str, dict[str, Any]]:
    """A step's facts by name."""
    return {fact["fact"]: fact for fact in found if fact["step"] == name}


def test_facts_survive_steps_that_fail_or_hang_and_the_next_ones_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_first, "GRACE", 1.0)
    todo = [
        step("raises"),
        step("crashes"),
        step("hangs", 3),
        step("ignores SIGINT", 3),
        step("fine"),
    ]
    code, found = run(tmp_path / "out", todo)
    assert code == 1
    assert found[0]["fact"] == "machine"
    assert found[0]["torch"] == "2.11"
    ended = {}
    for each in todo:
        facts_of_step = facts_of(found, each.name)
        assert facts_of_step["found"]["rate_flop_per_s"] == 12345700.0  # six digits
        ended[each.name] = facts_of_step["ended"]
        assert ended[each.name]["seconds"] <= each.limit + 3  # plus starting and ending a process
    assert [fact["status"] for fact in ended.values()] == [
        stages.FAILED,
        stages.FAILED,
        stages.TIMED_OUT,
        stages.TIMED_OUT,
        stages.PASSED,
    ]
    assert "ValueError: a shape does not fit" in ended["raises"]["error"]
    assert "about to" in ended["crashes"]["error"]
    assert "waiting" in ended["hangs"]["error"]
    assert "KeyboardInterrupt" in ended["hangs"]["error"]  # the traceback shows where it hung
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_facts_survive_when_the_check_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        f"sys.path[:0] = [{str(TOOLS)!r}, {str(Path(__file__).parent)!r}]\n"
        "from pathlib import Path\n"
        "from test_gpu_first import run, step\n"
        f"run(Path({str(tmp_path)!r}), [step('fine'), step('hangs'), step('raises')])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL)
    file = tmp_path / gpu_first.FACTS
    until = time.monotonic() + 60
    while "hangs" not in {fact["step"] for fact in facts.read(file)}:
        assert time.monotonic() < until
        time.sleep(0.05)
    process.kill()
    process.wait()
    found = facts.read(file)
    os.kill(
        facts_of(found, "hangs")["found"]["process"], signal.SIGKILL
    )  # the step outlives the check
    assert [fact["fact"] for fact in found] == ["machine", "found", "ended", "found"]
    assert facts_of(found, "fine")["ended"]["status"] == stages.PASSED


def test_a_partial_line_does_not_affect_others(tmp_path: Path) -> None:
    file = tmp_path / "facts"
    first, second = (
        facts.Facts(file, "first", time.time()),
        facts.Facts(file, "second", time.time()),
    )
    first.record("one", errors=[float("nan"), float("inf"), 0.5])
    with file.open("a") as partial:
        partial.write('{"step": "first", "fa')
    assert len(facts.read(file)) == 1
    second.record("two")
    assert [fact["fact"] for fact in facts.read(file)] == ["one", "two"]
    assert facts.read(file)[0]["errors"] == ["nan", "inf", 0.5]
    assert facts.read(tmp_path / "absent") == []


def test_the_time_limit_shortens_a_step_and_drops_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_first, "GRACE", 1.0)
    monkeypatch.setattr(gpu_first, "MIN_SECONDS", 3.0)
    started = time.monotonic()
    code, found = run(tmp_path, [step("fine"), step("hangs"), step("raises")], seconds=8)
    assert time.monotonic() - started < 12
    assert code == 1  # for the one that hung
    status = {fact["step"]: fact["status"] for fact in found if fact["fact"] == "ended"}
    assert status == {"fine": stages.PASSED, "hangs": stages.TIMED_OUT, "raises": DROPPED}
    assert set(facts_of(found, "raises")) == {"ended"}


def test_the_real_steps_exist_in_order_within_the_limits(tmp_path: Path) -> None:
    steps = gpu_first.steps_of(ROOT, tmp_path)
    assert [each.name.partition(":")[0] for each in steps] == [
        "ceilings", "on chip", "on chip", "on chip", "ncu", "graphs of operations", "blocks",
        "operators", "convolutions", "end to end", "end to end", "sanitizer",
    ]  # fmt: skip
    assert all(Path(each.command[1]).is_file() for each in steps)
    assert all(each.limit <= 80 for each in steps)
    assert gpu_first.SECONDS <= 530
    assert stages.GRACE + gpu_first.SECONDS < 600


def test_compiled_peers_come_before_the_tests_only_if_all_results_are_right(tmp_path: Path) -> None:
    def first(*right: bool) -> str:
        found = [{"fact": "error", "right": each} for each in right]
        return gpu_first.last_steps(ROOT, tmp_path, [{"fact": "copy"}, *found])[0].name

    assert first(True, True) == "max-autotune: mobilenet_v2"
    assert first(True, False) == first() == "tests: test_inverted_residual_cuda"


@pytest.mark.slow
def test_failed_tests_are_facts(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_wrong():\n    assert 1 == 2\n\ndef test_right():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "pytest_facts", "--rootdir", "."]
    command += ["-p", "no:cacheprovider", str(tmp_path / "test_it.py")]
    _, found = run(tmp_path, [Step("tests", command, 60, {"PYTHONPATH": str(TOOLS)})])
    facts_of_step = facts_of(found, "tests")
    assert "test_wrong" in facts_of_step["failed"]["test"]
    assert "assert 1 == 2" in facts_of_step["failed"]["error"]
    assert facts_of_step["failed"]["right"] is False
    assert (facts_of_step["tests"]["passed"], facts_of_step["tests"]["failed"]) == (1, 1)


@pytest.fixture
def _scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the steps' scripts importable."""
    for folder in ("python_tests/ops", "benchmarks", "benchmarks/first"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    # Benchmark and test of an operator have the same file name.
    for file in (ROOT / "benchmarks").glob("test_*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("_scripts")
def test_blocks_are_checked_at_the_networks_own_sizes() -> None:
    import torch
    from blocks import case_of
    from inverted_residual_variants import blocks

    found = blocks(32, torch.device("cpu"))
    assert len(found) == 16
    for op in found:
        assert case_of(op, 3).out_shape == (3, *op.shape)
    assert {case_of(op, 1).stride for op in found} == {(1, 1), (2, 2)}
    assert sum(case_of(op, 1).residual for op in found) == 10  # as published: 17 blocks, 7 without


@pytest.mark.usefixtures("_scripts")
def test_errors_become_quantiles() -> None:
    import torch
    from common import distribution

    errors = torch.tensor([0.5, 0.25, float("nan"), 0.125, 0.75], dtype=torch.float64)
    quantiles = distribution(errors)
    assert quantiles["images"] == 5
    assert [quantiles[name] for name in ("min", "p25", "median", "p75")] == [0.125, 0.25, 0.5, 0.75]
    assert quantiles["max"] == float("inf")  # NaN counts as the largest error


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize("wrong", [False, True])
def test_a_wrong_operator_is_detected(wrong: bool) -> None:
    import operators
    import torch

    def run(p: torch.Tensor, delta: torch.Tensor, **options: float) -> None:
        operators.sign_update_reference_(p, 1.01 * delta if wrong else delta, **options)

    found = next(operators.cases(torch.device("cpu")))
    assert found.name == "sign_update_"
    errors = operators.errors_of(dataclasses.replace(found, run=run))
    assert errors["right"] is not wrong
    assert errors["checked"] == 1  # of two images


@pytest.mark.usefixtures("_scripts")
def test_each_launch_in_ncus_report_becomes_a_fact(tmp_path: Path) -> None:
    import counters

    report = tmp_path / "ncu.csv"
    head = ["ID", "Kernel Name", "Block Size", "Grid Size", "Metric Name", "Metric Unit"]
    head.append("Metric Value")
    rows = [
        head,
        ["0", "onchip", "(256, 1, 1)", "(132, 1, 1)", "Duration", "ns", "1,234"],
        ["0", "onchip", "(256, 1, 1)", "(132, 1, 1)", "SM Busy", "%", "56.7"],
        ["1", "activate", "(256, 1, 1)", "(999, 1, 1)", "Duration", "ns", "5"],
    ]
    lines = ["==PROF== Connected", *(",".join(json.dumps(cell) for cell in row) for row in rows)]
    report.write_text("\n".join(lines))
    recorded = facts.Facts(tmp_path / "facts", "ncu", time.time())
    assert counters.record_report(report, recorded)
    assert not counters.record_report(tmp_path / "absent", recorded)
    found = facts.read(tmp_path / "facts")
    assert [fact["fact"] for fact in found] == ["counters", "counters", "no counters"]
    assert found[0]["values"]["Duration"] == "1,234 ns"
    assert found[0]["values"]["SM Busy"] == "56.7 %"
    assert found[1]["values"]["Grid Size"] == "(999, 1, 1)"
