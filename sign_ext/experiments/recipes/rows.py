"""Rows that several tables share: networks × methods × protocols, each measured on test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sign_ext.experiments.planner import PROTOCOLS, Protocol, StagePlanner
from sign_ext.experiments.recipes.methods import METHODS
from sign_ext.experiments.recipes.recipe import Found, Plan, keys
from sign_ext.report.schema import Cell, Column, Comparison, Row
from sign_ext.report.verdict import compare_rows

# Which row is judged against which.
PAIRS = (
    ("sign", "classical"),
    ("sign", "mixup"),
    ("sign_alone", "classical"),
    ("deepaugment_sign", "deepaugment"),
    ("sign_alone", "none"),
)


@dataclass(frozen=True)
class Entry:
    """A row of a table: a network trained by a method.

    Attributes:
        network: its name in the scale.
        method: a key of METHODS.
        protocol: equal epochs (the paper's) or equal gradient steps.
    """

    network: str
    method: str
    protocol: Protocol

    @property
    def name(self) -> str:
        """Its name in plans."""
        return f"{self.network}/{self.method}/{self.protocol}"


def entries(networks: Mapping[str, Sequence[str]]) -> list[Entry]:
    """All rows: for each network both protocols, for each of these its methods.

    Args:
        networks: a network's name → keys of METHODS.
    """
    protocols: tuple[Protocol, ...] = ("epochs", "steps")
    return [
        Entry(network, method, protocol)
        for network, methods in networks.items()
        for protocol in protocols
        for method in methods
    ]


def classified(planner: StagePlanner, rows: Iterable[Entry]) -> Plan:
    """Train and classify each row with each seed."""
    return {
        row.name: tuple(
            planner.classify(
                planner.train(row.network, row.method, seed, protocol=row.protocol), row.network
            )
            for seed in planner.seeds
        )
        for row in rows
    }


def group(planner: StagePlanner, entry: Entry) -> str:
    """The heading that a row stands under."""
    return f"{planner.network(entry.network).label}, {PROTOCOLS[entry.protocol]}"


def row(planner: StagePlanner, entry: Entry, found: Found, cells: Mapping[str, Cell]) -> Row:
    """A finished row."""
    method = METHODS[entry.method]
    return Row(
        label=method.label,
        group=group(planner, entry),
        cells=cells,
        note=method.note,
        stages=keys(found[entry.name]),
    )


def comparisons(
    rows: Mapping[Entry, Row], columns: Sequence[Column], images: int | None
) -> tuple[Comparison, ...]:
    """Judge each pair of PAIRS that both protocols' rows have, in each of these columns."""
    told = []
    for entry, judged in rows.items():
        for method, baseline in PAIRS:
            other = rows.get(Entry(entry.network, baseline, entry.protocol))
            if entry.method == method and other is not None:
                told += [
                    compare_rows(
                        c.key,
                        judged,
                        other,
                        images=images,
                        kind=c.kind,
                        higher_is_better=c.higher_is_better,
                    )
                    for c in columns
                ]
    return tuple(told)
