"""`tools/run_slices.py`: skips what is there, goes on after a failure, and says what comes next."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
import run_slices as tool
from run_slices import Slice

from sign_ext.report.schema import Experiment, Results

# Stands for `python -m sign_ext reproduce`: copies a prepared report, and notes how it was called.
STAND_IN = """#!{python} -IS
import os, sys
from pathlib import Path

name, seed, data, out = (sys.argv[i] for i in (4, 6, 8, 10))
with open("calls", "a") as calls:
    calls.write(" ".join([os.environ["OMP_NUM_THREADS"], *sys.argv[1:]]) + "\\n")
assert sys.argv[1:4] == ["-m", "sign_ext", "reproduce"] and Path(data, "images").exists()
if Path("break").exists() and name == "slice_b":
    sys.exit(3)
Path(out).mkdir(exist_ok=True)
Path(out, "results.json").write_text(Path("prepared", name + "." + seed).read_text())
"""


@pytest.fixture
def place(tmp_path):
    """A folder of data, and a program that stands for Python."""
    data = tmp_path / "of this machine"
    data.mkdir()
    (data / "images").touch()
    python = tmp_path / "stand_in"
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    prepared = tmp_path / "work" / "prepared"
    prepared.mkdir(parents=True)
    for name, seed in (("slice_a", 1), ("slice_a", 2), ("slice_b", 1)):
        results = Results("medium", (seed,), (Experiment(name, name, ""),))
        results.write(prepared / f"{name}.{seed}")
    return tmp_path


@pytest.fixture
def call(place, monkeypatch, capfd):
    """The command: from slices to (exit status, stdout, stderr)."""

    def called(*slices: str) -> tuple[int | str | None, str, str]:
        command = ["run_slices.py", "--data-root", place / "of this machine", "--slices", *slices]
        command += ["--python", place / "stand_in"]
        command += ["--work", place / "work", "--out", place / "kept"]
        monkeypatch.setattr(sys, "argv", [str(each) for each in command])
        status: int | str | None = 0
        try:
            tool.main()
        except SystemExit as end:
            status = end.code
        return (status, *capfd.readouterr())

    return called


def calls(place: Path) -> list[list[str]]:
    path = place / "work" / "calls"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def test_finished_slices_are_kept_and_not_run_again(place, call):
    status, _, said = call("a:1-2", "b:1")
    assert status == 0, said
    assert sorted(path.name for path in (place / "kept").glob("*.json")) == [
        "slice_A_seed1.json",
        "slice_A_seed2.json",
        "slice_B_seed1.json",
    ]
    assert [(line[4], line[6], line[10]) for line in calls(place)] == [
        ("slice_a", "1", "seed1"),
        ("slice_a", "2", "seed2"),
        ("slice_b", "1", "seed1"),
    ]
    assert {line[0] for line in calls(place)} == {"1"}, "one thread"
    assert not any(str(place) in word for line in calls(place) for word in line)
    (place / "kept" / "slice_A_seed2.answers.npz").unlink()  # interrupted while collecting
    status, told, said = call("a:1-2", "b:1")
    assert status == 0, said
    assert [(line[4], line[6]) for line in calls(place)[3:]] == [("slice_a", "2")]
    assert f"sign-ext report {place / 'kept'} --out {place / 'kept' / 'joined'}" in told
    assert "paper_sentences" not in told, "this folder has no page"


def test_a_failure_is_named_and_the_others_run(place, call):
    (place / "work" / "break").touch()
    status, *_ = call("b:1", "a:1")
    assert status == "failed: slice_b seed 1"
    assert [path.name for path in (place / "kept").glob("*.json")] == ["slice_A_seed1.json"]
    (place / "work" / "break").unlink()
    assert call("b:1", "a:1")[0] == 0
    assert [line[4] for line in calls(place)] == ["slice_b", "slice_a", "slice_b"]


def test_what_cannot_be_collected_has_failed(place, call):
    (place / "work" / "prepared" / "slice_a.1").write_text("{}")
    status, _, said = call("a:1")
    assert status == "failed: slice_a seed 1"
    assert "cannot be collected" in said
    assert not (place / "kept").exists()


def test_two_runs_do_not_share_a_folder(place, call):
    with tool.alone_in(place / "work"):
        status, _, said = call("a:1")
    assert status == 2
    assert "another run uses" in said
    assert not calls(place)


def test_other_data_are_not_taken_for_these(place, call):
    (place / "work" / "data").symlink_to(place)
    status, _, said = call("a:1")
    assert status == 2
    assert "remove it" in said


def test_where_a_page_has_sentences_their_command_is_named(tmp_path):
    (tmp_path / "README.md").touch()
    told = tool.afterwards(tmp_path / "medium")
    assert f"python tools/paper_sentences.py {tmp_path}" in told


def test_slices_by_default_begin_with_the_pilot():
    wanted = [each for text in tool.WANTED for each in tool.parse_slices(text)]
    assert wanted[:5] == [Slice("a", 1), Slice("a", 2), Slice("a", 3), Slice("b", 1), Slice("c", 1)]
    assert len(set(wanted)) == len(wanted)
    for letter in "abc":  # docs/results/PROTOCOL.md: in order, up to what the rule asks for
        assert [each.seed for each in wanted if each.letter == letter] == list(range(1, 31))


@pytest.mark.parametrize("text", ["e:1", "a", "a:3-1", "a:-1", "a:1,2"])
def test_other_names_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="accepted: a, b, c or d"):
        tool.parse_slices(text)
