"""The part `first` of the GPU check: the facts that matter most, in under nine minutes.

Each step is a process of its own with a limit, which writes a line of first.jsonl whenever it knows
something, so that a crash, a hang or the end of the machine's time costs only what was not measured
yet. The steps are the scripts of benchmarks/first; what matters most comes first, and the last ones
are left out where time runs short.
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
from gpu_build import build_folder, provide, searching
from gpu_plan import ENGINE, gpu_tests, riskiest_first
from stages import Outcome, Stage

SECONDS = 530.0  # all of it
BUILD_SECONDS = 150.0  # where nothing was built before
LIMIT = 60.0  # of a step, where nothing else is said
TESTS, AUTOTUNE = 100.0, 200.0  # of a file of tests, of a network that compiles for minutes
LEAST = 12.0  # seconds under which no step is begun: torch's import takes some of them
GRACE = 3.0  # of a step's limit, to tell what it found when its time is up
LINES, CHARACTERS = 12, 1500  # of a failed step's output that become a fact
FACTS, LOG, COUNTERS = "first.jsonl", "first.log", "ncu.csv"
DROPPED = "dropped"


@dataclass(frozen=True)
class Step:
    """A process of the part.

    Attributes:
        name: What facts call it.
        command: The words to run.
        limit: Seconds, all told.
        environ: Variables for it alone.
    """

    name: str
    command: Sequence[str]
    limit: float = LIMIT
    environ: Mapping[str, str] = field(default_factory=dict)


def steps_of(root: Path, home: Path) -> list[Step]:
    """The steps in order, but for those that fill the time that is left (`last_steps`).

    Args:
        root: The checkout.
        home: Where the package is.
    """

    def step(name: str, script: str, *options: str, limit: float = LIMIT) -> Step:
        return of_script(root, home, name, script, *options, limit=limit)

    return [
        step("ceilings", "machine_ceilings", limit=40),
        step("on chip: basic_cnn", "onchip_errors", "basic_cnn", limit=40),
        step("on chip: resnet20", "onchip_errors", "resnet20", limit=40),
        step("on chip: times", "onchip_times", limit=45),
        step("ncu", "counters", limit=40),
        step("blocks", "blocks", limit=80),
        step("operators", "operators", limit=60),
        step("convolutions", "convolutions", limit=40),
        step("end to end: basic_cnn", "whole_set", limit=60),
        step("end to end: mobilenet_v2", "whole_steps", limit=70),
        step("sanitizer", "sanitizer", limit=70),
    ]


def of_script(
    root: Path, home: Path, name: str, script: str, *options: str, limit: float = LIMIT
) -> Step:
    """A step that runs a script of benchmarks/first; it finds the benchmarks and test helpers."""
    folders = [root / "benchmarks" / "first", root / "benchmarks", root / "tools"]
    folders += [root / "python_tests", root / "python_tests" / "ops"]
    environ = {"PYTHONPATH": os.pathsep.join([package_in(home), *map(str, folders)])}
    return Step(name, [sys.executable, str(folders[0] / f"{script}.py"), *options], limit, environ)


def package_in(home: Path) -> str:
    """Where Python finds the package: what was built, or the checkout that `home` is."""
    built = searching(home)["PYTHONPATH"]
    return built if Path(built).is_dir() else str(home)


def last_steps(root: Path, home: Path, found: Sequence[Mapping[str, Any]]) -> list[Step]:
    """What fills the time that is left: compilers' peers where all was right, and the tests.

    Args:
        root: The checkout.
        home: Where the package is.
        found: The facts so far.
    """
    files = [Path(file) for file in gpu_tests(root / "python_tests")]
    operators = [str(file) for file in files if file.parent.name == "ops"]
    engine = [str(file) for file in files if file.parent.name in ENGINE]
    others = [str(file) for file in files if str(file) not in (*operators, *engine)]
    command = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml"), "-q", "-ra"]
    command += ["--rootdir", str(root), "-p", "no:cacheprovider", "-p", "facts_of_tests"]
    command += ["--tb=short", "-m", "gpu"]
    # The plugin is beside this file.
    path = os.pathsep.join([package_in(home), str(Path(__file__).parent)])
    tests = [
        Step(f"tests: {Path(file).stem}", [*command, file], TESTS, {"PYTHONPATH": path})
        for file in [*riskiest_first(operators), *riskiest_first(engine), *others]
    ]
    peers = [
        of_script(root, home, f"max-autotune: {network}", "compiled", network, limit=AUTOTUNE)
        for network in ("mobilenet_v2", "basic_cnn")
    ]
    right = [fact["right"] for fact in found if "right" in fact]
    return [*peers, *tests] if right and all(right) else [*tests, *peers]


@dataclass
class Check:
    """One run of the part."""

    root: Path
    out: Path
    work: Path
    on_gpu: bool
    deadline: float  # by time.monotonic
    began: float  # by time.time

    @property
    def file(self) -> Path:
        """The facts."""
        return self.out / FACTS

    @property
    def log(self) -> Path:
        """All output."""
        return self.out / LOG

    def tell(self, step: str, fact: str, **values: Any) -> None:
        """Write a fact, and show it."""
        show(Facts(self.file, step, self.began).tell(fact, **values))

    def run(self, step: Step) -> Outcome:
        """Run a step, or drop it where too little time is left, and tell how it went."""
        left = self.deadline - time.monotonic()
        if left < LEAST:
            outcome = Outcome(step.name, DROPPED, 0.0, f"{max(left, 0):.0f} s were left")
            self.tell(step.name, "ended", status=DROPPED, seconds=0.0, why=outcome.detail)
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
        self.tell_end(outcome, size)
        return outcome

    def tell_end(self, outcome: Outcome, begin: int = 0) -> None:
        """Tell how a step went; where it failed, with the last lines that it printed.

        Args:
            outcome: of the step.
            begin: where its output begins in the log.
        """
        values: dict[str, Any] = {"status": outcome.status, "seconds": round(outcome.seconds, 1)}
        if outcome.status in (stages.FAILED, stages.TIMED_OUT):
            with self.log.open("rb") as log:
                log.seek(begin)
                text = log.read().decode(errors="replace")
            lines = "\n".join(text.strip().splitlines()[-LINES:])
            values |= {"why": outcome.detail, "error": lines[-CHARACTERS:]}
        self.tell(outcome.name, "ended", **values)


def show(fact: Mapping[str, Any]) -> None:
    """A fact as one line for whoever watches."""
    rest = {name: value for name, value in fact.items() if name not in ("step", "at_s", "fact")}
    words = ", ".join(f"{name} {value}" for name, value in rest.items())
    print(f"{fact['at_s']:6.1f} s  {fact['step']}: {fact['fact']}: {words}"[:300], flush=True)


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
    """Run the part and return the exit status: 0 when no step failed.

    Args:
        root: The checkout.
        out: Folder for first.jsonl and the few files beside it.
        facts: On the machine and the commit (`gpu_check.probe`).
        on_gpu: False rehearses every step on the CPU, small.
        started: When the check began, by `time.monotonic`: the probe counts.
        seconds: Of all of it (default: SECONDS).
        steps: Instead of the real ones; nothing is built for them.
    """
    deadline = started + (seconds or SECONDS)
    began = time.time() - (time.monotonic() - started)
    for name in (FACTS, LOG):
        (out / name).write_bytes(b"")
    (out / COUNTERS).unlink(missing_ok=True)  # an earlier run's
    with tempfile.TemporaryDirectory(prefix="sign-ext-gpu-first-") as folder:
        one = Check(root, out, Path(folder).resolve(), on_gpu, deadline, began)
        one.tell("start", "machine", **facts, seconds=seconds or SECONDS)
        if steps is not None:
            outcomes = [one.run(step) for step in steps]
        else:
            outcomes = run_all(one, build_folder(root, facts, on_gpu=on_gpu))
    print(f"\n{stages.table(outcomes)}\nwritten: {one.file} and {one.log}")
    fine = (stages.PASSED, stages.SKIPPED, DROPPED)
    return 0 if all(outcome.status in fine for outcome in outcomes) else 1


def run_all(one: Check, home: Path) -> list[Outcome]:
    """Have the package, then run every step; nothing more where there is no package."""
    outcomes = provide(
        one.root,
        one.work,
        home,
        on_gpu=one.on_gpu,
        deadline=one.deadline,
        log=one.log,
        seconds=BUILD_SECONDS,
    )
    for outcome in outcomes:
        one.tell_end(outcome)
    if not stages.succeeded(outcomes):
        return outcomes
    # A rehearsal has built nothing native; the checkout may have.
    home = home if one.on_gpu else one.root
    outcomes += [one.run(step) for step in steps_of(one.root, home)]
    last = last_steps(one.root, home, read(one.file))
    # A rehearsal tries one file of tests out: all of them are skipped there.
    outcomes += [one.run(step) for step in (last if one.on_gpu else last[-1:])]
    return outcomes
