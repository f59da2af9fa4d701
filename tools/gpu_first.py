"""The part `first` of the GPU check: the most important facts in under nine minutes.

Each step is a process with its own time limit and appends each result to first.jsonl at once, so
that a crash, a hang or the loss of the machine costs only what was not measured yet. The steps are
the scripts of benchmarks/first, most important first; the last ones are dropped if time runs out.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import stages
from facts import Facts, read
from gpu_build import build_folder, ensure_package, import_environ
from gpu_plan import ENGINE, gpu_tests, riskiest_first
from stages import Outcome, Stage

SECONDS = 530.0  # time limit for the whole part
BUILD_SECONDS = 150.0  # limit for the build, if there is no earlier one
LIMIT = 60.0  # default limit of a step
TESTS, AUTOTUNE = 100.0, 200.0  # limits of a test file, and of a network that compiles for minutes
MIN_SECONDS = 12.0  # no step starts with less time left: importing torch takes some of it
GRACE = 3.0  # part of a step's limit reserved for reporting after the interrupt
LINES, CHARACTERS = 12, 1500  # how much of a failed step's output becomes a fact
FACTS, LOG, COUNTERS = "first.jsonl", "first.log", "ncu.csv"
DROPPED = "dropped"


@dataclass(frozen=True)
class Step:
    """One process of the part.

    Attributes:
        name: Its name in the facts.
        command: The command line.
        limit: Time limit in seconds, grace period included.
        environ: Environment variables for this step only.
    """

    name: str
    command: Sequence[str]
    limit: float = LIMIT
    environ: Mapping[str, str] = field(default_factory=dict)


def steps_of(root: Path, home: Path) -> list[Step]:
    """The steps in order, without those that use the remaining time (`last_steps`).

    Args:
        root: The checkout.
        home: Folder of the package.
    """

    def step(name: str, script: str, *options: str, limit: float = LIMIT) -> Step:
        return script_step(root, home, name, script, *options, limit=limit)

    return [
        step("ceilings", "machine_ceilings", limit=40),
        step("on chip: basic_cnn", "onchip_errors", "basic_cnn", limit=40),
        step("on chip: resnet20", "onchip_errors", "resnet20", limit=40),
        step("on chip: times", "onchip_times", limit=45),
        step("ncu", "counters", limit=40),
        step("graphs of operations", "captured", limit=50),
        step("blocks", "blocks", limit=80),
        step("operators", "operators", limit=60),
        step("convolutions", "convolutions", limit=40),
        step("end to end: basic_cnn", "whole_set", limit=60),
        step("end to end: mobilenet_v2", "whole_steps", limit=70),
        step("sanitizer", "sanitizer", limit=70),
    ]


def script_step(
    root: Path, home: Path, name: str, script: str, *options: str, limit: float = LIMIT
) -> Step:
    """A step that runs a script of benchmarks/first, with its helper modules on the path."""
    folders = [root / "benchmarks" / "first", root / "benchmarks", root / "tools"]
    folders += [root / "python_tests" / name for name in ("", "ops", "engine")]
    environ = {"PYTHONPATH": os.pathsep.join([package_in(home), *map(str, folders)])}
    return Step(name, [sys.executable, str(folders[0] / f"{script}.py"), *options], limit, environ)


def package_in(home: Path) -> str:
    """The folder to import the package from: the built one, or `home` if that is a checkout."""
    built = import_environ(home)["PYTHONPATH"]
    return built if Path(built).is_dir() else str(home)


def last_steps(root: Path, home: Path, found: Sequence[Mapping[str, Any]]) -> list[Step]:
    """The steps for the remaining time: the tests, and peers that compile for minutes.

    The peers come first if all results so far are right, otherwise the tests.

    Args:
        root: The checkout.
        home: Folder of the package.
        found: The facts so far.
    """
    files = [Path(file) for file in gpu_tests(root / "python_tests")]
    operators = [str(file) for file in files if file.parent.name == "ops"]
    engine = [str(file) for file in files if file.parent.name in ENGINE]
    others = [str(file) for file in files if str(file) not in (*operators, *engine)]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-q", "-ra"]
    command += ["--rootdir", str(root), "-p", "no:cacheprovider", "-p", "pytest_facts"]
    command += ["--tb=short", "-m", "gpu"]
    # The plugin pytest_facts is in this folder.
    path = os.pathsep.join([package_in(home), str(Path(__file__).parent)])
    tests = [
        Step(f"tests: {Path(file).stem}", [*command, file], TESTS, {"PYTHONPATH": path})
        for file in [*riskiest_first(operators), *riskiest_first(engine), *others]
    ]
    peers = [
        script_step(root, home, f"max-autotune: {network}", "compiled", network, limit=AUTOTUNE)
        for network in ("mobilenet_v2", "basic_cnn")
    ]
    right = [fact["right"] for fact in found if "right" in fact]
    return [*peers, *tests] if right and all(right) else [*tests, *peers]


@dataclass
class Check:
    """One run of the part, and where its results go."""

    root: Path
    out: Path
    work: Path
    on_gpu: bool
    deadline: float  # by time.monotonic
    began: float  # by time.time

    @property
    def file(self) -> Path:
        """The file of facts."""
        return self.out / FACTS

    @property
    def log(self) -> Path:
        """The file with all output."""
        return self.out / LOG

    def record(self, step: str, fact: str, **values: Any) -> None:
        """Write a fact, and print it."""
        show(Facts(self.file, step, self.began).record(fact, **values))

    def run_step(self, step: Step) -> Outcome:
        """Run a step and record its outcome; drop it if too little time is left."""
        left = self.deadline - time.monotonic()
        if left < MIN_SECONDS:
            outcome = Outcome(step.name, DROPPED, 0.0, f"{max(left, 0):.0f} s were left")
            self.record(step.name, "ended", status=DROPPED, seconds=0.0, why=outcome.detail)
            return outcome
        limit = min(step.limit, left) - GRACE
        environ = {
            "PYTHONDONTWRITEBYTECODE": "",  # a dozen processes import torch
            "PYTHONUNBUFFERED": "1",
            "FIRST_FACTS": str(self.file),
            "FIRST_STEP": step.name,
            "FIRST_BEGAN": repr(self.began),
            "FIRST_SECONDS": f"{limit:.1f}",
            "FIRST_ON": "cuda" if self.on_gpu else "cpu",
            **step.environ,
        }
        before, size = len(read(self.file)), self.log.stat().st_size
        outcome = stages.run_stage(
            Stage(step.name, step.command, limit, environ),
            seconds_left=limit,
            folder=self.work,
            log=self.log,
            grace=GRACE,
        )
        for fact in read(self.file)[before:]:
            show(fact)
        self.record_end(outcome, size)
        return outcome

    def record_end(self, outcome: Outcome, begin: int = 0) -> None:
        """Record the outcome of a step, and of a failed one the last lines of its output.

        Args:
            outcome: The outcome of the step.
            begin: Where its output begins in the log.
        """
        values: dict[str, Any] = {"status": outcome.status, "seconds": round(outcome.seconds, 1)}
        if outcome.status in (stages.FAILED, stages.TIMED_OUT):
            with self.log.open("rb") as log:
                log.seek(begin)
                text = log.read().decode(errors="replace")
            lines = "\n".join(text.strip().splitlines()[-LINES:])
            values |= {"why": outcome.detail, "error": lines[-CHARACTERS:]}
        self.record(outcome.name, "ended", **values)


def show(fact: Mapping[str, Any]) -> None:
    """Print a fact as one line."""
    rest = {name: value for name, value in fact.items() if name not in ("step", "at_s", "fact")}
    values = ", ".join(f"{name} {value}" for name, value in rest.items())
    print(f"{fact['at_s']:6.1f} s  {fact['step']}: {fact['fact']}: {values}"[:300], flush=True)


def check(
    root: Path,
    out: Path,
    facts: Mapping[str, Any],
    *,
    on_gpu: bool,
    started: float,
    seconds: float | None = None,
    steps: Sequence[Step] | None = None,
) -> int:
    """Run the part and return the exit status: 0 if no step failed.

    Args:
        root: The checkout.
        out: Folder for first.jsonl, first.log and ncu.csv.
        facts: The machine and the commit (`gpu_check.probe`).
        on_gpu: False runs every step at a small size on the CPU, as a rehearsal.
        started: Start of the check, from `time.monotonic`; it includes the probe.
        seconds: Time limit for the whole part (default: SECONDS).
        steps: Steps to run instead of the real ones; the package is not built for them.
    """
    deadline = started + (seconds or SECONDS)
    began = time.time() - (time.monotonic() - started)
    for name in (FACTS, LOG):
        (out / name).write_bytes(b"")
    (out / COUNTERS).unlink(missing_ok=True)  # left by an earlier run
    with tempfile.TemporaryDirectory(prefix="sign-ext-gpu-first-") as folder:
        run = Check(root, out, Path(folder).resolve(), on_gpu, deadline, began)
        run.record("start", "machine", **facts, seconds=seconds or SECONDS)
        if steps is not None:
            outcomes = [run.run_step(step) for step in steps]
        else:
            outcomes = run_all(run, build_folder(root, facts, on_gpu=on_gpu))
    print(f"\n{stages.table(outcomes)}\nwritten: {run.file} and {run.log}")
    fine = (stages.PASSED, stages.SKIPPED, DROPPED)
    return 0 if all(outcome.status in fine for outcome in outcomes) else 1


def run_all(run: Check, home: Path) -> list[Outcome]:
    """Build the package, then run every step; stop if the build failed."""
    outcomes = ensure_package(
        run.root,
        run.work,
        home,
        on_gpu=run.on_gpu,
        deadline=run.deadline,
        log=run.log,
        seconds=BUILD_SECONDS,
    )
    for outcome in outcomes:
        run.record_end(outcome)
    if not stages.succeeded(outcomes):
        return outcomes
    # A rehearsal builds pure Python; the checkout may have the native extension.
    home = home if run.on_gpu else run.root
    outcomes += [run.run_step(step) for step in steps_of(run.root, home)]
    last = last_steps(run.root, home, read(run.file))
    # A rehearsal runs one test file: without a GPU all of its tests are skipped.
    outcomes += [run.run_step(step) for step in (last if run.on_gpu else last[-1:])]
    return outcomes
