"""What a recipe is, and what recipes share: stages for each seed, rows, and pairs to compare.

`sign-ext report` joins results of different seeds, possibly made by different versions of this
package, only where titles, captions, columns, labels, notes and settings of their tables agree: do
not reword those without need.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sign_ext.experiments.planner import METHODS, PROTOCOLS, Protocol, StagePlanner
from sign_ext.experiments.stages.measure import read_answers
from sign_ext.experiments.stages.networks import Train
from sign_ext.experiments.stages.stage import Outcome, Stage
from sign_ext.report.schema import Cell, Column, Comparison, Experiment, Family, Row
from sign_ext.report.verdict import compare_rows

T = TypeVar("T")

# A name of the recipe's own → a stage, or its outcome, for each seed.
StagesByName = dict[str, tuple[Stage, ...]]
OutcomesByName = Mapping[str, Sequence[Outcome]]

# (method, baseline) of the rows that are compared.
PAIRS = (
    ("sign", "noise"),
    ("sign", "classical"),
    ("sign", "mixup"),
    ("sign_alone", "classical"),
    ("deepaugment_sign", "deepaugment"),
    ("sign_alone", "none"),
    ("sign_own", "classical"),
    ("sign", "sign_own"),
    # Controls: SIGN against what lacks one of its properties.
    *(
        ("sign", control)
        for control in (
            "none",
            "shuffled",
            "negated",
            "signs",
            "other",
            "untrained",
            "input",
            "momentum",
            "true_class",
            "distilled",
        )
    ),
    ("sign_alone", "shuffled_alone"),
    ("mixup_alone", "none"),
    # What the field would use: instead of SIGN, and with it.
    *(
        ("sign", each)
        for each in (
            "trivialaugment",
            "randaugment",
            "augmix",
            "cutmix",
            "adversarial_fast",
            "adversarial",
            "advprop",
        )
    ),
    ("trivialaugment_sign", "trivialaugment"),
)

# The pair of the primary family: the question whether SIGN's δ does more than noise as large.
PRIMARY_PAIR = ("sign", "noise")
# The pairs of the secondary family, from which the paper draws its conclusions. Both families are
# of comparisons at equal gradient steps; a recipe names the columns.
SECONDARY_PAIRS = (
    ("sign", "classical"),
    ("deepaugment_sign", "deepaugment"),
    ("sign_alone", "none"),
)


@dataclass(frozen=True)
class Recipe:
    """One table or figure.

    Attributes:
        name: for `sign-ext reproduce`; `experiments.names` has a line about it.
        plan: makes the stages, which are not run yet.
        summarize: makes the finished experiment from their outcomes, under the same names.
        by_rows: whether `summarize` makes a table of the rows whose outcomes there are; otherwise
            it needs all.
    """

    name: str
    plan: Callable[[StagePlanner], StagesByName]
    summarize: Callable[[StagePlanner, OutcomesByName], Experiment]
    by_rows: bool = False


@dataclass(frozen=True)
class RowSpec:
    """A row of a table to be made: a network trained by a method.

    Attributes:
        network: its name in the scale.
        method: a key of METHODS.
        protocol: equal gradient steps, equal epochs (the paper's) or equal computation.
    """

    network: str
    method: str
    protocol: Protocol

    @property
    def name(self) -> str:
        """Its name among a recipe's stages."""
        return f"{self.network}/{self.method}/{self.protocol}"


def row_specs(
    networks: Mapping[str, Iterable[str]], protocols: Sequence[Protocol]
) -> list[RowSpec]:
    """All rows: for each network all protocols, for each of these its methods.

    Args:
        networks: a network's name → keys of METHODS.
        protocols: in order.
    """
    return [
        RowSpec(network, method, protocol)
        for network, methods in networks.items()
        for protocol in protocols
        for method in methods
    ]


def present(specs: Iterable[RowSpec], outcomes: OutcomesByName) -> list[RowSpec]:
    """The rows that have outcomes: those of a Φ that was refused have none.

    Args:
        specs: all rows.
        outcomes: of the recipe's stages.
    """
    return [spec for spec in specs if spec.name in outcomes]


def shown(planner: StagePlanner) -> tuple[Protocol, ...]:
    """The protocols that pictures of one seed are drawn for."""
    return planner.protocols if planner.scale.protocol > 1 else ("epochs",)


def stages_of_rows(
    planner: StagePlanner, specs: Iterable[RowSpec], make: Callable[[RowSpec, int], Stage]
) -> StagesByName:
    """A stage for each row and seed.

    Args:
        planner: has the seeds.
        specs: the rows.
        make: makes the stage of a row and a seed.
    """
    return {spec.name: tuple(make(spec, seed) for seed in planner.seeds) for spec in specs}


def classify_rows(planner: StagePlanner, specs: Iterable[RowSpec]) -> StagesByName:
    """Train and classify each row with each seed."""

    def classify(spec: RowSpec, seed: int) -> Stage:
        trained = planner.train(spec.network, spec.method, seed, protocol=spec.protocol)
        return planner.classify(trained, spec.network)

    return stages_of_rows(planner, specs, classify)


def cell(
    outcomes: Sequence[Outcome], *path: str, paper: float | None = None, samples: str = ""
) -> Cell:
    """One number of each seed's outcome.

    Args:
        outcomes: one for each seed.
        path: keys into the numbers; a missing one gives an empty value.
        paper: the paper's number.
        samples: which of the answers to each image the number is the mean of (see
            `Answers.samples`), in columns that are compared; "" keeps none.
    """
    values = [_value_at(outcome.numbers, path) for outcome in outcomes]
    return Cell(
        tuple(None if value is None else float(value) for value in values),
        paper,
        samples_of(outcomes, samples) if samples else (),
    )


def samples_of(outcomes: Sequence[Outcome], name: str) -> tuple[str, ...]:
    """The values of each image, one text a seed, "" for outcomes without them; () without any."""
    texts = []
    for outcome in outcomes:
        answers = read_answers(outcome)
        samples = None if answers is None else answers.samples(name)
        texts.append("" if samples is None else samples.to_text())
    return tuple(texts) if any(texts) else ()


def _value_at(numbers: Any, path: Sequence[str]) -> Any:
    for key in path:
        if numbers is None:
            return None
        numbers = numbers.get(key)
    return numbers


def paper_numbers(
    by_method: Mapping[str, Mapping[str, T]] | None, spec: RowSpec
) -> Mapping[str, T]:
    """What the paper has of a row; nothing for equal gradient steps, which it does not compare.

    Args:
        by_method: method → column → number; None where the paper lacks the network.
        spec: the row.
    """
    if by_method is None or spec.protocol != "epochs":
        return {}
    return by_method.get(spec.method, {})


def table_row(
    planner: StagePlanner, spec: RowSpec, outcomes: Sequence[Outcome], cells: Mapping[str, Cell]
) -> Row:
    """A finished row under the heading of its network and protocol."""
    method = METHODS[spec.method]
    return Row(
        label=method.label,
        group=f"{planner.network(spec.network).label}, {PROTOCOLS[spec.protocol]}",
        cells=cells,
        note=method.note,
        stages=artefacts(outcomes),
        doubts=doubts(planner, outcomes),
    )


def doubts(planner: StagePlanner, outcomes: Sequence[Outcome]) -> tuple[str | None, ...]:
    """Why the networks that were measured are not shown to have learnt, see `Row.doubts`.

    Args:
        planner: knows their trainings.
        outcomes: one for each seed, of stages that measure networks among their inputs, or whose
            numbers have the doubt.
    """
    return tuple(_doubt(planner, outcome) for outcome in outcomes)


def _doubt(planner: StagePlanner, outcome: Outcome) -> str | None:
    told = outcome.numbers.get("doubt_of_learning")
    if told is not None:
        return str(told)
    trained = [each for each in outcome.stage.inputs().values() if isinstance(each, Train)]
    found = [planner.doubt_of_learning(each) for each in trained]
    if not found or None in found:
        return None
    return next(filter(None, found), "")


def artefacts(outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The folders behind the first seed's outcome: of the stage itself and of those it reads."""
    first = outcomes[0].stage
    return tuple(stage.artefact for stage in (first, *first.inputs().values()))


def compare_pairs(
    rows: Mapping[RowSpec, Row],
    columns: Sequence[Column],
    images: int | None,
    *,
    secondary: Collection[str] = (),
    primary: tuple[str, str] | None = None,
) -> tuple[Comparison, ...]:
    """Compare each pair of PAIRS within a network and protocol, in each of these columns.

    Where no seed has a value of both, as of the uncertainty of low answers where there are none,
    there is nothing to compare.

    Args:
        rows: all rows of a table.
        columns: to compare in.
        images: test images that shares were counted on, see `compare_rows`.
        secondary: keys of the columns in which SECONDARY_PAIRS belong to the secondary family.
        primary: network and column of the primary comparison, where this table has it.
    """

    def family(spec: RowSpec, baseline: str, column: str) -> Family:
        if spec.protocol != "steps":
            return ""
        if (spec.method, baseline) == PRIMARY_PAIR and (spec.network, column) == primary:
            return "primary"
        paired = (spec.method, baseline) in SECONDARY_PAIRS
        return "secondary" if paired and column in secondary else ""

    compared = []
    for spec, row in rows.items():
        for method, baseline in PAIRS:
            baseline_row = rows.get(RowSpec(spec.network, baseline, spec.protocol))
            if spec.method == method and baseline_row is not None:
                compared += [
                    compare_rows(
                        column.key,
                        row,
                        baseline_row,
                        images=images,
                        kind=column.kind,
                        higher_is_better=column.higher_is_better,
                        margin=column.margin,
                        family=family(spec, baseline, column.key),
                    )
                    for column in columns
                    if _some_seed_has_both(row.cells[column.key], baseline_row.cells[column.key])
                ]
    return tuple(compared)


def _some_seed_has_both(method: Cell, baseline: Cell) -> bool:
    pairs = zip(method.values, baseline.values, strict=True)
    return any(a is not None and b is not None for a, b in pairs)
