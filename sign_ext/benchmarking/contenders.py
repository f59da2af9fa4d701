"""The contenders of a race, by name: Algorithm 1 without sign_ext, and sign_ext's backends."""

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
OWN_PREFIX = "sign_ext "
NO_GPU = "needs a CUDA device"
BACKEND_NAMES = tuple(name for name in BACKENDS if name != "auto")

Builder = Callable[[Task], Run]


def ours(task: Task, backend: str, *, tune: bool = False) -> Run:
    """One of sign_ext's backends through the public class, tuned if asked for."""
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
    return loops.with_precision(task.precision, loops.naive(task.phi(), task.steps, task.step_size))


def _frozen(task: Task) -> Run:
    run = loops.frozen(task.phi(), task.steps, task.step_size, channels_last=True)
    return loops.with_precision(task.precision, run, tuned=task.tuned)


def _compiled(task: Task) -> Run:
    run = loops.compiled(task.phi(), task.steps, task.step_size)
    return loops.with_precision(task.precision, run, tuned=task.tuned)


def _captured(task: Task) -> Run:
    run = loops.captured(task.phi(), task.steps, task.step_size)
    return loops.with_precision(task.precision, run, tuned=task.tuned)


def list_contenders(
    task: Task, backends: Sequence[str] = BACKEND_NAMES, *, compile: bool = False
) -> tuple[dict[str, Builder], dict[str, str]]:
    """Return the contenders that a user would compare, as functions that build them.

    Args:
        task: the race.
        backends: sign_ext's, by name.
        compile: include torch.compile, which compiles for a minute or more.

    Returns:
        Name → builder, the naive loop first, and name → reason for those that cannot run here.
    """
    found: dict[str, Builder] = {NAIVE: _naive}
    absent: dict[str, str] = {}
    on_cuda = task.images.is_cuda
    for backend in backends:
        if backend in ("graphed", "onchip") and not on_cuda:
            absent[OWN_PREFIX + backend] = NO_GPU
        else:
            found[OWN_PREFIX + backend] = partial(ours, backend=backend)
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


def explain_auto(task: Task) -> Explanation:
    """Run a step with `backend="auto"`, and return which backend ran and why."""
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
