"""Plan experiments, run their stages, summarize the outcomes, and write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sign_ext.environment import commit, machine, versions
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

    def run(self, command: str = "") -> Results:
        """Run what is missing, and write the report after each finished experiment.

        Args:
            command: the command line, for the report.

        Returns:
            What OUT/results.json holds.
        """
        finished: list[Experiment] = []
        for name in self.names:
            stages = _seed_by_seed(self.plan(name))
            missing = self.runner.missing(stages)
            self.runner.run(stages)
            finished.append(self._summarize(name))
            if missing or name == self.names[-1]:
                # If the run is stopped later, the report has everything finished so far.
                results = self._results(finished, command)
                write_report(self.runner.out, results)
        return results

    def _summarize(self, name: str) -> Experiment:
        plan = self.plan(name)
        outcomes = {key: self.runner.run(stages) for key, stages in plan.items()}
        seeds = " ".join(map(str, self.seeds))
        stages = _seed_by_seed(plan)
        return replace(
            RECIPES[name].summarize(self.planner, outcomes),
            command=f"sign-ext reproduce {name} --scale {self.scale.name} --only-seeds {seeds}",
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


def _seed_by_seed(plan: StagesByName) -> list[Stage]:
    """The stages of a plan, the first seed's before the second's."""
    most = max((len(stages) for stages in plan.values()), default=0)
    return [stages[i] for i in range(most) for stages in plan.values() if i < len(stages)]
