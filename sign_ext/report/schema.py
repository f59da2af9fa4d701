"""The results of `sign-ext reproduce` as plain data: tables, figures and comparisons.

The JSON of a `Results` is authoritative: Markdown and HTML are made from it and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sign_ext.evaluation.crossed import Verdict
from sign_ext.files import json_text, read_json, require_schema, write_whole
from sign_ext.formatting import ADDED, finite, plain

FORMAT = "sign_ext.results"
FORMAT_VERSION = 1

Kind = Literal["share", "number", "count"]
Family = Literal["", "primary", "secondary"]
FigureKind = Literal["samples", "lines", "scatter", "reliability", "plane"]


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: its name in `Row.cells`.
        label: its heading.
        kind: "share" (0–1, shown in percent), "number" or "count".
        higher_is_better: False for uncertainties, calibration errors and the like.
        margin: the smallest difference that matters, in the cells' unit, within which two methods
            count as equal; None if none is stated.
    """

    key: str
    label: str
    kind: Kind = "share"
    higher_is_better: bool = True
    margin: float | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class Cell:
    """One measured quantity over seeds, and the paper's value.

    Attributes:
        values: one per seed, in the order of `Results.seeds`; None where undefined (a mean over no
            images, for example).
        paper: the paper's number in the same unit; None if the paper has none.
        samples: for each seed the values of the images behind it, as `evaluation.Samples` writes
            them, or "" where they were not kept; empty in columns that are not compared.
    """

    values: tuple[float | None, ...]
    paper: float | None = None
    samples: tuple[str, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class Row:
    """A method.

    Attributes:
        label: the method's name, the paper's if it has one.
        group: the heading above the rows of a group: the network and the protocol (equal epochs,
            or equal gradient steps).
        cells: a column's key → cell.
        note: what a reader must know about this row; "" for nothing.
        stages: keys of the first seed's artefacts that it was computed from, for tracing.
        doubts: for each seed why its network is not shown to have learnt, "" where it is, None
            where that was not recorded; empty if it was for no seed. `report.learnt` reads them.
    """

    label: str
    group: str
    cells: Mapping[str, Cell]
    note: str = ""
    stages: tuple[str, ...] = ()
    doubts: tuple[str | None, ...] = field(default=(), metadata=ADDED)


@dataclass(frozen=True)
class Comparison:
    """Two rows in one column, seed by seed, and where `paired_by` is "images" image by image.

    Attributes:
        column: its key.
        group: of the first row.
        method: label of the row that is judged.
        baseline: label of the row it is compared with.
        baseline_group: of that row.
        difference: mean over seeds of method − baseline.
        deviation: sample standard deviation of the paired differences; None for one seed.
        p_value: of the two-sided test of no difference; None where it cannot be computed. Paired by
            images, it is `evaluation.crossed`'s; paired by seeds alone, the paired t-test's.
        low, high: 95% confidence interval of the difference, of the same test; None for one seed.
        detectable: smallest true difference that the same test finds with 80% power at the 5%
            level, with as many seeds and errors as large; None for one seed.
        test_error: standard error of the difference from the finite test set alone. Paired by
            seeds, binomial, the two taken as independent; None if the column is not a share of
            test images. Paired by images, what all seeds share.
        seeds: how many.
        verdict: "better", "worse", "no difference" or "undecided"; see `evaluation.decide`.
        paired_by: "images", if the images' values were kept; "seeds" otherwise, also in results of
            earlier versions, whose verdicts follow the rule of `report.verdict.old_verdict`.
        seed_error: standard error from all that differs between seeds; None if paired by seeds.
        bootstrap_low, bootstrap_high: 95% interval of the bootstrap over seeds and images;
            likewise.
        t_p_value: of the paired t-test over seeds, which takes the test set as given; likewise.
        margin: the column's; None if none is stated.
        equivalence: p-value of a difference within ±margin, by two one-sided tests; None without a
            margin, or if paired by seeds.
        family: "primary", "secondary", or "" for comparisons that only describe.
        adjusted: `p_value` by Holm's procedure over the family; None outside a family.
        adjusted_equivalence: `equivalence`, likewise.
    """

    column: str
    group: str
    method: str
    baseline: str
    baseline_group: str
    difference: float
    deviation: float | None
    p_value: float | None
    low: float | None
    high: float | None
    detectable: float | None
    test_error: float | None
    seeds: int
    verdict: Verdict
    paired_by: Literal["images", "seeds"] = field(default="seeds", metadata=ADDED)
    seed_error: float | None = field(default=None, metadata=ADDED)
    bootstrap_low: float | None = field(default=None, metadata=ADDED)
    bootstrap_high: float | None = field(default=None, metadata=ADDED)
    t_p_value: float | None = field(default=None, metadata=ADDED)
    margin: float | None = field(default=None, metadata=ADDED)
    equivalence: float | None = field(default=None, metadata=ADDED)
    family: Family = field(default="", metadata=ADDED)
    adjusted: float | None = field(default=None, metadata=ADDED)
    adjusted_equivalence: float | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class Table:
    """Our rows, with the paper's numbers.

    Attributes:
        title: the paper's own name where it has one, e.g. "Table 1".
        caption: what is measured.
        columns: in order.
        rows: in order; rows of one group stand next to each other.
        comparisons: between rows.
        images: number of test images that the compared columns are shares of; None if they are
            not such shares. `merge` needs it to repeat the comparisons.
    """

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...] = ()
    images: int | None = None


@dataclass(frozen=True)
class Figure:
    """A figure as data.

    Attributes:
        title: e.g. "Figure 3".
        caption: what is shown.
        alt: the text alternative.
        kind: what `data` holds:
            "samples": {"columns": [label, …], "rows": [{"label": str, "images": [base64 PNG, …]}]};
            "lines": {"x": str, "y": str, "log_x": bool, "percent": bool, "lines": [{"label": str,
            "x": [float, …], "y": [float, …], "low": [float, …] | null, "high": the same}]};
            "scatter": {"classes": [name, …], "panels": [{"title": str, "x": [float, …],
            "y": [float, …], "label": [int, …]}], "columns": panels a row};
            "reliability": {"panels": [{"title": str, "confidence": [float | null, …] (mean of each
            bin), "accuracy": the same, "count": [int, …]}]};
            "plane": {"classes": [name, …], "columns": panels a row, "panels": [{"title": str,
            "x", "y": [float, …], "label": [int, …], "curves": [{"x", "y", "label"}],
            and where there are any "rings": {"x", "y"} around points, "paths": [{"x", "y"}],
            "arrows": {"x", "y", "u", "v"}, "contour": {"x", "y", "z": rows} (drawn at 0)}]}.
        data: see `kind`.
    """

    title: str
    caption: str
    alt: str
    kind: FigureKind
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Experiment:
    """One table or figure of the paper, or an additional one.

    Attributes:
        name: as `sign-ext reproduce` takes it.
        title: the heading, e.g. "Table 1: CIFAR-10 accuracy".
        about: one paragraph: what was done, on which data, and what the paper leaves open.
        stand_ins: what replaces the paper's data; empty if nothing does.
        settings: name → value, all that a reader needs to repeat it (step size, epochs, …). A value
            that differs between seeds, such as a calibrated step size, is {seed: value, …}, so that
            `merge` can join it.
        tables: in order.
        figures: in order.
        findings: sentences computed from the numbers.
        command: the command that reproduces this experiment.
        seconds: computing time of its stages when they ran.
        made: "commit", "device" and "threads" of its stages, several separated by commas; empty in
            results of earlier versions.
    """

    name: str
    title: str
    about: str
    stand_ins: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    findings: tuple[str, ...] = ()
    command: str = ""
    seconds: float = 0.0
    made: Mapping[str, str] = field(default_factory=dict, metadata=ADDED)


@dataclass(frozen=True)
class Results:
    """All results of one `sign-ext reproduce`.

    Attributes:
        scale: "smoke", "small" or "paper".
        seeds: in order.
        experiments: in the paper's order.
        data: one line per data set: what it is, and how many images it has.
        settings: of the scale, name → value.
        machine: see `environment.machine`.
        versions: see `environment.versions`.
        commit: of the checkout, "" outside one; "+changes" is appended if files differ from it.
        command: the command that was run.
        seconds: computing time of all stages when they ran.
    """

    scale: str
    seeds: tuple[int, ...]
    experiments: tuple[Experiment, ...]
    data: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str = ""
    command: str = ""
    seconds: float = 0.0

    def write(self, path: Path) -> None:
        """Write the results as JSON, atomically."""
        record = {"format": FORMAT, "format_version": FORMAT_VERSION, **finite(plain(self))}
        write_whole(path, json_text(record, indent=1, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: it holds no results, or has another format version.
        """
        record = read_json(path)
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError(
                f"{path} holds no results of `sign-ext reproduce` (format {FORMAT!r}): give the "
                "results.json of its --out folder."
            )
        if record.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has format version {record.get('format_version')!r}; accepted: "
                f"{FORMAT_VERSION}. Reproduce again, or use the version of sign-ext that wrote it."
            )
        again = "Reproduce again, or use the version of sign-ext that wrote it."
        try:
            require_schema(_Schema, record, str(path))
        except ValueError as error:
            raise ValueError(f"{error}. {again}") from error
        try:
            return _results(record)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} has missing or unknown fields: {error}. {again}") from error


class _Schema:
    """The dataclasses of this module as a schema."""

    @staticmethod
    def model_validate(record: Mapping[str, Any]) -> None:
        """Raise pydantic's ValidationError unless the record fits `Results`.

        As JSON, where a list may stand for a tuple; strict, so that "5" is no number.
        """
        from pydantic import TypeAdapter

        TypeAdapter(Results).validate_json(json.dumps(record), strict=True)


def _results(record: Mapping[str, Any]) -> Results:
    fields = {k: v for k, v in record.items() if k not in ("format", "format_version")}
    experiments = tuple(_experiment(each) for each in fields.pop("experiments"))
    seeds, data = tuple(fields.pop("seeds")), tuple(fields.pop("data"))
    return Results(experiments=experiments, seeds=seeds, data=data, **fields)


def _experiment(record: Mapping[str, Any]) -> Experiment:
    tables = tuple(_table(each) for each in record["tables"])
    figures = tuple(Figure(**each) for each in record["figures"])
    lists = {k: tuple(record[k]) for k in ("stand_ins", "findings")}
    return Experiment(**{**record, "tables": tables, "figures": figures, **lists})


def _table(record: Mapping[str, Any]) -> Table:
    return Table(
        title=record["title"],
        caption=record["caption"],
        columns=tuple(Column(**each) for each in record["columns"]),
        rows=tuple(_row(each) for each in record["rows"]),
        comparisons=tuple(Comparison(**each) for each in record["comparisons"]),
        images=record["images"],
    )


def _row(record: Mapping[str, Any]) -> Row:
    cells = {
        key: Cell(tuple(cell["values"]), cell["paper"], tuple(cell.get("samples", ())))
        for key, cell in record["cells"].items()
    }
    lists = {"stages": tuple(record["stages"]), "doubts": tuple(record.get("doubts", ()))}
    return Row(**{**record, "cells": cells, **lists})
