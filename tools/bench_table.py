"""Turn pytest-benchmark's JSON into a short result file and into tables.

    bench_table.py build/bench-raw.json --out benchmarks/results/bench.json
    bench_table.py benchmarks/results/bench_cpu.json --markdown docs/performance.md

The second form fills the section of a document that is marked as generated from bench_cpu.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from files import write_whole

END = "<!-- end of what is generated -->"
# Rates and counts among a race's facts → the unit that they are printed in.
UNITS = {
    "matmul_flop_per_s": (1e9, "GFLOP/s"),
    "copy_bytes_per_s": (1e9, "GB/s"),
    "flop_per_image_step": (1e6, "MFLOP"),
    "bytes_moved": (1e6, "MB"),
    "floor_seconds": (1e-3, "ms"),
}


def condense(raw: dict[str, Any]) -> dict[str, Any]:
    """Reduce a benchmark run to the numbers that readers compare, and what they depend on.

    Args:
        raw: The content of a --benchmark-json file.

    Returns:
        machine, commit, date and races. A race has a name, what it measures ("time" or "memory"),
        its baseline, facts, rows, and the absent contenders with reasons. A row of a time race has
        the contender's name, median seconds and ratio (the baseline's median over its own: how
        many times as fast). A row of a memory race has bytes per image and ratio (its own over the
        baseline's). A benchmark of a single function is a race with one contender.
    """
    races = []
    for benchmark in raw["benchmarks"]:
        facts = dict(benchmark.get("extra_info") or {})
        memory = facts.pop("memory", None)
        stats = benchmark["stats"]
        alone = {benchmark["name"]: {"median": stats["median"], "rounds": stats["rounds"]}}
        contenders = memory or facts.pop("contenders", None) or alone
        baseline = facts.pop("baseline", None) or next(iter(contenders))
        base = contenders[baseline]
        absent = facts.pop("absent", {})
        rows = [
            {"name": name, **numbers}
            | {
                "ratio": numbers["per_image"] / base["per_image"]
                if memory
                else base["median"] / numbers["median"]
            }
            for name, numbers in contenders.items()
        ]
        name = benchmark.get("group") or benchmark["name"]
        if benchmark.get("param"):
            name = f"{name} [{benchmark['param']}]"
        races.append(
            {
                "name": name,
                "measures": "memory" if memory else "time",
                "baseline": baseline,
                "facts": facts,
                "rows": rows,
                "absent": [{"name": name, "reason": why} for name, why in absent.items()],
            }
        )
    commit = raw.get("commit_info") or {}
    return {
        "machine": raw["machine_info"],
        "commit": commit.get("id"),
        "uncommitted_changes": commit.get("dirty"),
        "date": raw.get("datetime"),
        "races": races,
    }


def seconds(value: float) -> str:
    """Format a duration with three digits and a suitable unit.

    >>> seconds(0.00123)
    '1.23 ms'
    """
    for unit, one in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def size(value: float) -> str:
    """Format a number of bytes with three digits and a suitable unit.

    >>> size(1_234_567)
    '1.23 MB'
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= one:
            return f"{value / one:.3g} {unit}"
    return f"{value:.0f} B"


def fact(key: str, value: object) -> str:
    """Format a fact of a race: its name and its value in a readable unit.

    >>> fact("matmul_flop_per_s", 95.2e9)
    'matmul 95.2 GFLOP/s'
    """
    if key in UNITS and isinstance(value, int | float):
        one, unit = UNITS[key]
        for ending in ("_flop_per_s", "_bytes_per_s", "_seconds"):
            key = key.removesuffix(ending)
        return f"{key.replace('_', ' ')} {value / one:.3g} {unit}"
    return f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"


def columns(race: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A race as headings and rows of text, without columns that are empty in every row."""
    if race.get("measures", "time") == "memory":
        shown: dict[str, Any] = {
            "peak": lambda row: size(row["peak"]),
            "per image": lambda row: size(row["per_image"]),
            "of baseline": lambda row: f"{row['ratio']:.2f}",
            "per additional image": lambda row: size(row["per_further_image"]),
            "saved by autograd": lambda row: size(row["saved_per_image"]),
        }
    else:
        shown = {
            "median": lambda row: seconds(row["median"]),
            "speed": lambda row: f"{row['ratio']:.2f}×",
            "of matmul": lambda row: f"{row['share_of_matmul']:.1%}",
            "of floor": lambda row: f"{row['share_of_floor']:.1%}",
            "peak memory": lambda row: size(row["peak"]),
        }
    table: dict[str, list[str]] = {}
    for heading, render in shown.items():
        cells = []
        for row in race["rows"]:
            try:
                cells.append(render(row))
            except KeyError:
                cells.append("")
        if any(cells):
            table[heading] = cells
    names = [row["name"] for row in race["rows"]]
    return ["", *table], [list(each) for each in zip(names, *table.values(), strict=True)]


def provenance(result: dict[str, Any]) -> str:
    """The machine, versions and commit of the numbers, in one line."""
    machine = result.get("machine", result)
    place = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('threads')} threads"
    changed = " with uncommitted changes" if result.get("uncommitted_changes") else ""
    return f"{place}; torch {machine.get('torch')}; commit {result['commit']}{changed}"


def table(result: dict[str, Any]) -> str:
    """The races of a condensed result as text, one contender per line."""
    races = result["races"]
    names = [row["name"] for race in races for row in [*race["rows"], *race.get("absent", [])]]
    width = max((len(name) for name in names), default=0)
    lines = []
    for race in races:
        facts = ", ".join(fact(key, value) for key, value in race["facts"].items())
        lines.append(race["name"] + (f"  ({facts})" if facts else ""))
        headings, rows = columns(race)
        parts = [headings[1:], *(row[1:] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*parts, strict=True)]
        aligned = [
            "  ".join(cell.rjust(w) for cell, w in zip(part, widths, strict=True)) for part in parts
        ]
        if len(rows) > 1:
            lines.append(f"  {'':<{width}}  {aligned[0]}")
        for (name, *_), line in zip(rows, aligned[1:], strict=True):
            note = "  baseline" if len(rows) > 1 and name == race["baseline"] else ""
            lines.append(f"  {name:<{width}}  {line}{note}".rstrip())
        lines += [f"  {e['name']:<{width}}  {e['reason']}" for e in race.get("absent", [])]
    lines.append(f"medians and peaks on {provenance(result)}")
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The races of a result (of `make bench`, or gpu_check.json) as Markdown tables."""
    lines = [f"Measured on {provenance(result)}, {str(result.get('date'))[:10]}."]
    for race in result.get("races", result.get("benchmarks", [])):
        headings, rows = columns(race)
        facts = ", ".join(fact(key, value) for key, value in race["facts"].items())
        lines += ["", f"**{race['name']}** ({facts})", ""]
        lines += [" | ".join(["", *headings, ""]).strip()]
        lines += ["|" + "|".join(["---", *("---:" for _ in headings[1:])]) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        absent = "; ".join(f"{each['name']} ({each['reason']})" for each in race.get("absent", []))
        if absent:
            lines += ["", f"Not run: {absent}."]
    return "\n".join(lines)


def fill(document: str, source: str, text: str) -> str:
    """Replace the generated section of a document.

    Args:
        document: Contains a line `<!-- generated from SOURCE … -->` and, later, `END`.
        source: Name of the file that the text is generated from.
        text: The new content between the two lines.

    Raises:
        ValueError: The document has no such section.
    """
    begin = f"<!-- generated from {source}"
    before, found, rest = document.partition(begin)
    remark, closed, rest = rest.partition("-->\n")
    _, ended, after = rest.partition(END)
    if not (found and closed and ended):
        raise ValueError(f"the document has no section {begin!r} … {END!r}")
    return f"{before}{begin}{remark}-->\n\n{text}\n\n{END}{after}"


def main() -> None:
    """Print the table of a file; write the condensed file or a section of a document."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, help="JSON from pytest --benchmark-json, or a condensed result"
    )
    parser.add_argument("--out", type=Path, help="file for the condensed result")
    parser.add_argument("--markdown", type=Path, help="document whose generated section to fill")
    parser.add_argument("--command", default="make bench", help="command to record in the result")
    arguments = parser.parse_args()
    result = json.loads(arguments.source.read_text(encoding="utf-8"))
    if "machine_info" in result:
        result = {**condense(result), "command": arguments.command}
    if arguments.markdown:
        old = arguments.markdown.read_text(encoding="utf-8")
        name = (arguments.out or arguments.source).name
        write_whole(arguments.markdown, fill(old, name, markdown(result)))
        print(f"filled: {arguments.markdown}")
    else:
        print(table(result))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(arguments.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
