"""The cluster tables agree with arithmetic by hand, and the document with its commands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import cluster_arithmetic as arithmetic  # noqa: E402
import simulate_cluster  # noqa: E402
from cluster_document import END, markdown, refresh_tables  # noqa: E402


def test_operations_agree_with_pytorchs_count() -> None:
    from sign_ext.experiments.stages.cost import flops_per_image

    for case, model, features in (
        ("imagenet21k", "inception_resnet_v2", 1536),
        ("cifar10", "basic_cnn", 512),
    ):
        side, forward = arithmetic.CASES[case].side, arithmetic.CASES[case].forward
        # SIGN stops before the classifier, here of ten classes.
        assert forward == flops_per_image(model, {}, (3, side, side)) - 2 * features * 10


def test_arithmetic_by_hand() -> None:
    case = arithmetic.Case("x", images=1000, side=5, source_bytes=40.0, forward=2e9)
    assert case.image_bytes("float32", 2) == 2 * 75 * 4
    assert case.gpu_rate("tf32", 0.5, steps=10) == pytest.approx(494.7e12 / 2 / (10 * 2 * 2e9))
    head, default, row = arithmetic.shards(
        case, [8], ranks=10, rate=2.0, dtype="float16", snapshots=2, request_seconds=0.01
    )
    assert default[0] == "223,696 (default)"  # 64 MiB of 300 bytes each
    assert dict(zip(head, row, strict=True)) == {
        "images per shard": "8",
        "size": "2.4 kB",
        "shards": "125",
        "shards per rank": "13",
        "work": "4 s",
        "memory": "6 kB",
        "creates + renames": "10/s",
        "manifest": "37.5 kB",
        "rank 0 at the end": "2.5 s",
        "lost at a pre-emption": "0.0056 GPU hours",
    }


def test_the_default_shard_size_is_the_stores() -> None:
    from sign_ext.store.manifest import SHARD_BYTES

    assert arithmetic.DEFAULT_SHARD_BYTES == SHARD_BYTES


def test_a_rate_is_read_from_a_benchmark(tmp_path: Path) -> None:
    facts = {"network": "net", "images": 128, "steps": 10}
    race = {"name": "iterative_sign [x]", "facts": facts, "rows": [{"name": "us", "median": 0.4}]}
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"races": [race]}))
    assert arithmetic.measured_rate(file, "net", "us", steps=100) == pytest.approx(32.0)
    with pytest.raises(ValueError, match="it has: us"):
        arithmetic.measured_rate(file, "net", "them", steps=100)


@pytest.mark.slow
def test_the_documents_tables_are_up_to_date(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every table that is not simulated, and one or two rows of the others: all take a minute."""
    monkeypatch.chdir(ROOT)
    quick = ("4,096 images per shard", "one of 125 jobs of 8 GPUs, listing its part")
    scenarios = {name: simulate_cluster.SCENARIOS[name] for name in quick}
    monkeypatch.setattr(simulate_cluster, "SCENARIOS", scenarios)
    text = (ROOT / "docs" / "scaling.md").read_text("utf-8")
    commands: list[list[str]] = []
    refresh_tables(text, commands.append)
    assert len(commands) == text.count("$ python benchmarks/simulate_cluster.py") > 5
    shown = re.findall(rf"\n\n((?:\|.*\n)+)\n{re.escape(END)}", text)
    simulated = 0
    for words, table in zip(commands, shown, strict=True):
        if "--vary" in words:
            words = [*words[: words.index("--vary") + 2], words[-1]]
        simulate_cluster.main(words)
        printed = capsys.readouterr().out
        if words[0] not in ("run", "breaks"):
            assert printed == table
            continue
        heading, _, *rows = printed.splitlines()
        assert heading == table.splitlines()[0]
        assert 1 <= len(rows) <= 2
        assert set(rows) <= set(table.splitlines())
        simulated += len(rows)
    assert simulated == 6


def test_a_documents_tables_are_replaced() -> None:
    block = "```console\n$ python benchmarks/simulate_cluster.py run \\\n    --x 1\n```\n\n"
    end = "<!-- end of what is generated -->\n"
    seen = []

    def run(words: object) -> None:
        seen.append(words)
        print("| new |")

    for old in ("", "| old |\n|---|\n| `--x` |\n\n"):
        assert refresh_tables(f"a\n{block}{old}{end}b", run) == f"a\n{block}| new |\n\n{end}b"
    assert seen == [["run", "--x", "1"]] * 2


def test_the_command_line(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(BENCHMARKS / "simulate_cluster.py"), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "assumptions" in run("--help").stdout
    small = ("run", "--case", "cifar10", "--seeds", "2", "--rate", "100", "--json")
    rows = json.loads(run(*small, "--vary", "ranks", "3", "4").stdout)
    assert [row["settings"]["ranks"] for row in rows] == [3, 4]
    for row in rows:
        assert row["efficiency"] + sum(row["waste_shares"].values()) == pytest.approx(1.0)
    wrong = run("run", "--vary", "colour", "1")
    assert wrong.returncode == 1
    assert "accepted: rate, shard_size" in wrong.stderr


def test_a_table_is_markdown() -> None:
    rows = [["a", "b", "c"], ["1", "2 s", "x"], ["2", "", "3"]]
    assert markdown(rows) == "| a | b | c |\n|---|---:|---|\n| 1 | 2 s | x |\n| 2 |  | 3 |"
