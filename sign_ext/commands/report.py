"""Join results of `sign-ext reproduce`, and write their report.

Several files of the same experiments with different seeds become one, as if
one run had had all the seeds: means, spreads and comparisons are recomputed.
So seeds can be divided among machines. Of a single file, the pages are written
again. A folder that has no results.json of its own stands for those in the
folders below it, whose experiments may have different seeds: slices, of one
seed each, are joined so. OUT gets index.html (one self-contained page),
results.md with its figures/, and results.json, which holds every number.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from sign_ext.commands import console
from sign_ext.commands.options import OutputOptions, option
from sign_ext.commands.shared import check_folder

if TYPE_CHECKING:
    from sign_ext.report.schema import Results

EXAMPLES = (
    "sign-ext report runs/seed-0 runs/seed-1 runs/seed-2 --out runs/joined",
    "sign-ext report results.json --out runs/page",
    "sign-ext report docs/results/medium --out runs/medium",
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
    from sign_ext.report.results_page import JSON, write_report
    from sign_ext.report.schema import Results

    out = check_folder(options.out)
    paths: list[Path] = []
    partial = False
    for each in map(Path, options.results):
        slices = _slices(each, Path(out))
        partial |= bool(slices)
        paths += slices or [each / JSON if each.is_dir() else each]
    results = merge([Results.read(path) for path in paths], summarize=findings_of, partial=partial)
    files = write_report(out, results)
    if options.json:
        console.print_json(
            {
                "out": str(out),
                "files": [str(path.relative_to(out)) for path in files],
                "seeds": results.seeds,
                "experiments": [each.name for each in results.experiments],
            }
        )
        return
    _print(results)
    print(files[-1])


def _slices(folder: Path, out: Path) -> list[Path]:
    """The results below a folder that has none of its own, without those of an earlier report."""
    from sign_ext.report.results_page import JSON

    if not folder.is_dir() or (folder / JSON).exists():
        return []
    found = sorted(folder.rglob(JSON))
    return [path for path in found if path.parent.resolve() != out.resolve()]


def _print(results: Results) -> None:
    from sign_ext.report.wording import format_seeds

    print(f"scale {results.scale}, {format_seeds(results)}")
    for experiment in results.experiments:
        print(experiment.title)
        for sentence in experiment.findings[:2]:
            print(f"  {sentence}")
