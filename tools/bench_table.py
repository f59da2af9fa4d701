"""Turn pytest-benchmark's JSON into a short result file and a table of medians and ratios."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from files import write_whole


def condense(raw: dict[str, Any]) -> dict[str, Any]:
    """Keep of a benchmark run what a reader compares, and what it depends on.

    Args:
        raw: The content of a --benchmark-json file.

    Returns:
        machine, commit, date, and races: each a name, its baseline, the facts that were noted and
        rows of contender, median seconds and ratio (the baseline's median over this one's). A
        benchmark that timed one thing alone is a race of one.
    """
    races = []
    for benchmark in raw["benchmarks"]:
        facts = dict(benchmark.get("extra_info") or {})
        stats = benchmark["stats"]
        alone = {benchmark["name"]: {"median": stats["median"], "rounds": stats["rounds"]}}
        contenders = facts.pop("contenders", None) or alone
        baseline = facts.pop("baseline", None) or next(iter(contenders))
        base = contenders[baseline]["median"]
        rows = [
            {"name": name, **numbers, "ratio": base / numbers["median"]}
            for name, numbers in contenders.items()
        ]
        name = benchmark.get("group") or benchmark["name"]
        if benchmark.get("param"):
            name = f"{name} [{benchmark['param']}]"
        races.append({"name": name, "baseline": baseline, "facts": facts, "rows": rows})
    commit = raw.get("commit_info") or {}
    return {
        "machine": raw["machine_info"],
        "commit": commit.get("id"),
        "uncommitted_changes": commit.get("dirty"),
        "date": raw.get("datetime"),
        "races": races,
    }


def seconds(value: float) -> str:
    """A duration with three digits and a unit that suits it.

    >>> seconds(0.00123)
    '1.23 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def table(result: dict[str, Any]) -> str:
    """The races of a condensed result as text, one contender a line."""
    rows = [row for race in result["races"] for row in race["rows"]]
    width = max((len(row["name"]) for row in rows), default=0)
    lines = []
    for race in result["races"]:
        facts = ", ".join(f"{key} {value}" for key, value in race["facts"].items())
        lines.append(race["name"] + (f"  ({facts})" if facts else ""))
        for row in race["rows"]:
            note = "  baseline" if len(race["rows"]) > 1 and row["name"] == race["baseline"] else ""
            lines.append(
                f"  {row['name']:<{width}}  {seconds(row['median']):>9}  {row['ratio']:6.2f}×{note}"
            )
    machine = result["machine"]
    where = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('threads')} threads"
    lines.append(f"medians on {where}; torch {machine.get('torch')}; commit {result['commit']}")
    return "\n".join(lines)


def main() -> None:
    """Read the raw file, print the table, write the condensed file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path, help="what pytest --benchmark-json wrote")
    parser.add_argument("--out", type=Path, required=True, help="where the short result goes")
    parser.add_argument("--command", default="make bench", help="noted in the result")
    arguments = parser.parse_args()
    result = condense(json.loads(arguments.raw.read_text(encoding="utf-8")))
    result["command"] = arguments.command
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(arguments.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(table(result))
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
