"""Tables of methods at equal gradient steps: accuracy on clean and on corrupted test images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    RowSpec,
    cell,
    compare_pairs,
    table_row,
)
from sign_ext.report.schema import Column, Row, Table

# Column → its key in an evaluation, and in the answers to each image.
KEYS = {
    "normal": ("accuracy", "correct"),
    "pixels_off": ("pixels_off_mean", "pixels_off"),
    "noise": ("noise_mean", "noise"),
}


def arms(network: str, methods: Iterable[str]) -> list[RowSpec]:
    """A row for each method, at equal gradient steps, the only protocol in which controls say much.

    Args:
        network: its name in the scale.
        methods: keys of METHODS.
    """
    return [RowSpec(network, method, "steps") for method in methods]


def columns(planner: StagePlanner) -> tuple[Column, ...]:
    """Those of the paper's Table 5."""
    scale = planner.scale
    headings = ("Normal accuracy", f"{scale.pixels} pixels off", f"Noise σ = {scale.sigma:g}")
    return tuple(
        Column(key, heading, margin=scale.margins.accuracy)
        for key, heading in zip(KEYS, headings, strict=True)
    )


def arms_table(
    planner: StagePlanner,
    specs: Sequence[RowSpec],
    outcomes: OutcomesByName,
    title: str,
    *,
    secondary: Collection[str] = (),
    primary: tuple[str, str] | None = None,
) -> Table:
    """The table, with comparisons of all pairs in every column.

    Args:
        planner: has the scale.
        specs: the rows, one or more.
        outcomes: of `Classify` stages, by the rows' names.
        title: of the table.
        secondary, primary: see `compare_pairs`.
    """
    rows: Mapping[RowSpec, Row] = {
        spec: table_row(planner, spec, outcomes[spec.name], _cells(outcomes, spec))
        for spec in specs
    }
    images = outcomes[specs[0].name][0].numbers["images"]
    return Table(
        title=title,
        caption=f"Accuracy on {images:,} test images, clean and corrupted.",
        columns=columns(planner),
        rows=tuple(rows.values()),
        images=images,
        comparisons=compare_pairs(
            rows, columns(planner), images, secondary=secondary, primary=primary
        ),
    )


def _cells(outcomes: OutcomesByName, spec: RowSpec) -> dict[str, Any]:
    return {
        column: cell(outcomes[spec.name], key, samples=samples)
        for column, (key, samples) in KEYS.items()
    }
