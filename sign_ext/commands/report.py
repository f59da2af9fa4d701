"""Join results of `sign-ext reproduce`, and write their report.

Several files of the same experiments with different seeds become one, as if
one run had had all the seeds: means, spreads and comparisons are recomputed.
So seeds can be divided among machines. Of a single file, the pages are written
again. A folder that has no results.json of its own stands for those in the
folders below it, and for files slice_*.json: slices, of one seed each. Slices
of the same experiment are joined, and the report is in OUT/EXPERIMENT.
A report is index.html (one self-contained page), results.md with its figures/,
and results.json, which holds every number.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_ext.commands import console
from sign_ext.commands.options import OutputOptions, option
from sign_ext.commands.shared import check_folder

if TYPE_CHECKING:
    from sign_ext.report.schema import Results

SLICE = "slice_*.json"  # one slice of one seed, as docs/results keeps them

EXAMPLES = (
    "sign-ext report runs/seed-0 runs/seed-1 runs/seed-2 --out runs/joined",
    "sign-ext report results.json --out runs/page",
    "sign-ext report docs/results/medium --out docs/results/medium/joined",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(OutputOptions):
    """Options of `sign-ext report`."""

    results: tuple[str, ...] = option(
        nargs="+",
        positional=True,
        help="results.json that `sign-ext reproduce` wrote, or the folder it is in, or a folder of "
        "such folders; with several, each must have other seeds.",
        metavar="RESULTS",
    )
    out: str = option(help="Folder for the report; an earlier report is replaced.", metavar="DIR")


def run(options: Options) -> None:
    """Read, join and write."""
    from sign_ext.experiments.registry import findings_of
    from sign_ext.report.merge import merge

    groups = _groups(options)
    joined = {out: merge(results, summarize=findings_of) for out, results in groups.items()}
    written = [_write(out, results, options) for out, results in joined.items()]
    if options.json:
        console.print_json(written[0] if list(groups) == [Path(options.out)] else written)


def _groups(options: Options) -> dict[Path, list[Results]]:
    """What is joined: the folder of a report → its results.

    All that are named belong together. Of those found below a folder, the ones of the same
    experiments do, and each group gets a folder of its own in OUT.
    """
    from sign_ext.report.results_page import JSON
    from sign_ext.report.schema import Results

    out, named = Path(options.out), []
    groups: dict[str, list[Results]] = {}
    for given in map(Path, options.results):
        slices = _slices(given, out)
        for path in slices:
            results = Results.read(path)
            names = "+".join(each.name for each in results.experiments)
            groups.setdefault(names, []).append(results)
        if not slices:
            named.append(Results.read(given / JSON if given.is_dir() else given))
    if named and groups:
        raise console.UsageError(
            "results and folders of slices cannot be joined with each other; give either alone."
        )
    if named:
        return {out: named}
    return {out / name: results for name, results in groups.items()}


def _slices(folder: Path, out: Path) -> list[Path]:
    """The results below a folder that has none of its own, but for those of an earlier report."""
    from sign_ext.report.results_page import JSON

    if not folder.is_dir() or (folder / JSON).exists():
        return []
    found = sorted({path for name in (JSON, SLICE) for path in folder.rglob(name)})
    return [path for path in found if out.resolve() not in path.resolve().parents]


def _write(folder: Path, results: Results, options: Options) -> dict[str, Any]:
    """Write one report, and say so unless --json does at the end."""
    from sign_ext.report.results_page import write_report

    out = check_folder(str(folder))
    files = write_report(out, results)
    if not options.json:
        _print(results)
        print(files[-1])
    return {
        "out": str(out),
        "files": [str(path.relative_to(out)) for path in files],
        "seeds": results.seeds,
        "experiments": [each.name for each in results.experiments],
    }


def _print(results: Results) -> None:
    from sign_ext.report.wording import format_seeds

    print(f"scale {results.scale}, {format_seeds(results)}")
    for experiment in results.experiments:
        print(experiment.title)
        for sentence in experiment.findings[:2]:
            print(f"  {sentence}")
