"""The peer table is filled cell by cell, even if calls are killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_table
import gpu_check
import pytest
import stages
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import contenders  # noqa: E402
import peer_cells  # noqa: E402
import peer_measure  # noqa: E402
import peer_show  # noqa: E402
import peer_table  # noqa: E402
from peer_cells import Cell, Race, Table  # noqa: E402

QUICK = ("naive .backward()", "frozen autograd.grad", "BatchNorm folded", "sign_ext autograd")
TINY = ("--device", "cpu", "--networks", "basic_cnn", "--images", "2", "3", "--steps", "2")
WANTED = {f"basic_cnn/float32/{n}/2/cpu/{name}" for n in (2, 3) for name in QUICK}
HERE = {"cpu": "a chip", "torch": "2.11", "threads": 2, "sources": "abc", "commit": "1234"}
RACE = Race("basic_cnn", "float32", 8, 2, "cpu")


def command_line(out: Path, *more: str) -> list[str]:
    command = [sys.executable, str(BENCHMARKS / "peer_table.py"), *TINY, "--out", str(out)]
    return [*command, "--contenders", *QUICK, *more]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the script in this process, which has imported torch."""

    def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
        command = command_line(out, *more)
        monkeypatch.setattr(sys, "argv", command[1:])
        status = peer_table.main()
        return subprocess.CompletedProcess(command, status, *capsys.readouterr())

    return run


def cells_of(out: Path) -> list[dict[str, Any]]:
    return json.loads(out.read_text())["cells"] if out.exists() else []


def row(name: str = "naive .backward()", **facts: Any) -> dict[str, Any]:
    """The facts of a measured cell, written by hand."""
    basic = {"ran_with": 8, "median": 2.0, "naive_median": 2.0, "speed": 1.0, "error": 0.0}
    return {**basic, "date": "2026-01-02T03:04:05+00:00", "commit": "1234", **facts}


@pytest.mark.slow
def test_a_killed_call_is_resumed_and_every_cell_is_stored_once(
    tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "peers.json"
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here, or these cells would not count
    process = subprocess.Popen(
        command_line(out), stdout=subprocess.DEVNULL, start_new_session=True, env=threads
    )
    while len(cells_of(out)) < 3 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = cells_of(out)
    assert 3 <= len(before) < len(WANTED)
    left = run(out, "--list").stdout.splitlines()
    assert len(left) == len(WANTED) - len(before)
    assert f"{len(left)} left, call again" in run(out, "--seconds", "0").stdout
    assert cells_of(out) == before  # there was no time to start one
    result = run(out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "nothing left: 8 of 8 cells are in peers.json"
    after = cells_of(out)
    assert after[: len(before)] == before
    assert Counter(cell["key"] for cell in after) == dict.fromkeys(WANTED, 1)
    for cell in after:
        assert {"date", "command", "commit", "origin"} <= set(cell)
        if cell["contender"] == "BatchNorm folded":
            assert cell["absent"] == "the network has none"
            continue
        assert cell["speed"] == pytest.approx(cell["naive_median"] / cell["median"])
        rate = cell["images"] * cell["steps"] / cell["median"]
        assert cell["image_steps_per_second"] == pytest.approx(rate)
        assert cell["peak"] > 0
        assert cell["error"] < 0.01
    document = tmp_path / "doc.md"
    document.write_text(f"a\n<!-- generated from peers.json by me -->\n{bench_table.END}\nb\n")
    assert run(out, "--markdown", str(document)).returncode == 0
    text = document.read_text()
    assert text.count("**peers [basic_cnn-float32-") == 2
    assert text.count("\n| frozen autograd.grad |") == 2
    assert "Not run: BatchNorm folded (the network has none)." in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"races": []}', "what"),
        ('{"what": "sign_ext peer table", "format": 2}', "format|2"),
        ("TWICE", "twice"),
        ("ORPHAN", "origin"),
    ],
)
def test_another_file_is_rejected_and_not_changed(
    content: str, message: str, tmp_path: Path
) -> None:
    out = tmp_path / "peers.json"
    table = Table(out, HERE)
    table.add(Cell(RACE, "x"), row())
    good = json.loads(out.read_text())
    if content == "TWICE":
        content = json.dumps({**good, "cells": good["cells"] * 2})
    if content == "ORPHAN":
        content = json.dumps({**good, "origins": {}})
    out.write_text(content)
    with pytest.raises(ValueError, match=f"{message}(.|\n)*give another --out"):
        Table(out, HERE)
    assert out.read_text() == content


def test_the_script_rejects_a_wrong_file_and_an_unknown_contender(
    tmp_path: Path, run: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    out = tmp_path / "peers.json"
    out.write_text('{"benchmarks": []}')
    wrong = run(out)
    assert wrong.returncode == 2
    assert "is not a peer table" in wrong.stderr
    assert out.read_text() == '{"benchmarks": []}'
    unknown = run(tmp_path / "new.json", "--contenders", "sign_ext magic")
    assert unknown.returncode == 2
    assert "accepted are" in unknown.stderr


@pytest.mark.parametrize("change", [{"gpu": "B"}, {"torch": "2.12"}, {"sources": "abd"}])
def test_cells_of_another_origin_are_kept_separate(change: dict[str, str], tmp_path: Path) -> None:
    out, cell = tmp_path / "peers.json", Cell(RACE, "x")
    Table(out, HERE).add(cell, row(median=1.0))
    # Another commit with the same sources measures the same thing.
    assert Table(out, {**HERE, "commit": "5678"}).missing([cell]) == []
    other = Table(out, {**HERE, **change})
    assert other.missing([cell]) == [cell]
    assert other.count_of_other_origins() == 1
    other.add(cell, row(median=3.0, date="2027-01-01"))
    again = Table(out, HERE)
    assert [each["median"] for each in again.cells().values()] == [1.0]
    _, shown, others = peer_show.newest(again.content)
    assert ([each["median"] for each in shown], others) == ([3.0], 1)


def test_a_cell_that_ends_the_process_twice_is_given_up(tmp_path: Path) -> None:
    out, cell = tmp_path / "peers.json", Cell(RACE, "x")
    for _ in range(2):
        assert Table(out, HERE).begin(cell)  # and the process ends
    table = Table(out, HERE)
    assert not table.begin(cell)
    table.add(cell, {"absent": "the process ended", "date": "2027", "commit": "1"})
    assert Table(out, HERE).missing([cell]) == []
    assert json.loads(out.read_text())["begun"] == {}


def test_the_start_file_is_used_only_if_there_is_no_table(tmp_path: Path) -> None:
    start, out, cell = tmp_path / "start.json", tmp_path / "out.json", Cell(RACE, "x")
    Table(start, HERE).add(cell, row())
    table = Table(out, HERE, start)
    assert table.missing([cell, Cell(RACE, "y")]) == [Cell(RACE, "y")]
    table.add(Cell(RACE, "y"), row())
    assert len(cells_of(out)) == 2
    assert len(cells_of(start)) == 1
    assert Table(tmp_path / "new.json", HERE, tmp_path / "none.json").cells() == {}


def test_a_contender_that_does_not_fit_runs_with_fewer_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    class Small:
        def __init__(self, race: Race, images: int) -> None:
            self.race, self.images = race, images
            self.task = SimpleNamespace(images=range(images))

        def measure(self, name: str) -> dict[str, Any]:
            tried.append(self.images)
            if name == "never" or self.images > 2:
                raise torch.OutOfMemoryError
            return row(ran_with=self.images)

    monkeypatch.setattr(peer_measure, "PreparedRace", Small)
    table = Table(tmp_path / "peers.json", HERE)
    measurer = peer_table.CellMeasurer(table)
    measurer.add(Cell(RACE, "x"))
    assert tried == [8, 4, 2]
    assert measurer.add(Cell(RACE, "never")) == "out of memory with one image"
    first, second = peer_show.races(list(table.cells().values()))[0]["rows"], table.cells()
    assert first[0]["name"] == "x (with 2 images: more do not fit)"
    assert "absent" in second[Cell(RACE, "never").key]


def test_every_race_includes_the_peers_and_all_of_ours() -> None:
    on_gpu = peer_measure.names(Race("basic_cnn", "float32", 8, 2, "cuda"))
    assert {"naive .backward()", "naive, default flags", "torch.compile max-autotune"} <= set(
        on_gpu
    )
    assert {"CUDA graph by hand", "JAX jit(lax.scan)", "memsave_torch"} <= set(on_gpu)
    assert {"sign_ext autograd", "sign_ext fused", "sign_ext onchip"} <= set(on_gpu)
    assert "sign_ext fused, tuned" in on_gpu
    on_cpu = peer_measure.PreparedRace(Race("basic_cnn", "float32", 1, 1, "cpu"), 1).task
    assert (
        peer_measure.absence_reason(on_cpu, "sign_ext fused, tuned")
        == "on a CPU measuring takes minutes"
    )
    assert peer_measure.absence_reason(on_cpu, "sign_ext fused") is None
    assert len(set(on_gpu)) == len(on_gpu)
    assert "naive, default flags" not in peer_measure.names(Race("n", "tf32", 8, 2, "cuda"))


def test_the_best_peer_takes_part_for_both_small_networks() -> None:
    """max-autotune compiles for minutes, so the large networks do without it."""

    def reason(network: str) -> str | None:
        task = peer_measure.PreparedRace(Race(network, "float32", 1, 1, "cpu"), 1).task
        return peer_measure.absence_reason(task, "torch.compile max-autotune")

    assert reason("basic_cnn") is None
    pytest.importorskip("torchvision")
    assert reason("mobilenet_v2") is None
    assert reason("nasnet_mobile") == "left out: compiles for minutes"


def test_a_contender_with_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = peer_measure.PreparedRace(RACE, 2)
    build = peer_measure.build

    def wrong(task: contenders.Task, name: str) -> Any:
        run = build(task, name)
        return (lambda images: run(images) + 1) if name == "sign_ext autograd" else run

    monkeypatch.setattr(peer_measure, "build", wrong)
    assert "computes something else" in prepared.measure("sign_ext autograd")["absent"]
    # If rounding alone causes such errors, the contender is timed anyway; but NaN is never
    # rounding.
    monkeypatch.setattr(prepared.reference, "rounding", 0.8)
    assert "median" in prepared.measure("sign_ext autograd")
    assert prepared._objection("x", math.nan) is not None


def test_the_digest_covers_the_sources_that_a_time_depends_on(tmp_path: Path) -> None:
    unmeasured = ["docs/a.md", "csrc/tests/t.cpp", "sign_ext/cli.py", "benchmarks/peer_show.py"]
    for name in ["csrc/a/b.cu", "sign_ext/sign.py", "sign_ext/engine/x/y.py", *unmeasured]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    before = peer_cells.sources(tmp_path)
    for name in unmeasured:
        (tmp_path / name).write_text("2")
    assert peer_cells.sources(tmp_path) == before
    for name in ("csrc/a/b.cu", "sign_ext/sign.py", "sign_ext/engine/x/y.py"):
        (tmp_path / name).write_text("2")
        after = peer_cells.sources(tmp_path)
        assert after != before
        before = after
    (tmp_path / "sign_ext/engine/x/y.py").rename(tmp_path / "sign_ext/engine/z.py")
    assert peer_cells.sources(tmp_path) == before  # moved, but the same sources


def test_every_source_pattern_matches_a_file() -> None:
    for pattern in peer_cells.MEASURED:
        assert list(ROOT.glob(pattern)), f"{pattern} matches no file"


def test_out_of_memory_is_recognized_in_other_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = peer_measure.PreparedRace(RACE, 1)

    def full(task: contenders.Task, name: str) -> Any:
        raise RuntimeError(name)

    monkeypatch.setattr(peer_measure, "build", full)
    for words in ("captured: CUDA out of memory. Tried", "RESOURCE_EXHAUSTED: 12 bytes"):
        with pytest.raises(torch.OutOfMemoryError):
            prepared.measure(f"sign_ext {words}")
    assert "other" in prepared.measure("sign_ext other")["absent"]


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "peers.json"
    table = Table(out, HERE)
    with pytest.raises(ValueError, match="no cell yet"):
        peer_show.plot(tmp_path / "none.svg", table.content)
    table.add(Cell(RACE, "naive .backward()"), row())
    table.add(Cell(RACE, "sign_ext fused"), row(speed=3.456))
    small = Race("basic_cnn", "float32", 2, 2, "cpu")
    table.add(Cell(small, "absent one"), {**row(), "absent": "why"})
    peer_show.plot(tmp_path / "images" / "peers.svg", table.content)
    assert "<svg" in (tmp_path / "images" / "peers.svg").read_text()


def test_gpu_check_continues_the_table(tmp_path: Path) -> None:
    stage = gpu_check.peer_table(ROOT, tmp_path, tmp_path, on_gpu=False)
    assert stage.name in gpu_check.PARTS["peers"]
    outcome = stages.run_stage(stage, seconds_left=120, folder=tmp_path, log=tmp_path / "log")
    assert outcome.detail == "nothing left: 2 of 2 cells are in peers_gpu.json"
    assert (tmp_path / gpu_check.PEERS).exists()
    on_gpu = gpu_check.peer_table(ROOT, tmp_path, tmp_path, on_gpu=True)
    assert "--networks" not in on_gpu.command
    # Leaves time for the build and the last cell within a part.
    assert gpu_check.PEER_SECONDS + 200 < gpu_check.PART_SECONDS
