"""The paper's sentences, and what these results say of each: holds, does not hold, undecided.

A sentence names a table, a column and two rows; its verdict is that of their comparison, by the
rule that all comparisons follow (`report.verdict`). So it is worked out anew for whatever results a
report has, joined or of an earlier version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sign_ext.evaluation.crossed import crossed, decide
from sign_ext.formatting import counted
from sign_ext.report.schema import Cell, Column, Comparison, Results, Row, Table
from sign_ext.report.verdict import compare_rows
from sign_ext.report.view import MISSING, column_format, comparison_text, difference_format

Word = Literal["holds", "does not hold", "undecided"]
NOT_RUN = "not run"
BY_STEPS, BY_EPOCHS = "equal gradient steps", "equal epochs"
PROTOCOLS = (BY_STEPS, BY_EPOCHS, "equal computation")
Place = tuple[str, tuple[str, ...]]  # a table's title, and keys of its columns
SEEDS = 3  # that decide a sentence: two can agree by chance
TEST_IMAGES = re.compile(r"on ([\d,]+) test images")  # in the caption of a table that compares none
CHANCE = 0.1  # of CIFAR-10's ten classes


@dataclass(frozen=True)
class Sentence:
    """What the paper says, and which numbers of ours it is about.

    Attributes:
        text: the sentence, in our words.
        where: in the paper; "" for questions of our own.
        tables: titles of ours with keys of columns; the first key that a table has counts.
        method: label of the row that it is about, as a regular expression; of several in a group,
            as of several K, the last counts.
        baseline: likewise, of the row to compare with; "" to compare with `level`.
        higher: whether the sentence says that the method has more; None takes what the column
            calls better.
        level: see `baseline`.
    """

    text: str
    where: str
    tables: tuple[Place, ...]
    method: str
    baseline: str
    higher: bool | None = None
    level: float = 0.0


P_STAR = r"p\*, K = \d+"
LAST_K = r"after K = \d+"
ACCURACY: tuple[Place, ...] = (
    ("Table 1", ("mean",)),
    ("Slice A", ("normal",)),
    ("Slice C", ("normal",)),
)
PIXELS_OFF: tuple[Place, ...] = tuple(
    (title, ("pixels_off",)) for title in ("Table 5", "Slice A", "Slice C")
)
NOISY: tuple[Place, ...] = tuple((title, ("noise",)) for title in ("Table 5", "Slice A", "Slice C"))


def _of_heads(start: str, elsewhere: str, name: str, *columns: str) -> tuple[Place, ...]:
    """A table of networks with an uncertainty head, under the names that it has."""
    return (f"{start}: {name}", columns), (f"{elsewhere}: {name}", columns)


TABLE2, TABLE3 = ("Table 2", "Slice C, test images"), ("Table 3", "Slice C, out of distribution")
LOW = _of_heads(*TABLE2, "# images with p ≤ 0.5", "share", "mean")

SENTENCES = (
    Sentence(
        "mixup gives wrong labels to samples near the boundaries",
        "Section 1, Figure 1",
        (("Figure 1 in numbers", ("wrong",)),),
        "mixup",
        "SIGN, as far as mixup",
        higher=True,
    ),
    Sentence(
        "SIGN’s images lead to improved predictions: Φ is more often right about them",
        "Section 1",
        (("Φ’s answers to p*", ("accuracy",)),),
        P_STAR,
        "p",
    ),
    Sentence(
        "SIGN’s images get more probability of their true class from Φ",
        "Section 1",
        (("Φ’s answers to p*", ("probability",)),),
        P_STAR,
        "p",
    ),
    Sentence(
        "SIGN is more accurate than classical augmentation",
        "3.1, Table 1",
        ACCURACY,
        "SIGN",
        "Classical",
    ),
    Sentence("SIGN is more accurate than mixup", "3.1, Table 1", ACCURACY, "SIGN", "mixup"),
    Sentence(
        "SIGN adds to DeepAugment",
        "3.1, Table 1",
        (("Table 1", ("mean",)), ("Slice B", ("normal",))),
        r"DeepAugment \+ SIGN",
        "DeepAugment",
    ),
    Sentence("our question: SIGN does more than noise as large", "", ACCURACY, "SIGN", "Noise"),
    Sentence(
        "SIGN enhances contrast",
        "3.1, Figure 3",
        (("Figure 3 in numbers", ("contrast",)),),
        LAST_K,
        "before",
    ),
    Sentence(
        "SIGN enhances the boundaries of objects",
        "3.1, Figure 3",
        (("Figure 3 in numbers", ("edges",)),),
        LAST_K,
        "before",
    ),
    Sentence(
        "SIGN raises the AUC on skin lesions (test)",
        "3.1",
        (("ISIC-2017 (Section 3.1)", ("test",)),),
        "SIGN alone",
        "Baseline",
    ),
    Sentence(
        "SIGN raises the AUC on skin lesions (validation)",
        "3.1",
        (("ISIC-2017 (Section 3.1)", ("validation",)),),
        "SIGN alone",
        "Baseline",
    ),
    Sentence(
        "SIGN enhances the features of skin lesions (edges)",
        "3.1, Figure 4",
        (("Figure 4 in numbers", ("edges",)),),
        LAST_K,
        "before",
    ),
    Sentence(
        "SIGN makes classes more compact (silhouette, validation images)",
        "3.1, Figure 5",
        (("Figure 5 in numbers", ("validation_silhouette",)),),
        "SIGN",
        "Classical",
    ),
    Sentence(
        "δ alone holds the class (accuracy above chance)",
        "3.1",
        (("δ alone (Section 3.1)", ("accuracy",)),),
        "δ alone",
        "",
        level=CHANCE,
    ),
    Sentence(
        "with an uncertainty head, SIGN is more accurate than classical augmentation",
        "3.2, Table 2",
        _of_heads(*TABLE2, "overall accuracy", "mean"),
        "SIGN",
        "Classical",
    ),
    Sentence(
        "with SIGN, fewer right answers are uncertain (p ≤ 0.5)",
        "3.2, Table 2",
        LOW,
        "SIGN",
        "Classical",
        higher=False,
    ),
    Sentence(
        "with mixup, more right answers are uncertain (p ≤ 0.5)",
        "3.2, Table 2",
        LOW,
        "mixup",
        "Classical",
        higher=True,
    ),
    Sentence(
        "SIGN’s uncertain right answers have a higher σ than mixup’s",
        "3.2, Table 2",
        _of_heads(*TABLE2, "[uncertainty] of these", "mean"),
        "SIGN",
        "mixup",
        higher=True,
    ),
    Sentence(
        "out of distribution, SIGN is more accurate than classical augmentation",
        "3.3, Table 3",
        _of_heads(*TABLE3, "overall accuracy", "mean"),
        "SIGN",
        "Classical",
    ),
    Sentence(
        "out of distribution, SIGN is more accurate than mixup",
        "3.3, Table 3",
        _of_heads(*TABLE3, "overall accuracy", "mean"),
        "SIGN",
        "mixup",
    ),
    Sentence(
        "SIGN is more robust to pixels turned off", "3.3, Table 5", PIXELS_OFF, "SIGN", "Classical"
    ),
    Sentence("SIGN is more robust to noise", "3.3, Table 5", NOISY, "SIGN", "Classical"),
    Sentence(
        "SIGN makes DeepAugment more robust to pixels turned off",
        "3.3, Table 5",
        (("Table 5", ("pixels_off",)), ("Slice B", ("pixels_off",))),
        r"DeepAugment \+ SIGN",
        "DeepAugment",
    ),
    Sentence(
        "networks trained with SIGN use fewer inputs (effective number, by gradient)",
        "1 and 3.3",
        (("Inputs used", ("effective",)),),
        "SIGN: p",
        "Classical: p",
    ),
    Sentence(
        "networks trained with SIGN set more pre-activations to zero",
        "1 and 3.3",
        (("Inputs used", ("every",)),),
        "SIGN: p",
        "Classical: p",
    ),
    Sentence(
        "more pre-activations are zero for p* than for p",
        "1 and 3.3",
        (("Inputs used", ("every",)),),
        f"SIGN: {P_STAR}",
        "SIGN: p",
    ),
    Sentence(
        "SIGN’s images of MobileNetV2 help NASNetMobile",
        "3.4, Table 4",
        (("Table 4", ("mean",)),),
        r"Transfer \(with SIGN\)",
        "Classical",
    ),
    Sentence(
        "SIGN can cancel adversarial perturbations (asked as future work)",
        "Section 4",
        (("Attack, then SIGN", ("accuracy",)),),
        r"attacked p, then SIGN, K = \d+",
        "attacked p",
    ),
    Sentence(
        "our question: SIGN helps at inference",
        "",
        (("SIGN at inference", ("accuracy",)),),
        f"SIGN: {P_STAR}",
        "SIGN: p",
    ),
)


@dataclass(frozen=True)
class Judgement:
    """What results say of a sentence.

    Attributes:
        word: "holds", "does not hold" or "undecided".
        numbers: the difference with its 95% interval, and without networks that have not learnt.
        seeds: how many.
    """

    word: Word
    numbers: str
    seeds: int

    @property
    def text(self) -> str:
        """Write both."""
        return f"{self.word}: {self.numbers}"


@dataclass(frozen=True)
class SentenceRow:
    """A sentence and what one network's results say of it.

    Attributes:
        text, where: as in `Sentence`.
        subject: the network, or what else the rows stand under; "" for nothing.
        verdict: at equal gradient steps, or where there is no protocol; None if not run.
        at_epochs: at equal epochs; None where there is no such comparison.
        paper: the paper's difference; "" where it has none.
    """

    text: str
    where: str
    subject: str = ""
    verdict: Judgement | None = None
    at_epochs: Judgement | None = None
    paper: str = ""


def judgement(
    comparison: Comparison,
    table: Table,
    *,
    higher: bool | None = None,
    seeds: Sequence[int] = (),
) -> Judgement:
    """Put a comparison's verdict as an answer to the sentence that the method is better.

    "No difference" and "worse" both say that the sentence does not hold. Fewer than three seeds
    decide nothing.

    Args:
        comparison: one of the table's, or like them.
        table: gives unit and decimals.
        higher: whether the sentence says that the method has more; None: that it is better.
        seeds: of the results, to name those whose networks are not shown to have learnt.
    """
    text = comparison_text(comparison, table, seeds)
    unit = " points" if text.column.endswith(", points") else ""
    interval = "" if text.interval == MISSING else f" ({text.interval})"
    if comparison.seeds == 1:
        interval = " (one seed)"
    numbers = f"{text.difference}{unit}{interval}"
    if text.doubt:
        numbers += f"; {text.doubt}"
    said = higher is None or (comparison.difference > 0) == higher
    if comparison.verdict == "undecided" or comparison.seeds < SEEDS:
        word: Word = "undecided"
    elif comparison.verdict == "no difference":
        word = "does not hold"
    else:
        better = comparison.verdict == "better" if higher is None else said
        word = "holds" if better else "does not hold"
    return Judgement(word, numbers, comparison.seeds)


def sentences(results: Results) -> tuple[SentenceRow, ...]:
    """Say what results decide of each of the paper's sentences that they have numbers for.

    Args:
        results: of any scale.
    """
    tables: dict[str, Table] = {}
    for each in results.experiments:
        for table in each.tables:
            # An experiment's own table comes before the same one in a slice.
            tables.setdefault(table.title, table)
    return tuple(
        row
        for sentence in SENTENCES
        for title, keys in sentence.tables
        if title in tables
        for row in _rows(sentence, tables[title], keys, results.seeds)
    )


def all_sentences(several: Iterable[Results]) -> tuple[tuple[Results | None, SentenceRow], ...]:
    """Say of every sentence what each of these results decides; "not run" where none has it.

    Args:
        several: the most telling first.

    Returns:
        (results, row) in the sentences' order; None instead of results where none was run.
    """
    every = [(results, sentences(results)) for results in several]
    found: list[tuple[Results | None, SentenceRow]] = []
    for sentence in SENTENCES:
        mine = [
            (results, row)
            for results, rows in every
            for row in rows
            if (row.text, row.where) == (sentence.text, sentence.where)
        ]
        found += mine or [(None, SentenceRow(sentence.text, sentence.where))]
    return tuple(found)


def _rows(
    sentence: Sentence, table: Table, keys: Sequence[str], seeds: Sequence[int]
) -> Iterator[SentenceRow]:
    """One row for each network (or what else groups stand for) that the table has it of."""
    columns = {column.key: column for column in table.columns}
    key = next((key for key in keys if key in columns), None)
    if key is None:
        return
    by_subject: dict[str, dict[str, tuple[Row, Row | None]]] = {}
    for group in dict.fromkeys(row.group for row in table.rows):
        pair = _pair(sentence, [row for row in table.rows if row.group == group], key)
        if pair is not None:
            subject, protocol = _split(group)
            by_subject.setdefault(subject, {})[protocol] = pair
    for subject, pairs in by_subject.items():
        judged = {
            protocol: _judge(sentence, table, columns[key], *pair, seeds)
            for protocol, pair in pairs.items()
        }
        paper = next(filter(None, (_paper(table, columns[key], *p) for p in pairs.values())), "")
        yield SentenceRow(
            sentence.text,
            sentence.where,
            subject,
            judged.get(BY_STEPS) or judged.get(""),
            judged.get(BY_EPOCHS),
            paper,
        )


def _pair(sentence: Sentence, rows: Sequence[Row], key: str) -> tuple[Row, Row | None] | None:
    """The rows of a group that a sentence compares; None if it lacks one."""

    def last(pattern: str) -> Row | None:
        found = [
            row
            for row in rows
            if re.fullmatch(pattern, row.label) and any(_known(row.cells.get(key)))
        ]
        return found[-1] if found else None

    method = last(sentence.method)
    baseline = last(sentence.baseline) if sentence.baseline else None
    if method is None or (sentence.baseline and baseline is None):
        return None
    return method, baseline


def _known(cell: Cell | None) -> list[bool]:
    return [] if cell is None else [value is not None for value in cell.values]


def _split(group: str) -> tuple[str, str]:
    """A group's subject and protocol: "MobileNetV2, equal epochs"."""
    subject, _, protocol = group.rpartition(", ")
    return (subject, protocol) if protocol in PROTOCOLS else (group, "")


def _judge(
    sentence: Sentence,
    table: Table,
    column: Column,
    method: Row,
    baseline: Row | None,
    seeds: Sequence[int],
) -> Judgement:
    if baseline is None:
        return _against_level(sentence, table, column, method)
    for each in table.comparisons:
        place = (each.column, each.group, each.method, each.baseline)
        if place == (column.key, method.group, method.label, baseline.label):
            return judgement(each, table, higher=sentence.higher, seeds=seeds)
    found = compare_rows(
        column.key,
        method,
        baseline,
        images=table.images,
        kind=column.kind,
        higher_is_better=column.higher_is_better,
        margin=column.margin,
    )
    return judgement(found, table, higher=sentence.higher, seeds=seeds)


def _against_level(sentence: Sentence, table: Table, column: Column, row: Row) -> Judgement:
    """Test a share against a stated level: t over seeds, and the test set's binomial error.

    The test set's part is taken to be shared by all seeds, as `crossed` does, and whole, as no
    image's answer was kept.
    """
    values = [value for value in row.cells[column.key].values if value is not None]
    differences = [value - sentence.level for value in values]
    mean = float(np.mean(values))
    counted_on = TEST_IMAGES.search(table.caption)
    images = int(counted_on[1].replace(",", "")) if counted_on else table.images
    error = mean * (1 - mean) / images if images else 0.0
    found = crossed(differences, np.full((len(values), len(values)), error))
    verdict = decide(found.difference, found.p_value)
    number_format = column_format(column, table.rows)
    shown = f"{number_format.value(mean)}{'%' if column.kind == 'share' else ''}"
    ends = found.interval()
    if ends is not None:
        low, high = (number_format.value(end + sentence.level) for end in ends)
        shown += f" ({low} to {high})"
    of_level = number_format.value(sentence.level)
    word: Word = {"better": "holds", "worse": "does not hold"}.get(verdict, "undecided")  # type: ignore[assignment]
    if len(values) < SEEDS:
        word = "undecided"
    return Judgement(word, f"{shown} against {of_level}", len(values))


def _paper(table: Table, column: Column, method: Row, baseline: Row | None) -> str:
    """The paper's difference, or its number where a level is compared with; "" without any."""
    theirs = method.cells[column.key].paper
    if baseline is None:
        return "" if theirs is None else column_format(column, table.rows).value(theirs)
    other = baseline.cells[column.key].paper
    if theirs is None or other is None:
        return ""
    return difference_format(column, table.rows).difference(theirs - other)


def count_words(rows: Iterable[SentenceRow]) -> str:
    """Write how many rows hold, do not, and are undecided, at equal gradient steps.

    Example:
        >>> count_words([SentenceRow("a", "", verdict=Judgement("holds", "+1", 3))])
        '1 verdict: 1 holds, 0 do not hold, 0 undecided'
    """
    return in_words([row.verdict.word for row in rows if row.verdict is not None])


def in_words(words: Sequence[Word]) -> str:
    """Write how many verdicts there are of each kind.

    Args:
        words: of judgements.
    """
    holds, does_not = words.count("holds"), words.count("does not hold")
    return (
        f"{counted(len(words), 'verdict')}: {holds} hold{'s' if holds == 1 else ''}, "
        f"{does_not} {'does' if does_not == 1 else 'do'} not hold, "
        f"{words.count('undecided')} undecided"
    )
