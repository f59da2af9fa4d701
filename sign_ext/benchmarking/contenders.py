"""Who takes part in a race: ways to run Algorithm 1 without sign_ext, and our backends, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sign_ext.benchmarking import loops
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.task import Task
from sign_ext.settings import BACKENDS
from sign_ext.sign import SignTransform

if TYPE_CHECKING:
    from sign_ext.explanation import Explanation

NAIVE = "naive .backward()"
FROZEN = "frozen, channels_last"
COMPILED = "torch.compile"
CAPTURED = "CUDA graph by hand"
OURS = "sign_ext "
NO_GPU = "needs a CUDA device"
NAMED = tuple(name for name in BACKENDS if name != "auto")  # those that can be asked for by name


Way = Callable[[Task], Run]


def ours(task: Task, backend: str, *, tune: bool = False) -> Run:
    """One of our backends, through the public call; its choices measured, where they can be."""
    sign = SignTransform(
        task.model,
        task.steps,
        layer=task.layer,
        step_size=task.step_size,
        batch_size=len(task.images),
        backend=backend,
        precision=task.precision,
        tune=tune,
    )
    return sign.transform  # type: ignore[return-value]


def _naive(task: Task) -> Run:
    return loops.at(task.precision, loops.naive(task.phi(), task.steps, task.step_size))


def _frozen(task: Task) -> Run:
    run = loops.frozen(task.phi(), task.steps, task.step_size, channels_last=True)
    return loops.at(task.precision, run, tuned=task.tuned)


def _compiled(task: Task) -> Run:
    run = loops.compiled(task.phi(), task.steps, task.step_size)
    return loops.at(task.precision, run, tuned=task.tuned)


def _captured(task: Task) -> Run:
    run = loops.captured(task.phi(), task.steps, task.step_size)
    return loops.at(task.precision, run, tuned=task.tuned)


def ways(
    task: Task, backends: Sequence[str] = NAMED, *, compile: bool = False
) -> tuple[dict[str, Way], dict[str, str]]:
    """Whom a user would compare, each still to be built.

    Args:
        task: the race.
        backends: ours, by name.
        compile: torch.compile as well, which compiles for a minute or more.

    Returns:
        Name → way, the naive loop first, and name → reason for those that cannot run here.
    """
    found: dict[str, Way] = {NAIVE: _naive}
    absent: dict[str, str] = {}
    on_cuda = task.images.is_cuda
    for backend in backends:
        if backend in ("graphed", "onchip") and not on_cuda:
            absent[OURS + backend] = NO_GPU
        else:
            found[OURS + backend] = partial(ours, backend=backend)
    found[FROZEN] = _frozen
    if on_cuda:
        found[CAPTURED] = _captured
    else:
        absent[CAPTURED] = NO_GPU
    if compile:
        found[COMPILED] = _compiled
    else:
        absent[COMPILED] = "left out: compiles for a minute or more (--compile)"
    return found, absent


def what_auto_runs(task: Task) -> Explanation:
    """What `backend="auto"` runs for this task, and why: found out by running a step."""
    sign = SignTransform(
        task.model,
        1,
        layer=task.layer,
        step_size=task.step_size,
        batch_size=len(task.images),
        precision=task.precision,
    )
    sign.transform(task.images)
    return sign.explain(task.images)
