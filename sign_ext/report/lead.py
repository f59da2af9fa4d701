"""What a report begins with: the verdicts at equal gradient steps, by family, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sign_ext.report.schema import Comparison, Results, Table
from sign_ext.report.verdict import FAMILIES
from sign_ext.report.view import MISSING, ComparisonText, comparison_text

HEADINGS = {
    "primary": "The question: does SIGN do more than noise as large, at equal gradient steps?",
    "secondary": "The paper’s other comparisons, at equal gradient steps, held together by Holm’s "
    "procedure",
}


@dataclass(frozen=True)
class FamilyView:
    """A family of comparisons in words.

    Attributes:
        heading: what it asks.
        sentences: one a comparison, in the order of the tables.
    """

    heading: str
    sentences: tuple[str, ...]


def families(results: Results) -> tuple[FamilyView, ...]:
    """Write the verdicts of each family that the results have; none in results of old versions.

    Args:
        results: with families held (`verdict.hold_families`).
    """
    found: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for experiment in results.experiments:
        for table in experiment.tables:
            for comparison in table.comparisons:
                if comparison.family:
                    found[comparison.family].append(sentence(comparison, table, results.seeds))
    return tuple(
        FamilyView(HEADINGS[family], tuple(sentences))
        for family, sentences in found.items()
        if sentences
    )


def sentence(comparison: Comparison, table: Table, seeds: Sequence[int] = ()) -> str:
    """Write one comparison: who, where, by how much, how sure, and the verdict.

    Args:
        comparison: one of the table's.
        table: gives it its place and unit.
        seeds: of the results, to name those whose networks are not shown to have learnt.
    """
    text = comparison_text(comparison, table, seeds)
    column = text.column.removesuffix(", points")
    unit = " points" if column != text.column else ""
    group = f"{text.group}: " if text.group else ""
    return (
        f"{group}{text.method} against {text.baseline} ({table.title}, {column}) "
        f"{text.difference}{unit}{_interval(text)} – {_judged(comparison, text, unit)}"
        f"{f' ({text.doubt})' if text.doubt else ''}."
    )


def _interval(text: ComparisonText) -> str:
    if text.interval == MISSING:
        return ""
    p = f"p = {text.p}".replace("p = <", "p <").replace("; Holm", ", by Holm")
    return f", 95% interval {text.interval}, {p}"


def _judged(comparison: Comparison, text: ComparisonText, unit: str) -> str:
    if comparison.verdict == "no difference":
        return f"no difference: {text.because.partition(',')[0]}"
    if comparison.verdict != "undecided":
        less = text.because.startswith("by less")
        return text.verdict + (f", {text.because.partition(',')[0]}" if less else "")
    if text.detectable == MISSING:
        return f"undecided: {text.because.partition(',')[0]}"
    return (
        f"undecided: at these errors, 80% power needs a true difference of {text.detectable}{unit}"
    )
