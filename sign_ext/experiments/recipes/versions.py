"""What recipes about p*_K share: cells of what stages measured of each version, and their pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sign_ext.evaluation import Samples
from sign_ext.experiments.stages.measure import read_answers
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.experiments.stages.versions import answer_name
from sign_ext.report.schema import Cell, Column, Comparison, Row, Table
from sign_ext.report.sentences import Word, in_words, judgement
from sign_ext.report.verdict import compare_rows


def version_cell(outcomes: Sequence[Outcome], version: str, measure: str) -> Cell:
    """The mean of a measure over the images of a version, with each image's value.

    Args:
        outcomes: of one of `stages.versions`' or of a `PlaneExample`, one a seed.
        version: a key of their numbers' "versions".
        measure: of each image.
    """
    values = tuple(float(each.numbers["versions"][version][measure]) for each in outcomes)
    texts = []
    for outcome in outcomes:
        answers = read_answers(outcome)
        if answers is None:
            return Cell(values)
        kept = answers.values[answer_name(measure, version)].astype(np.float64)
        texts.append(Samples("mean", kept).to_text())
    return Cell(values, samples=tuple(texts))


def compare(
    rows: Iterable[Row], pairs: Sequence[tuple[str, str]], columns: Sequence[Column], images: int
) -> tuple[Comparison, ...]:
    """Compare rows of one group with each other, in each of these columns.

    Args:
        rows: of a table.
        pairs: (method, baseline), labels.
        columns: to compare in.
        images: test images.
    """
    by_group: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_group.setdefault(row.group, {})[row.label] = row
    return tuple(
        compare_rows(
            column.key,
            group[method],
            group[baseline],
            images=images,
            kind=column.kind,
            higher_is_better=column.higher_is_better,
            margin=column.margin,
        )
        for group in by_group.values()
        for method, baseline in pairs
        if method in group and baseline in group
        for column in columns
    )


def k_label(k: int | str, of: str = "") -> str:
    """The label of a row about p*_K.

    Example:
        >>> k_label(50), k_label(0), k_label(100, "SIGN")
        ('p*, K = 50', 'p', 'SIGN: p*, K = 100')
    """
    text = "p" if str(k) == "0" else f"p*, K = {k}"
    return f"{of}: {text}" if of else text


def settled(table: Table, question: str, pairs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Answer a question by a table's comparisons: a count, then each pair that is decided.

    Args:
        table: with these comparisons.
        question: in the table's terms; what is "better" in the columns is what it asks for.
        pairs: (method, baseline), labels.
    """
    wanted = tuple(pairs)
    columns = {column.key: column for column in table.columns}
    words: list[Word] = []
    found: dict[tuple[str, str, str], list[str]] = {}
    for each in table.comparisons:
        if (each.method, each.baseline) in wanted:
            judged = judgement(each, table)
            words.append(judged.word)
            if judged.word != "undecided":
                place = (each.group, each.method, each.baseline)
                text = f"{columns[each.column].label} {judged.numbers}, {judged.word}"
                found.setdefault(place, []).append(text)
    decided = (
        f"{f'{group}: ' if group else ''}{method} against {baseline}: {'; '.join(parts)}."
        for (group, method, baseline), parts in found.items()
    )
    return (f"{question} {in_words(words)}.", *decided)
