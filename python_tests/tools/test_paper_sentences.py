"""The table of the paper's sentences in docs/results: whose results count, and what is written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from sign_ext.report.schema import Cell, Column, Experiment, Results, Row, Table

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    try:
        spec = importlib.util.spec_from_file_location(
            "paper_sentences", TOOLS / "paper_sentences.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(TOOLS))
    return module


def written(folder: Path, scale: str, gain: float, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    group = "Net, equal gradient steps"
    rows = tuple(
        Row(name, group, {"mean": Cell(tuple(base + 0.001 * seed * seed for seed in seeds))})
        for name, base in (("Classical", 0.5), ("SIGN", 0.5 + gain))
    )
    # Otherwise all differences are equal, and nothing is tested.
    cell = rows[1].cells["mean"]
    cells = {"mean": Cell(tuple(v + 0.001 * i for i, v in enumerate(cell.values)))}
    rows = (rows[0], Row("SIGN", group, cells))
    table = Table("Table 1", "", (Column("mean", "Mean"),), rows, (), 100_000)
    folder.mkdir(parents=True)
    Results(scale, seeds, (Experiment("table1", "Table 1", "", tables=(table,)),)).write(
        folder / "results.json"
    )


def lines_about(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(f"| {start}")]


def test_larger_scales_come_first_and_joined_reports_stand_for_their_slices(tool, tmp_path):
    written(tmp_path / "small", "small", 0.1)
    for seed in (1, 2, 3):
        written(tmp_path / "medium" / f"a-{seed}", "medium", 0.2, (seed,))
    assert list(tool.sources(tmp_path)) == ["medium/a-1", "medium/a-2", "medium/a-3", "small"]
    written(tmp_path / "medium" / "joined" / "slice_a", "medium", -0.2)
    assert list(tool.sources(tmp_path)) == ["medium/joined/slice_a", "small"]
    medium, small = lines_about(
        tool.table(tool.sources(tmp_path)), "SIGN is more accurate than classical"
    )
    assert "**does not hold** | −19.90 points" in medium
    assert "[medium/joined/slice_a](medium/joined/slice_a/results.md), 3 seeds" in medium
    assert "**holds** | +10.10 points" in small
    (other,) = lines_about(tool.table(tool.sources(tmp_path)), "SIGN adds to DeepAugment")
    assert "| not run |" in other


def test_the_marked_parts_are_replaced_and_checked(tool, tmp_path, capsys):
    written(tmp_path / "small", "small", 0.1)
    page = tmp_path / "README.md"
    marks = [f"{tool.begin(part)}\nobsolete\n{tool.END}" for part in (tool.VERDICT, tool.TABLE)]
    page.write_text(f"before\n{marks[0]}\nbetween\n{marks[1]}\nafter\n")
    assert tool.main([str(tmp_path), "--check"]) == 1
    assert "without --check" in capsys.readouterr().out
    assert tool.main([str(tmp_path)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{tool.END}\nafter\n")
    assert text.index(tool.NO_VERDICT) < text.index("\nbetween\n") < text.index("| SIGN is more")
    assert "obsolete" not in text
    assert tool.main([str(tmp_path), "--check"]) == 0
    page.write_text("no marks")
    with pytest.raises(ValueError, match="the page has no"):
        tool.main([str(tmp_path)])


def test_the_verdict_is_what_the_joined_page_leads_with(tool, tmp_path):
    from dataclasses import replace

    from sign_ext.report.lead import families
    from sign_ext.report.verdict import compare_rows, hold_families

    written(tmp_path / "a", "medium", 0.1)
    results = Results.read(tmp_path / "a" / "results.json")
    table = results.experiments[0].tables[0]
    told = compare_rows(
        "mean", table.rows[1], table.rows[0], images=100_000, kind="share", family="primary"
    )
    experiment = replace(results.experiments[0], tables=(replace(table, comparisons=(told,)),))
    held = hold_families(replace(results, experiments=(experiment,)))
    held.write(tmp_path / "a" / "results.json")
    text = tool.verdict(tool.sources(tmp_path))
    (family,) = families(held)
    assert "does SIGN do more than noise as large" in text
    assert "3 seeds (0, 1, 2), scale “medium”" in text
    assert family.sentences[0].split(" – ")[0].split(": ")[1][:30] in text


def test_the_committed_page_is_what_the_committed_results_give(tool):
    assert tool.main([str(TOOLS.parent / "docs" / "results"), "--check"]) == 0
