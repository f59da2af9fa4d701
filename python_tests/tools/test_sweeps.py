"""The sweeps of benchmarks/: lines that survive, processes with limits, races, tables, sums."""

from __future__ import annotations

import json
import operator
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import bench_table  # noqa: E402
import call_cost  # noqa: E402
import family_list  # noqa: E402
import family_sweep as families  # noqa: E402
import json_lines  # noqa: E402
import network_list  # noqa: E402
import network_race  # noqa: E402
import network_sweep as networks  # noqa: E402
import network_table  # noqa: E402
import sweep  # noqa: E402
from child import ChildFailed, in_child  # noqa: E402
from network_race import CHANNELS_LAST, FOLDED, FROZEN, NAIVE, OURS  # noqa: E402


def small(norm: bool = True) -> nn.Module:
    """Convolutions, with BatchNorm or without, and a classifier."""
    torch.manual_seed(3)
    middle: list[nn.Module] = [nn.BatchNorm2d(6)] if norm else []
    layers = [nn.Conv2d(3, 6, 3, padding=1), *middle, nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    return family_list.varied(model).eval()


class Sorted(nn.Module):
    """A network with an operation that no compiler rule will take, small beside the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 9, 3), nn.ReLU())
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cummax(self.body(x).mean((2, 3)), 1).values)


class Reading(Sorted):
    """A network that decides by its values, so that it cannot be recorded."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.body(x).mean((2, 3))
        return self.head(found * 2 if float(found.detach().sum()) > 0 else found)


# Lines.


def test_a_line_after_a_torn_one_is_whole_and_the_torn_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "lines.jsonl"
    json_lines.append(file, {"a": 1})
    with file.open("a") as torn:
        torn.write('{"a": 2, "b')
    json_lines.append(file, {"a": 3})
    with file.open("a") as other:
        other.write("[4]\n\n")
    rows, broken = json_lines.read(file)
    assert rows == [{"a": 1}, {"a": 3}]
    assert [(line.number, line.text) for line in broken] == [(2, '{"a": 2, "b'), (4, "[4]")]
    assert json_lines.read_and_report(file) == rows
    told = capsys.readouterr().err
    assert "lines.jsonl, line 2" in told
    assert "line 4" in told
    with pytest.raises(ValueError, match="JSON"):
        json_lines.append(file, {"a": float("nan")})
    assert json_lines.read(file)[0] == rows
    assert json_lines.read(tmp_path / "none.jsonl") == ([], [])


def test_the_last_line_of_a_cell_counts() -> None:
    rows = [{"n": "a", "v": 1}, {"n": "b", "v": 2}, {"n": "a", "v": 3}]
    assert list(json_lines.latest(rows, ["n"]).values()) == [rows[2], rows[1]]


# Processes.


def test_a_process_returns_or_says_why_not() -> None:
    limits = {"seconds": 60.0, "gigabytes": 4.0}
    assert in_child(operator.add, 2, 3, **limits) == 5
    with pytest.raises(ChildFailed, match=r"ZeroDivisionError: .*zero"):
        in_child(operator.truediv, 2, 0, **limits)
    with pytest.raises(ChildFailed, match="exit status 7"):
        in_child(os._exit, 7, **limits)
    with pytest.raises(ChildFailed, match="signal SIGABRT"):
        in_child(os.abort, **limits)


def test_a_process_has_a_limit_of_time_and_one_of_memory() -> None:
    began = time.monotonic()
    with pytest.raises(ChildFailed, match=r"took longer than 0\.5 s"):
        in_child(time.sleep, 600, seconds=0.5, gigabytes=4)
    assert time.monotonic() - began < 300
    if sys.platform == "linux":
        with pytest.raises(ChildFailed, match="MemoryError"):
            in_child(bytearray, 3 * 2**30, seconds=60, gigabytes=1)


MEASURES = """
def measure(cell):
    if cell["name"] == "bad":
        raise RuntimeError("no such luck")
    return {"twice": 2 * cell["size"]}
"""


def test_a_sweep_resumes_and_a_broken_line_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep_measures.py").write_text(MEASURES)
    monkeypatch.syspath_prepend(str(tmp_path))
    from sweep_measures import measure  # type: ignore[import-not-found]

    cells = [{"name": name, "size": size} for name, size in (("a", 1), ("bad", 2), ("c", 3))]
    out, limits = tmp_path / "out.jsonl", sweep.Limits(600, 60, 4)

    def begin() -> sweep.Sweep:
        return sweep.Sweep(out, ("name", "size"), ("sweep.py",))

    def call(limits: sweep.Limits) -> int:
        table = begin()
        return table.fill(table.missing(cells), measure, lambda row: row["name"], limits)

    assert call(sweep.Limits(-1, 60, 4)) == 3  # no time to begin one
    assert not out.exists()
    assert call(limits) == 0
    rows, broken = json_lines.read(out)
    assert not broken
    assert [row.get("twice") for row in rows] == [2, None, 6]
    assert "RuntimeError: no such luck" in rows[1]["failed"]
    assert {"commit", "torch", "cpu", "sources", "date", "took_seconds"} <= set(rows[0])
    assert begin().missing(cells) == []
    lines = out.read_text().splitlines()
    out.write_text("\n".join([lines[0], lines[1][:9], lines[2][:-9]]))
    capsys.readouterr()
    assert begin().missing(cells) == cells[1:]
    assert "line 2" in capsys.readouterr().err
    assert call(limits) == 0
    rows, broken = json_lines.read(out)
    assert [row["name"] for row in rows] == ["a", "bad", "c"]
    assert [line.number for line in broken] == [2, 3]
    other = begin()
    other.origin["sources"] = "of another day"
    assert other.missing(cells) == cells
    assert [row["name"] for row in other.newest()] == ["a", "bad", "c"]


# Races.


@pytest.fixture
def quick_matmul(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring a rate takes seconds, and no test depends on it."""
    monkeypatch.setattr(network_race.roofline, "matmul_rate", lambda precision, device: 1e10)


@pytest.mark.usefixtures("quick_matmul")
def test_a_race_times_those_that_agree(torch_rng: torch.Generator) -> None:
    images = torch.rand(3, 3, 11, 9, generator=torch_rng)
    row = network_race.race(small(), images, 2, rounds=3)
    found = row["contenders"]
    assert set(found) == {NAIVE, FROZEN, CHANNELS_LAST, FOLDED, OURS}
    assert (row["batch_norms"], row["folded"], row["absent"]) == (1, 1, {})
    assert found[NAIVE]["speed"] == 1
    for facts in found.values():
        assert facts["rounds"] == 3
        assert facts["low"] <= facts["speed"] <= facts["high"]
        assert facts["error"] < 1e-3
    peers = {name: facts["median"] for name, facts in found.items() if name != OURS}
    assert row["best_peer"] == min(peers, key=peers.__getitem__)
    assert row["backend"] in ("fused", "autograd")  # as the machine has native operators
    # Two convolutions forward, and backward to the input.
    flop = 2 * 2 * (11 * 9 * 6 * 27 + 9 * 7 * 5 * 54)
    assert row["flop_per_image_step"] == pytest.approx(flop)
    share = flop * 3 * 2 / found[OURS]["median"] / row["matmul_flop_per_s"]
    assert row["share_of_matmul"] == pytest.approx(share)
    json.dumps(row, allow_nan=False)


@pytest.mark.usefixtures("quick_matmul")
def test_a_contender_that_computes_something_else_is_not_timed(
    monkeypatch: pytest.MonkeyPatch, torch_rng: torch.Generator
) -> None:
    images = torch.rand(2, 3, 9, 9, generator=torch_rng)
    without = network_race.race(small(norm=False), images, 1, rounds=1)
    assert without["absent"] == {FOLDED: "no BatchNorm follows a convolution"}

    def wrong(phi: nn.Module) -> int:
        for weight in phi.parameters():
            weight.data.mul_(-2)
        return 1

    monkeypatch.setattr(network_race.peers, "fold", wrong)
    row = network_race.race(small(), images, 1, rounds=1)
    assert "computes something else" in row["absent"][FOLDED]
    assert FOLDED not in row["contenders"]


def test_ratios_are_those_of_the_rounds() -> None:
    times = {NAIVE: [4.0, 8.0, 6.0], FROZEN: [2.0, 2.0, 3.0], OURS: [1.0, 4.0, 2.0]}
    found = network_race.compare(times)
    assert found["best_peer"] == FROZEN
    assert found["over_best"] == {"ratio": 1.5, "low": 1.0, "high": 1.75}
    rows = network_race.summarize(times, dict.fromkeys(times, 0.0))
    assert rows[OURS]["speed"] == 3.0
    assert rows[OURS]["low"] == 2.5
    assert rows[OURS]["median"] == statistics.median(times[OURS])
    with_compiler = {**times, network_race.COMPILED: [0.5, 0.5, 0.5]}
    found = network_race.compare(with_compiler)
    assert found["best_peer"] == FROZEN  # a compiler is a further peer
    assert found["over_compiled"]["ratio"] == 0.25


def test_the_networks_are_those_of_the_table() -> None:
    assert len(network_list.CONTESTS) == 20
    assert set(network_list.COMPILED) <= set(network_list.CONTESTS)
    assert len(network_list.COMPILED) == 6
    timm = pytest.importorskip("timm")
    builders = [contest.build for contest in network_list.CONTESTS.values()]
    for build in builders:
        if getattr(build, "func", None) is network_list.timm_network:
            assert timm.is_model(build.args[0]), build.args[0]
    for member in family_list.FAMILIES.values():
        assert timm.is_model(member.name), member.name
    assert len({member.name for member in family_list.FAMILIES.values()}) == 50
    given = networks.options(["--threads", "2", "--only", "unet", "resnet50", "--pixels", "33"])
    assert [cell["network"] for cell in networks.cells(given)] == ["unet", "resnet50"]
    assert networks.cells(given)[0] == {
        "network": "unet",
        "images": 4,
        "pixels": 33,
        "steps": 5,
        "threads": 2,
        "compiled": False,
    }


def test_a_unet_gives_logits_at_every_pixel() -> None:
    net = network_list.UNet((4, 6, 8), classes=3).eval()
    assert net(torch.rand(2, 3, 12, 20)).shape == (2, 3, 12, 20)


def test_varied_weights_switch_no_branch_off() -> None:
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    nn.init.zeros_(net[1].weight)
    family_list.varied(net)
    for tensor in (net[1].weight, net[1].bias, net[1].running_mean, net[1].running_var):
        assert len(tensor.unique()) == 5
    assert float(net[1].running_var.min()) > 0.4


@pytest.mark.parametrize("script", [networks, call_cost, families])
def test_an_unknown_name_is_rejected(script: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--only", "resnet51", "--list"])
    assert "resnet51 was given; accepted are" in capsys.readouterr().err


# Tables.


def race_row(network: str, ours: float, best: float, **more: Any) -> dict[str, Any]:
    """A line of networks.jsonl, written by hand."""
    speeds = {NAIVE: 1.0, FROZEN: best, OURS: ours}
    ratio = ours / best
    row = {
        "network": network,
        "images": 8,
        "pixels": 96,
        "steps": 5,
        "threads": 1,
        "compiled": False,
        "contenders": {name: {"speed": speed} for name, speed in speeds.items()},
        "best_peer": FROZEN,
        "over_best": {"ratio": ratio, "low": ratio - 0.01, "high": ratio + 0.01},
        "over_best_in_processor_time": {"ratio": ratio},
        "share_of_matmul": 0.3,
        "backend": "fused",
        "islands": [],
        "islands_share": 0.0,
        "date": "2026-01-02T00:00:00",
    }
    origin = {"cpu": "a chip", "torch": "2", "commit": "abc", "uncommitted_changes": False}
    return {**row, **origin, **more}


def test_the_table_shows_wins_and_losses() -> None:
    island = {"operations": ["sort"], "module": "", "share": 0.12}
    rows = [
        race_row("unet", 1.5, 2.0, date="2026-01-01T00:00:00"),
        race_row("unet", 2.4, 2.0, islands=[island], islands_share=0.12),
        race_row("efficientnet_b0", 2.4, 2.0),  # 1.2, where 1.3 is wanted
        race_row("resnet50", 1.8, 2.0, share_of_matmul=0.8),  # as fast as the machine
        race_row("vit_tiny", 0.9, 1.2, backend="autograd", commit="def"),
        race_row("repvgg_a0", 3.0, 2.0, threads=2),
        {"network": "swin_tiny", "failed": "took longer than 600 s", "date": "2026-01-01"},
        {**race_row("unet", 2.4, 2.0, compiled=True), "failed": "no compiler"},  # but timed without
    ]
    text = network_table.markdown(rows)
    lines = text.splitlines()
    assert lines[0] == "Measured on a chip; torch 2; commit abc and def, 2026-01-02."
    one = [line for line in lines if line.startswith("| ") and line[2:9] != "network"]
    names = [line.split(" ")[1] for line in one]
    assert names == ["resnet50", "efficientnet_b0", "vit_tiny", "unet", "repvgg_a0"]
    assert "| 1.20 (1.19–1.21) | frozen | 1: 12%, the largest 12% | 30% |" in one[3]
    assert "| **1.20 (1.19–1.21)** | frozen | none |" in one[1]
    assert "| 0.90 (0.89–0.91) |" in one[0]
    assert "| **0.75 (0.74–0.76)** | frozen | whole network by autograd |" in one[2]
    assert "2 of 4 reach the goal; 2 do not (bold), and ours is behind the best peer on 2." in text
    assert "1 of 1 reach the goal." in text
    assert "More than 20% of a step is one island, or not compiled: vit_tiny." in text
    assert "Not measured: swin_tiny (took longer than 600 s).\n" in f"{text}\n"
    both = network_table.markdown([rows[1], {**rows[1], "steps": 2}])
    assert "K = 2, 5" in both
    assert "| unet (8, 96), K = 5 |" in both
    assert network_table.markdown([]) == "Not measured yet."


def test_the_tables_have_their_places_in_the_document(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "performance.md").read_text()
    for source in ("networks.jsonl", "calls.jsonl", "families.jsonl"):
        assert "\n\nfilled\n\n" in bench_table.fill(text, source, "filled")
    document, out = tmp_path / "doc.md", tmp_path / "networks.jsonl"
    document.write_text(text)
    json_lines.append(out, race_row("unet", 2.4, 2.0))
    given = ["--out", str(out), "--markdown", str(document)]
    assert networks.main(given) == 0
    assert "| unet (8, 96) |" in document.read_text()


# Cost of a call.


@pytest.mark.filterwarnings("ignore::sign_ext.errors.PixelRangeWarning")
def test_the_cost_of_a_call_and_of_compiling(torch_rng: torch.Generator) -> None:
    images = 255 * torch.rand(2, 3, 11, 11, generator=torch_rng)
    row = call_cost.call_cost(small(), images, 2)
    assert set(row["seconds"]) == {
        call_cost.FIRST,
        call_cost.SECOND,
        call_cost.KEPT,
        call_cost.FROZEN,
    }
    assert min(row["seconds"].values()) > 0
    assert row["rounds"] == call_cost.ROUNDS
    compiled = call_cost.compile_cost(call_cost.chain(3), images)
    channels, inner = call_cost.CHAIN_CHANNELS, 9
    weights = channels * (3 + 2 * channels) * inner + 3 * channels + channels * 10 + 10
    assert compiled["weights_bytes"] == 4 * weights
    assert compiled["held_bytes"] > 0
    assert min(compiled["autograd_seconds"], compiled["finding_seconds"]) > 0
    json.dumps([row, compiled], allow_nan=False)
    origin = race_row("unet", 1, 1)
    facts = ("cpu", "torch", "commit", "uncommitted_changes", "date")
    common = {"network": "n", "images": 2, "pixels": 11, "steps": 2}
    common |= {fact: origin[fact] for fact in facts}
    lines = [{**common, "what": "call", **row}, {**common, "what": "compile", **compiled}]
    table = call_cost.markdown(lines)
    assert "| n (2, 11) | 2 |" in table
    assert "| n (11) |" in table
    assert all(call_cost.describe(line) for line in lines)


def test_calls_are_timed_for_each_number_of_steps() -> None:
    cells = call_cost.cells(["resnet18", "chain of 100"])
    assert [cell["steps"] for cell in cells if cell["what"] == "call"] == [1, 2, 4, 20]
    assert [cell["network"] for cell in cells if cell["what"] == "compile"] == ["chain of 100"]


# Families.


def test_what_becomes_of_a_network(torch_rng: torch.Generator) -> None:
    images = torch.rand(2, 3, 11, 11, generator=torch_rng)
    plain = families.examine(small(), images)
    assert (plain["outcome"], plain["islands"], plain["reasons"]) == ("compiled", [], {})
    assert plain["error_delta_float64"] < 1e-10
    torch.manual_seed(4)
    with_island = families.examine(Sorted().eval(), images)
    assert with_island["outcome"] == "islands"
    (island,) = with_island["islands"]
    assert "cummax" in island["operations"]
    assert 0 < island["share"] < 0.5
    assert any("cummax" in reason for reason in with_island["reasons"])
    refused = families.examine(Reading().eval(), images)
    assert refused["outcome"] == "refused"
    assert refused["why"]
    for name, row in (("a", plain), ("b", with_island), ("c", refused)):
        assert families.describe({"family": name, **row}).startswith(name)
    json.dumps([plain, with_island, refused], allow_nan=False)


def test_a_wrong_delta_is_found(
    monkeypatch: pytest.MonkeyPatch, torch_rng: torch.Generator
) -> None:
    images = torch.rand(2, 3, 11, 11, generator=torch_rng)
    frozen = families.loops.frozen

    def off(phi: nn.Module, steps: int, step_size: float) -> Any:
        run = frozen(phi, steps, step_size)
        return lambda p: run(p) + 1e-4 * (p.dtype == torch.float64)

    monkeypatch.setattr(families.loops, "frozen", off)
    row = families.examine(small(), images)
    assert (row["outcome"], row["agrees"]) == ("wrong", False)


def test_the_sum_says_whether_it_is_good_enough() -> None:
    reason = "the compiler has no rule for aten.sort.default on (3, 4)"
    rows = [{"family": f"f{i}", "outcome": "compiled"} for i in range(37)]
    rows.append({"family": "g", "outcome": "islands", "reasons": {reason: 2}})
    rows.append({"family": "h", "outcome": "refused", "reasons": {reason.replace("3", "5"): 1}})
    rows.append({"family": "i", "failed": "took longer than 300 s"})
    text, good = families.summarize(rows, 40)
    assert good
    assert "38 of 40 without whole fallback; at least 38 are wanted" in text
    assert (
        "2 families,    3 operations: the compiler has no rule for aten.sort.default on …\n" in text
    )
    assert not families.summarize(rows[:-1], 40)[1]  # one is missing
    assert not families.summarize([*rows[:-1], {"family": "i", "outcome": "wrong"}], 40)[1]
    worse = [*rows[:-3], *({"family": x, "outcome": "mostly islands"} for x in "ghi")]
    assert not families.summarize(worse, 40)[1]


def test_the_families_in_words() -> None:
    origin = race_row("unet", 1, 1)
    facts = ("cpu", "torch", "commit", "uncommitted_changes", "date")
    common = {fact: origin[fact] for fact in facts}
    shares = [{"operations": {"sort": 1}, "module": "", "share": share} for share in (0.2, 0.05)]
    rows = [
        {"family": "a", "outcome": "compiled"},
        {"family": "b", "outcome": "islands", "islands": shares},
        {"family": "c", "outcome": "refused", "why": "it reads values"},
        {"family": "d", "failed": "took longer"},
    ]
    text = families.markdown([{**common, **row} for row in rows])
    assert "- compiled (1): a" in text
    assert "- islands (1): b (25%, the largest 20%)" in text
    assert "- refused (1): c (it reads values)" in text
    assert "- failed (1): d (took longer)" in text
    assert families.markdown([]) == "Not measured yet."


@pytest.mark.slow
def test_the_scripts_measure_a_tiny_network(tmp_path: Path) -> None:
    out = tmp_path / "networks.jsonl"
    given = ["--out", str(out), "--only", "unet", "--images", "2", "--pixels", "16", "--steps", "1"]
    assert networks.main([*given, "--seconds", "-1"]) == 3
    assert networks.main(given) == 0
    assert networks.main(given) == 0  # which measures nothing more
    (row,), broken = json_lines.read(out)
    assert not broken
    assert "failed" not in row, row
    assert row["contenders"][OURS]["speed"] > 0
    lines = tmp_path / "families.jsonl"
    assert families.main(["--out", str(lines), "--only", "ghostnetv2"]) == 0
    (row,), _ = json_lines.read(lines)
    assert row["outcome"] in families.WITHOUT_FALLBACK
