"""What an experiment is: the stages it needs, and what it tells of their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.stages.runner import Outcome
from sign_ext.experiments.stages.stage import Stage
from sign_ext.report.schema import Cell, Experiment

# A name of the experiment's own → a stage for each seed.
Plan = dict[str, tuple[Stage, ...]]
Found = Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True)
class Recipe:
    """One table or figure.

    Attributes:
        name: for `sign-ext reproduce`; `names` says in a line what it is.
        plan: the stages, which are not run yet.
        summarize: the finished experiment, from the outcomes under the plan's names.
    """

    name: str
    plan: Callable[[StagePlanner], Plan]
    summarize: Callable[[StagePlanner, Found], Experiment]


def cell(
    outcomes: Sequence[Outcome], *path: str, paper: float | None = None, scale: float = 1.0
) -> Cell:
    """One number of each seed's outcome.

    Args:
        outcomes: one a seed.
        path: keys into the numbers.
        paper: the paper's.
        scale: multiplies ours.
    """
    values = [_dig(outcome.numbers, path) for outcome in outcomes]
    return Cell(tuple(None if v is None else scale * float(v) for v in values), paper)


def _dig(numbers: Any, path: Sequence[str]) -> Any:
    for key in path:
        if numbers is None:
            return None
        numbers = numbers.get(key)
    return numbers


def keys(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The artefacts behind the first seed's outcome: the stage itself and those it reads."""
    first = outcomes[0].stage
    return tuple(f"{s.kind}-{s.key}" for s in (first, *first.inputs().values()))
