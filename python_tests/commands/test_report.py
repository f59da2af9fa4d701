"""`sign-ext report`: joins results.json files, writes the pages, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sign_ext.cli import main
from sign_ext.report.schema import Cell, Column, Experiment, Results, Row, Table


def written(folder: Path, *seeds: int, epochs: int = 3) -> Path:
    """A folder with the results of these seeds."""
    rows = tuple(
        Row(name, "net", {"mean": Cell(tuple(base + 0.01 * seed for seed in seeds), paper=0.5)})
        for name, base in (("Classical", 0.6), ("SIGN", 0.7))
    )
    from sign_ext.report.verdict import compare_rows

    told = (compare_rows("mean", rows[1], rows[0], images=100, kind="share"),)
    table = Table("Table 1", "Accuracy.", (Column("mean", "Mean"),), rows, told, 100)
    experiment = Experiment("table1", "Table 1", "", settings={"epochs": epochs}, tables=(table,))
    folder.mkdir()
    Results("smoke", seeds, (experiment,)).write(folder / "results.json")
    return folder


def test_slices_are_joined_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = written(tmp_path / "a", 0), written(tmp_path / "b", 1, 2) / "results.json"
    out = tmp_path / "new" / "joined"
    assert main(["report", str(second), str(first), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "scale smoke, 3 seeds (0, 1, 2)"
    assert "SIGN" in " ".join(said)  # a finding of the joined comparison
    assert said[-1] == str(out / "index.html")
    joined = Results.read(out / "results.json")
    assert joined.experiments[0].tables[0].rows[0].cells["mean"].values == (0.6, 0.61, 0.62)
    assert "61.0" in (out / "index.html").read_text("utf-8")
    assert "61.0 ± 1.0 (paper 50.0)" in (out / "results.md").read_text("utf-8")


def test_json_names_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "a", 5)
    assert main(["report", str(folder), "--out", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(folder),
        "files": ["results.json", "results.md", "index.html"],
        "seeds": [5],
        "experiments": ["table1"],
    }


def test_nothing_is_written_when_results_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, out = written(tmp_path / "a", 0), tmp_path / "out"
    second = written(tmp_path / "b", 1, epochs=4)
    assert main(["report", str(first), str(second), "--out", str(out)]) == 1
    assert "'epochs' differ between the results: 3 against 4" in capsys.readouterr().err
    assert main(["report", str(first), str(first), "--out", str(out)]) == 1
    assert "seed 0 in more than one" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none"), "--out", str(out)]) == 1
    assert "none: No such file" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    assert main(["report", str(tmp_path / "other.json"), "--out", str(out)]) == 1
    assert "holds no results of `sign-ext reproduce`" in capsys.readouterr().err
    assert main(["report", "--out", str(out)]) == 2
    assert not out.exists()


def test_a_folder_of_slices_is_joined_without_an_earlier_report_in_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    written(folder / "slice_a-0", 0)
    written(folder / "slice_a-7", 7)
    out = folder / "joined"
    for _ in range(2):  # the second time, OUT holds the first report
        assert main(["report", str(folder), "--out", str(out)]) == 0
        assert Results.read(out / "table1" / "results.json").seeds == (0, 7)
    capsys.readouterr()
    both = [str(folder), str(written(tmp_path / "b", 3)), "--out", str(tmp_path / "x")]
    assert main(["report", *both]) == 2
    assert "either alone" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty"), "--out", str(out)]) == 1
    assert "results.json" in capsys.readouterr().err


def test_slices_of_other_experiments_get_a_report_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "medium"
    folder.mkdir()
    for seed in (1, 2):
        written(folder / f"a-{seed}", seed)
    other = written(folder / "b-1", 1) / "results.json"
    text = other.read_text().replace('"table1"', '"slice_b"')
    (folder / "slice_B_seed1.json").write_text(text)
    other.unlink()
    out = folder / "joined"
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    told.sort(key=lambda each: each["experiments"], reverse=True)
    assert [(each["experiments"], each["seeds"]) for each in told] == [
        (["table1"], [1, 2]),
        (["slice_b"], [1]),
    ]
    assert Results.read(out / "table1" / "results.json").seeds == (1, 2)
    assert (out / "slice_b" / "index.html").is_file()
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)  # an earlier report is no slice
    assert sorted(again, key=lambda each: each["experiments"], reverse=True) == told


def test_the_sweeps_own_sentence_survives_joining(tmp_path: Path) -> None:
    """Its table has comparisons, so that its findings are written again."""
    from sign_ext.experiments.recipes.step_size import BASELINE, COLUMNS, MEASURES, TITLE
    from sign_ext.report.verdict import compare_rows

    def row(label: str, group: str, seed: int, more: float) -> Row:
        value = 0.5 + 0.01 * seed + more
        return Row(label, group, {key: Cell((value,)) for key in MEASURES})

    for seed in (0, 1):
        rows = (
            row(BASELINE, "Net", seed, 0.0),
            row("0.3 × calibrated", "Net, K = 10", seed, 0.02),
            row("3 × calibrated", "Net, K = 50", seed, 0.04),
        )
        told = compare_rows("normal", rows[1], rows[0], images=100, kind="share")
        table = Table(TITLE, "", COLUMNS, rows, (told,), 100)
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = Experiment("step_size", "Step size", "", tables=(table,))
        Results("smoke", (seed,), (made,)).write(folder / "results.json")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "0"), str(tmp_path / "1"), "--out", str(out)]
    assert main(["report", *arguments]) == 0
    (sentence, *_) = Results.read(out / "results.json").experiments[0].findings
    assert sentence.startswith(
        "Validation accuracy would choose 3 × the calibrated step size with K = 50: "
        "validation accuracy 54.5% against 50.5%"
    )
