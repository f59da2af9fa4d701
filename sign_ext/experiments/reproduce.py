"""Plan experiments, run their stages, summarize the outcomes, and write the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sign_ext.environment import commit, machine, versions
from sign_ext.experiments.names import EXPERIMENTS
from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import StagesByName
from sign_ext.experiments.registry import RECIPES, findings_of
from sign_ext.experiments.scale import Scale
from sign_ext.experiments.stages.networks import TUNING_SEED
from sign_ext.experiments.stages.runner import StageRunner, how_made, total_seconds
from sign_ext.experiments.stages.sources import Sources
from sign_ext.experiments.stages.stage import Stage, topological_order
from sign_ext.formatting import plain
from sign_ext.progress import Reporter, Silent
from sign_ext.report.results_page import write_report
from sign_ext.report.schema import Experiment, Results
from sign_ext.report.verdict import hold_families


@dataclass
class Reproduction:
    """Some experiments at a scale with some seeds, in a folder.

    Args:
        names: of experiments, keys of RECIPES.
        scale: all settings.
        seeds: distinct, in order.
        out: the folder for artefacts and report.
        data_root: where the data sets' files are.
        device: to compute on.
        reporter: where messages and progress go.
    """

    names: Sequence[str]
    scale: Scale
    seeds: tuple[int, ...]
    out: Path
    data_root: str | None = None
    device: str = "cpu"
    reporter: Reporter | None = None

    def __post_init__(self) -> None:
        """Make the runner and the planner; an experiment's data is read when it is planned."""
        if outside := [name for name in self.names if name not in self.scale.accepted]:
            raise ValueError(
                f"the scale {self.scale.name!r} is not made for {outside[0]!r}; accepted: "
                f"{', '.join(self.scale.accepted)}."
            )
        if any(not 0 <= seed < TUNING_SEED for seed in self.seeds):
            raise ValueError(f"seeds {self.seeds}; accepted: 0 to {TUNING_SEED - 1:,} each.")
        reporter = self.reporter or Silent()
        sources = Sources(self.data_root)
        self.runner = StageRunner(
            Path(self.out), torch.device(self.device), sources.read, reporter, self.data_root
        )
        self.planner = StagePlanner(self.scale, self.seeds, sources, self.runner)
        self._plans: dict[str, StagesByName] = {}

    def plan(self, name: str) -> StagesByName:
        """The stages of one experiment."""
        if name not in self._plans:
            self._plans[name] = RECIPES[name].plan(self.planner)
        return self._plans[name]

    def stages(self) -> list[Stage]:
        """All stages of all experiments, inputs first, each once."""
        return topological_order(
            [stage for name in self.names for stage in _seed_by_seed(self.plan(name))]
        )

    def run(self, command: str = "", command_of: Callable[[str], str] | None = None) -> Results:
        """Run what is missing, and write the report after each finished experiment.

        A stage that is refused, such as one that needs a Φ that has not learnt, ends nothing: what
        needs it is left out, and the report says so.

        Args:
            command: the command line, for the report.
            command_of: from an experiment's name to the command line that reproduces it alone.

        Returns:
            What OUT/results.json holds.
        """
        finished: list[Experiment] = []
        for name in self.names:
            stages = _seed_by_seed(self.plan(name))
            missing = self.runner.missing(stages)
            self.runner.attempt(stages)
            alone = "" if command_of is None else command_of(name)
            finished.append(self._summarize(name, alone))
            if missing or name == self.names[-1]:
                # If the run is stopped later, the report has everything finished so far.
                results = self._results(finished, command)
                write_report(self.runner.out, results)
        return results

    def _summarize(self, name: str, command: str) -> Experiment:
        plan, recipe = self.plan(name), RECIPES[name]
        refused = {
            key: self.runner.refused[stage.key]
            for key, stages in plan.items()
            for stage in stages
            if stage.key in self.runner.refused
        }
        outcomes = {
            key: self.runner.run(stages) for key, stages in plan.items() if key not in refused
        }
        if not refused or (recipe.by_rows and outcomes):
            made = recipe.summarize(self.planner, outcomes)
        else:
            made = Experiment(name, EXPERIMENTS[name], "Nothing could be made of it.")
        stages = _seed_by_seed(plan)
        return replace(
            made,
            findings=(*_left_out(refused), *made.findings),
            command=command,
            seconds=total_seconds(self.runner, stages),
            made=how_made(self.runner, stages),
        )

    def _results(self, finished: Sequence[Experiment], command: str) -> Results:
        stages = [stage for each in finished for stage in _seed_by_seed(self.plan(each.name))]
        results = Results(
            scale=self.scale.name,
            seeds=self.seeds,
            experiments=tuple(finished),
            data=self.planner.notes(),
            settings=plain(self.scale),
            machine=machine(self.device),
            versions=versions(),
            commit=commit(),
            command=command,
            seconds=total_seconds(self.runner, stages),
        )
        return hold_families(results, findings_of)


def _left_out(refused: Mapping[str, str]) -> list[str]:
    """Say what is left out and why, a sentence for each reason.

    Args:
        refused: a name in the recipe's plan → the reason.
    """
    return [
        f"Left out: {', '.join(key for key, each in refused.items() if each == reason)}. {reason}"
        for reason in dict.fromkeys(refused.values())
    ]


def _seed_by_seed(plan: StagesByName) -> list[Stage]:
    """The stages of a plan, the first seed's before the second's."""
    most = max((len(stages) for stages in plan.values()), default=0)
    return [stages[i] for i in range(most) for stages in plan.values() if i < len(stages)]
