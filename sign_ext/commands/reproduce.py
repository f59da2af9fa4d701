"""Reproduce tables and figures of the paper on real data, the paper's numbers next to ours.

Writes OUT/results.json (everything), results.md and index.html (one file,
opens anywhere). Everything computed is kept in OUT/artefacts and reused:
tables share trained networks and transformed images, a second run computes
nothing, and a run that was killed continues. Several runs may use one OUT at
the same time.

--scale smoke   bundled digits stand for the data; all of it in minutes
--scale small   real images, reduced to what two processor cores can do
--scale medium  slices of one seed, for one core and at most 80 minutes each
--scale gpu     slice A with 16,000 images, for minutes of a GPU
--scale paper   the paper's settings; for a GPU
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.names import check_name
from sign_ext.commands.options import (
    CommonOptions,
    NonNegativeInt,
    PositiveInt,
    command_line,
    option,
)
from sign_ext.commands.shared import check_folder, require_one_process, resolve_device
from sign_ext.experiments.names import EXPERIMENTS
from sign_ext.formatting import counted

if TYPE_CHECKING:
    from sign_ext.experiments.reproduce import Reproduction
    from sign_ext.experiments.scale import Scale

EXAMPLES = (
    "sign-ext reproduce all --scale smoke",
    "sign-ext reproduce table1 table5 --scale small --data-root DIR \\",
    "    --out runs/small",
    "sign-ext reproduce table1 --scale paper --only-seeds 0 1 2 \\",
    "    --out runs/slice-0 --data-root DIR",
    "sign-ext reproduce all --scale paper --dry-run --data-root DIR",
)

__doc__ = f"{__doc__}\nNAME is one of:\n" + "".join(
    f"  {name:<11} {summary}\n" for name, summary in EXPERIMENTS.items()
)


def _scale(name: str) -> Scale:
    """Return the settings of --scale."""
    from sign_ext.experiments.scale import load_scale

    try:
        return load_scale(name)
    except FileNotFoundError as error:
        raise UsageError(f"--scale: {error}") from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of `sign-ext reproduce`."""

    names: tuple[str, ...] = option(
        nargs="+", metavar="NAME", positional=True, help="Experiments (listed above), or all."
    )
    scale: str = option(
        "small",
        help="smoke, small, medium, gpu or paper, or a YAML file of the same form.",
        metavar="SCALE",
        check=_scale,
    )
    out: str = option("runs/reproduce", help="Folder for artefacts and report.", metavar="DIR")
    seeds: int | None = option(
        None, type=PositiveInt, help="Number of seeds, from --seed on. Default: the scale's."
    )
    only_seeds: tuple[int, ...] | None = option(
        None,
        type=NonNegativeInt,
        nargs="+",
        metavar="SEED",
        help="Only these seeds; `sign-ext report` joins the results.json of several runs.",
    )
    seed: int = option(0, type=NonNegativeInt, help="The first seed.")
    dry_run: bool = option(
        False, type=bool, help="List the missing stages and their cost, and stop."
    )

    def check(self) -> None:
        """Check the experiments' names and the seeds."""
        _names(self.names)
        _seeds(self, default=1)


def run(options: Options) -> None:
    """Reproduce, and print the findings and the path of the page."""
    require_one_process("reproduce")
    scale = _scale(options.scale)
    names = _names(options.names, scale)
    device = resolve_device(options.device)
    out = Path(options.out) if options.dry_run else check_folder(options.out)

    from sign_ext.experiments.reproduce import Reproduction

    work = Reproduction(
        names=names,
        scale=scale,
        seeds=_seeds(options, scale.seeds),
        out=out,
        data_root=options.data_root,
        device=str(device),
        reporter=console,
    )
    if options.dry_run:
        _print_plan(work, options.json)
        return
    results = work.run(
        command_line("reproduce", options),
        lambda name: command_line("reproduce", dataclasses.replace(options, names=(name,))),
    )
    page = out / "index.html"
    if options.json:
        found = {e.name: list(e.findings) for e in results.experiments}
        console.print_json(
            {"page": str(page), "results": str(out / "results.json"), "findings": found}
        )
        return
    for experiment in results.experiments:
        print(experiment.title)
        for sentence in experiment.findings:
            print(f"  {sentence}")
    print(page)


def _names(given: tuple[str, ...], scale: Scale | None = None) -> list[str]:
    """Return the requested experiments in the paper's order; "all" is all that the scale is for."""
    for name in given:
        check_name("NAME", name, ("all", *EXPERIMENTS))
    accepted = tuple(EXPERIMENTS) if scale is None else scale.accepted
    if outside := [name for name in given if name not in ("all", *accepted)]:
        assert scale is not None
        raise UsageError(
            f"--scale {scale.name} is not made for {outside[0]}; accepted: all, "
            f"{', '.join(accepted)}"
        )
    return [name for name in accepted if "all" in given or name in given]


def _seeds(options: Options, default: int) -> tuple[int, ...]:
    if options.only_seeds is None:
        return tuple(range(options.seed, options.seed + (options.seeds or default)))
    if options.seeds is not None:
        raise UsageError("--seeds is a number of seeds, --only-seeds lists them: give one")
    if len(set(options.only_seeds)) < len(options.only_seeds):
        raise UsageError(f"--only-seeds lists a seed twice: {options.only_seeds}")
    return options.only_seeds


def _print_plan(work: Reproduction, as_json: bool) -> None:
    from sign_ext.formatting import duration

    stages = work.stages()
    rate = _rate(work)
    rows: list[dict[str, Any]] = [
        {
            "stage": stage.title(),
            "key": f"{stage.kind}-{stage.key}",
            "done": work.runner.done(stage),
            "seconds": stage.flops() / rate,
        }
        for stage in stages
    ]
    left = sum(row["seconds"] for row in rows if not row["done"])
    if as_json:
        console.print_json({"stages": rows, "seconds_left": left})
        return
    from rich.table import Table

    table = Table(
        title=f"{counted(len(rows), 'stage')}, {sum(r['done'] for r in rows)} of them done"
    )
    table.add_column("stage")
    table.add_column("artefact", style="dim")
    table.add_column("about", justify="right")
    for row in rows:
        table.add_row(row["stage"], row["key"], "done" if row["done"] else duration(row["seconds"]))
    console.print_rich(table)
    print(f"about {duration(left)} of computing on {work.device}, from the number of operations")


def _rate(work: Reproduction) -> float:
    """Return operations per second: measured on finished stages, otherwise by a probe."""
    from sign_ext.experiments.stages.cost import measured_rate, probed_rate

    return measured_rate(work.runner, work.stages()) or probed_rate(work.runner.device)
