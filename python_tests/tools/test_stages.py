"""Stages end in time, leave no process running, and distinguish failed from skipped."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import stages
from stages import Outcome, Stage


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def run(stage: Stage, folder: Path, seconds_left: float = 60) -> Outcome:
    return stages.run_stage(stage, seconds_left=seconds_left, folder=folder, log=folder / "all.log")


def alive(pid: int) -> bool:
    """Whether a process is running (a zombie is not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_good_command_passes_with_its_last_line(tmp_path: Path) -> None:
    outcome = run(Stage("one", python("print('first'); print('== 3 passed ==\\n')"), 30), tmp_path)
    assert (outcome.status, outcome.detail) == (stages.PASSED, "3 passed")
    assert "first" in (tmp_path / "all.log").read_text()


def test_a_bad_command_fails_with_its_status(tmp_path: Path) -> None:
    outcome = run(Stage("one", python("print('oh'); raise SystemExit(7)"), 30), tmp_path)
    assert outcome.status == stages.FAILED
    assert "7" in outcome.detail
    assert "oh" in outcome.detail


def test_a_missing_command_fails(tmp_path: Path) -> None:
    outcome = run(Stage("one", [str(tmp_path / "absent")], 30), tmp_path)
    assert outcome.status == stages.FAILED
    assert "could not be started" in outcome.detail


def test_a_stage_at_its_limit_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('child.pid').write_text(str(child.pid))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    outcome = run(Stage("one", python(code), 3), tmp_path)
    assert outcome.status == stages.TIMED_OUT
    assert "started" in (tmp_path / "all.log").read_text()
    child = int((tmp_path / "child.pid").read_text())
    for _ in range(200):  # it takes a moment to end
        if not alive(child):
            break
        time.sleep(0.05)
    assert not alive(child)


def test_a_stage_at_its_limit_can_write_its_results(tmp_path: Path) -> None:
    code = (
        "import pathlib, time\n"
        "print('started', flush=True)\n"
        "try:\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.5)\n"
        "    pathlib.Path('found').write_text('3 races')\n"
        "    print('3 passed')\n"
    )
    outcome = run(Stage("one", python(code), 3), tmp_path)
    assert outcome.status == stages.TIMED_OUT
    assert outcome.detail == "after 3 s interrupted; 3 passed"
    assert (tmp_path / "found").read_text() == "3 races"


def test_a_stage_that_ignores_the_interrupt_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "GRACE", 1.0)
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    outcome = run(Stage("one", python(code), 2), tmp_path)
    assert outcome.status == stages.TIMED_OUT
    assert outcome.detail == "after 2 s interrupted, 1 s later killed; waiting"
    assert outcome.seconds < 30


def test_the_interrupt_works_even_if_it_was_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        outcome = run(Stage("one", python("import time; time.sleep(600)"), 2), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert outcome.detail.startswith("after 2 s interrupted; ")


@pytest.mark.slow
@pytest.mark.parametrize("rounds_before", [0, 1])
def test_an_interrupted_pytest_shows_failures_and_writes_its_benchmarks(
    tmp_path: Path, rounds_before: int
) -> None:
    """As at a stage's limit: pytest gets SIGINT while a benchmark runs."""
    (tmp_path / "test_speed.py").write_text(
        "import signal\n"
        "def test_wrong():\n    assert 1 == 2\n"
        "def test_speed(benchmark):\n    benchmark.pedantic(sum, ([1, 2],), rounds=2)\n"
        f"rounds = iter([int] * {rounds_before} + [lambda: signal.raise_signal(signal.SIGINT)])\n"
        "def test_slow(benchmark):\n"
        "    benchmark.pedantic(lambda: next(rounds)(), rounds=2)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "--rootdir", ".", "-p", "no:cacheprovider"]
    command += ["--benchmark-json=raw.json", "--tb=short", "-p", "finished_benchmarks"]
    environ = {"PYTHONPATH": str(Path(stages.__file__).parent)}
    outcome = run(Stage("one", [*command, "test_speed.py"], 120, environ), tmp_path)
    assert outcome.status == stages.FAILED
    assert "1 failed, 1 passed" in outcome.detail
    assert "assert 1 == 2" in (tmp_path / "all.log").read_text()
    written = json.loads((tmp_path / "raw.json").read_text())
    assert [one["name"] for one in written["benchmarks"]] == ["test_speed"]


def test_without_time_left_nothing_is_started(tmp_path: Path) -> None:
    code = python("open('ran', 'w')")
    outcome = run(Stage("one", code, 30), tmp_path, seconds_left=0.5)
    assert outcome.status == stages.TIMED_OUT
    assert not (tmp_path / "ran").exists()


def test_a_skip_reason_turns_only_its_failure_into_a_skip(tmp_path: Path) -> None:
    def skip_reason(output: str) -> str | None:
        return "refused here" if "no such device" in output else None

    refused = Stage(
        "a", python("print('no such device'); raise SystemExit(1)"), 30, skip_reason=skip_reason
    )
    broken = Stage("b", python("print('a bug'); raise SystemExit(1)"), 30, skip_reason=skip_reason)
    assert run(refused, tmp_path).status == stages.SKIPPED
    assert run(broken, tmp_path).status == stages.FAILED  # only its own output counts


def test_a_failure_does_not_stop_later_stages(tmp_path: Path) -> None:
    todo = [
        Stage("bad", python("raise SystemExit(1)"), 30),
        Stage("none", (), 0, reason="not on this machine"),
        Stage("good", python("print('fine')"), 30),
    ]
    outcomes = stages.run_all(todo, seconds=60, folder=tmp_path, log=tmp_path / "all.log")
    assert [outcome.status for outcome in outcomes] == [
        stages.FAILED,
        stages.SKIPPED,
        stages.PASSED,
    ]
    assert not stages.succeeded(outcomes)
    assert stages.succeeded(outcomes[1:])
    lines = stages.table(outcomes).splitlines()
    assert len(lines) == 3
    assert "not on this machine" in lines[1]


@pytest.mark.parametrize("name", ["SIGN_EXT_STAGE_TEST", "PATH"])
def test_variables_are_set_for_the_stage_only(tmp_path: Path, name: str) -> None:
    before = os.environ.get(name)
    code = python(f"import os; print(os.environ[{name!r}])")
    outcome = run(Stage("one", code, 30, {name: "given"}), tmp_path)
    assert outcome.detail == "given"
    assert os.environ.get(name) == before
