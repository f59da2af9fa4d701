"""The tables of docs/beyond.md, from what `make parity-attacks` and `make bench-attacks` wrote.

attack_tables.py --markdown docs/beyond.md
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

from bench_table import fill, provenance  # noqa: E402  (found by the line above)
from files import write_whole  # noqa: E402

PARITY = "attack_parity.json"
SPEED = "attacks_cpu.json"


def share(value: float) -> str:
    """A share in percent; only 1 is 100%.

    >>> share(1.0), share(0.99999)
    ('100%', '99.99%')
    """
    return "100%" if value == 1 else f"{int(value * 10_000) / 100:.2f}%"


def parity_table(result: dict[str, Any]) -> str:
    """One line for each check, the worst of the networks."""
    machine = {**result["machine"], "commit": result["commit"]}
    peers = ", ".join(f"{name} {release}" for name, release in result["libraries"].items())
    networks = list(dict.fromkeys(row["network"] for row in result["rows"]))
    lines = [
        f"Share of equal values, {result['images']} images of 32×32, {peers} ({place(machine)}; "
        "`make parity-attacks`):",
        "",
        "| | with | network | float64 | float32 | float32, step by step |",
        "|---|---|---|---:|---:|---:|",
    ]
    for check in dict.fromkeys(row["check"] for row in result["rows"]):
        for network in networks:
            found = {
                row["dtype"]: row
                for row in result["rows"]
                if (row["network"], row["check"]) == (network, check)
            }
            wide, single = found["float64"], found["float32"]
            steps = single["steps_equal"]
            cells = [
                check,
                wide["library"],
                network,
                share(wide["equal"]),
                share(single["equal"]),
                "–" if steps is None else share(steps),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed_table(result: dict[str, Any]) -> str:
    """One line for each network, with the quartiles of the ratios of single rounds."""
    races: dict[str, dict[str, tuple[str, str]]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for race in result["races"]:
        (row,) = (each for each in race["rows"] if each["name"] == "sign_ext")
        low, _, high = row["ratio_quartiles"]
        kind, network = race["name"].partition(" [")[0], race["facts"]["network"]
        text = f"{row['ratio']:.2f}× ({low:.2f}–{high:.2f})"
        name = f"{network}, {race['facts']['images']} images"
        races.setdefault(name, {})[kind] = (text, race["facts"]["backend"])
        facts[kind] = race["facts"]
    pgd, integrated = facts["PGD"], facts["integrated gradients"]
    lines = [
        "Speed of sign_ext relative to each library, images of 32×32 in float32, one process, in "
        f"turns ({provenance(result)}; `{result['command']}`): ratios of medians, "
        "and quartiles of the ratios of single rounds.",
        "",
        f"| | backend | PGD, {pgd['steps']} steps, over torchattacks | integrated gradients, "
        f"{integrated['points']} points, over captum |",
        "|---|---|---:|---:|",
    ]
    for network, found in races.items():
        backend = " and ".join(dict.fromkeys(each[1] for each in found.values()))
        cells = [found[kind][0] if kind in found else "–" for kind in facts]
        lines.append("| " + " | ".join([network, backend, *cells]) + " |")
    return "\n".join(lines)


def place(machine: dict[str, Any]) -> str:
    """Machine, torch and commit."""
    return provenance({"machine": machine, "commit": machine["commit"]})


def main() -> None:
    """Print both tables, or fill the sections of a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--markdown", type=Path, help="document whose sections to fill")
    arguments = parser.parse_args()
    made = {PARITY: parity_table, SPEED: speed_table}
    for name, table in made.items():
        path = arguments.results / name
        if not path.exists():
            print(f"{path} does not exist")
            continue
        text = table(json.loads(path.read_text(encoding="utf-8")))
        if arguments.markdown:
            old = arguments.markdown.read_text(encoding="utf-8")
            write_whole(arguments.markdown, fill(old, name, text))
        else:
            print(text, end="\n\n")


if __name__ == "__main__":
    main()
