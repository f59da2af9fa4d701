"""The report of `sign-ext reproduce` as Markdown: the same content as its page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from sign_ext.formatting import duration
from sign_ext.report.lead import families
from sign_ext.report.schema import Experiment, Figure, Results
from sign_ext.report.sentences import Judgement, SentenceRow, count_words, sentences
from sign_ext.report.view import CellText, ComparisonText, TableView, view
from sign_ext.report.wording import (
    HINTS,
    SCALES,
    computing,
    describe_spread,
    format_seeds,
    format_settings,
    provenance,
    reading,
)

Names = Mapping[tuple[int, int], str]


def render_markdown(results: Results, names: Names) -> str:
    """Return the report as GitHub-flavoured Markdown.

    Args:
        results: what `sign-ext reproduce` measured.
        names: (experiment's index, figure's index), from 0 → path of the figure's file.
    """
    tables = [view(table) for each in results.experiments for table in each.tables]
    blocks = ["# SIGN: the paper’s experiments, run again"]
    blocks.append(
        f"Scale “{escaped(results.scale)}”, {format_seeds(results)}, "
        f"{duration(results.seconds)} of computing. {describe_spread(results)}"
    )
    if any(table.in_paper for table in tables):
        blocks[-1] += " The paper’s number stands in parentheses, where it has one."
    if results.scale in SCALES:
        blocks.append(f"> **Not the paper’s scale.** {SCALES[results.scale]}")
    verdicts = families(results)
    if verdicts:
        blocks.append("## The verdict")
    for family in verdicts:
        blocks += [f"**{escaped(family.heading)}**", _list(family.sentences)]
    told = sentences(results)
    if told:
        blocks += ["## The paper’s sentences", f"{count_words(told)}.", sentence_table(told)]
    blocks.append("## What came out")
    for experiment in results.experiments:
        found = experiment.findings[:2] or ("No finding in words; see below.",)
        blocks.append("  \n".join([f"**{escaped(experiment.title)}**", *map(escaped, found)]))
    for index, experiment in enumerate(results.experiments):
        blocks += _experiment(index, experiment, names, results.seeds)
    blocks += _how_it_was_made(results)
    return "\n\n".join(blocks) + "\n"


def escaped(text: str) -> str:
    """Escape a text for Markdown and HTML, on one line.

    Example:
        >>> escaped("a|b <c> *d*")
        'a\\\\|b &lt;c&gt; \\\\*d\\\\*'
    """
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", text)


def sentence_table(rows: Sequence[SentenceRow]) -> str:
    """Write the paper's sentences with their verdicts as a table.

    Args:
        rows: as `report.sentences.sentences` makes them. A column that none of them fills is left
            out: of equal epochs, and of the paper's numbers.
    """
    columns = {
        "The paper says": [row.text for row in rows],
        "Where": [row.where for row in rows],
        "Measured with": [row.subject for row in rows],
        "Equal gradient steps, or no training": [_judged(row.verdict) for row in rows],
    }
    optional = {
        "Equal epochs": [_judged(row.at_epochs) for row in rows],
        "The paper’s number": [row.paper for row in rows],
    }
    columns |= {head: cells for head, cells in optional.items() if any(cells)}
    return _grid(tuple(columns), list(zip(*columns.values(), strict=True)))


def _judged(verdict: Judgement | None) -> str:
    return "" if verdict is None else verdict.text


def _experiment(
    index: int, experiment: Experiment, names: Names, seeds: tuple[int, ...]
) -> list[str]:
    blocks = [f"## {escaped(experiment.title)}"]
    blocks += [f"> **Stand-in:** {escaped(each)}" for each in experiment.stand_ins]
    if experiment.about:
        blocks.append(escaped(experiment.about))
    if experiment.findings:
        blocks.append(_list(experiment.findings))
    for table in experiment.tables:
        blocks += _table(view(table, seeds=seeds))
    for place, figure in enumerate(experiment.figures):
        blocks += _figure(figure, names[index, place])
    if experiment.settings:
        blocks.append("**Settings**")
        blocks.append(_grid(("name", "value"), format_settings(experiment.settings, seeds)))
    if experiment.command:
        blocks.append(_code(experiment.command))
    blocks.append(escaped(computing(experiment)))
    return blocks


def _table(table: TableView) -> list[str]:
    blocks = [f"**{escaped(table.title)}.** {escaped(table.caption)}"]
    heads = ["Method", *(f"{label}, {unit}" if unit else label for label, unit in table.headings)]
    for group in table.groups:
        if group.heading:
            blocks.append(f"*{escaped(group.heading)}*")
        rows = [
            [escaped(row.label) + "".join(f" <sup>{note}</sup>" for note in row.notes)]
            + [_cell(cell) for cell in row.cells]
            for row in group.rows
        ]
        blocks.append(_grid(heads, rows, right=True, raw=True))
    if table.notes:
        notes = (f"{number}. {escaped(note)}" for number, note in enumerate(table.notes, 1))
        blocks.append("\n".join(notes))
    blocks += _comparisons(table)
    if table.traced:
        blocks.append(
            f"<details><summary>Artefacts that made {escaped(table.title)}</summary>\n\n"
            + "\n".join(
                f"- {escaped(label)}{f' ({escaped(group)})' if group else ''}: "
                + ", ".join(f"`{key}`" for key in stages)
                for group, label, stages in table.traced
            )
            + "\n\n</details>"
        )
    return blocks


def _comparisons(table: TableView) -> list[str]:
    if not table.comparisons:
        return []
    heads = ("Compared", "In", "Difference", "95% interval", "p", "Smallest detectable")
    by_images = table.by_images
    beside = ("Beside it",) if by_images else ()
    rows = [
        (
            f"{each.method} against {each.baseline}" + (f" ({each.group})" if each.group else ""),
            *(each.column, each.difference, each.interval, each.p, each.detectable),
            *(each.test_error, *((each.beside,) if by_images else ()), _verdict(each)),
        )
        for each in table.comparisons
    ]
    paired = "Seed by seed, image by image." if by_images else "Seed by seed."
    title = f"**{escaped(table.title)}, compared.** {paired}"
    return [title, _grid((*heads, "Test set’s error", *beside, "Verdict"), rows)]


def _verdict(comparison: ComparisonText) -> str:
    judged = comparison.verdict
    if comparison.because:
        judged += f": {comparison.because}"
    return f"{judged}. Note: {comparison.doubt}" if comparison.doubt else judged


def _figure(figure: Figure, name: str) -> list[str]:
    hint = HINTS.get(figure.kind, "")
    return [
        f"![{escaped(figure.alt)}]({name})",
        f"**{escaped(figure.title)}.** {escaped(' '.join([figure.caption, hint]))}",
    ]


def _how_it_was_made(results: Results) -> list[str]:
    blocks = ["## How this was made"]
    if results.command:
        blocks.append(_code(results.command))
    texts = reading(results)
    if texts:
        blocks += ["**Reading the comparisons**", *map(escaped, texts)]
    if results.data:
        blocks += ["**Data**", _list(results.data)]
    if results.settings:
        blocks.append(f"**Settings of scale “{escaped(results.scale)}”**")
        blocks.append(_grid(("name", "value"), format_settings(results.settings, results.seeds)))
    blocks += ["**Machine, versions and seeds**", _grid(("name", "value"), provenance(results))]
    blocks.append("All numbers, of each seed, are in results.json.")
    return blocks


def _cell(cell: CellText) -> str:
    text = " ".join(part for part in (cell.ours, cell.spread) if part)
    inside = [cell.counted] if cell.counted else []
    inside += [f"paper {cell.paper}"] if cell.paper else []
    return f"{text} ({', '.join(inside)})" if inside else text


def _grid(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: bool = False,
    raw: bool = False,
) -> str:
    """Write a GitHub table; `raw` rows are Markdown already."""
    lines = [[escaped(head) for head in heads]]
    lines.append(["---", *(["---:" if right else "---"] * (len(heads) - 1))])
    lines += [list(row) if raw else [escaped(text) for text in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(sentence)}" for sentence in sentences)


def _code(command: str) -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", command)), default=0))
    return f"{fence}sh\n{command}\n{fence}"
