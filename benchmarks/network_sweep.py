"""Race ours against its peers on the networks that people bring, one after the other.

    python benchmarks/network_sweep.py                        # `make bench-networks`: resumes
    python benchmarks/network_sweep.py --threads 2 --only resnet50
    python benchmarks/network_sweep.py --compile              # six, torch.compile too
    python benchmarks/network_sweep.py --markdown docs/performance.md     # fills the table

Each race is one process, and one line of the file `--out`. A line counts while the sources that it
was measured with, the machine and torch are unchanged. The exit status is 3 if races are left.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import network_list
import network_race
import network_table
import sweep
from json_lines import Row

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import bench_table

from sign_ext.files import write_whole
from sign_ext.formatting import counted

FACTS = ("network", "images", "pixels", "steps", "threads", "compiled")
SCRIPTS = ("network_list.py", "network_race.py", "family_list.py")
LIMITS = sweep.Limits(within=float("inf"), seconds=600.0, gigabytes=12.0)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sweep.add_options(parser, "networks.jsonl", LIMITS)
    add = parser.add_argument
    add("--steps", type=int, default=5, help="K (5)")
    add("--threads", type=int, default=1, help="of torch (1)")
    add("--images", type=int, help="at a time, instead of each network's own number")
    add("--pixels", type=int, help="height and width, instead of each network's own")
    add("--compile", action="store_true", help="torch.compile too, on six networks and only those")
    add("--markdown", type=Path, help="document whose section to fill; measures nothing")
    given = parser.parse_args(arguments)
    sweep.require_known(parser, given.only, network_list.CONTESTS)
    for name in ("steps", "threads", "images", "pixels"):
        value = getattr(given, name)
        if value is not None and value < 1:
            parser.error(f"--{name}: {value} was given, at least 1 is accepted")
    return given


def cells(given: argparse.Namespace) -> list[Row]:
    """The races that the options ask for."""
    names = given.only or (network_list.COMPILED if given.compile else network_list.CONTESTS)
    return [
        {
            "network": name,
            "images": given.images or network_list.CONTESTS[name].images,
            "pixels": given.pixels or network_list.CONTESTS[name].pixels,
            "steps": given.steps,
            "threads": given.threads,
            "compiled": given.compile,
        }
        for name in names
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, list it, or fill the table."""
    given = options(arguments)
    table = sweep.Sweep(given.out, FACTS, SCRIPTS)
    if given.markdown:
        text = network_table.markdown(table.newest())
        old = given.markdown.read_text(encoding="utf-8")
        write_whole(given.markdown, bench_table.fill(old, "networks.jsonl", text))
        print(f"filled: {given.markdown}")
        return 0
    wanted = cells(given)
    missing = wanted if given.again else table.missing(wanted)
    if given.list:
        print("\n".join(cell["network"] for cell in missing) or "nothing left")
        return 0
    left = table.fill(missing, network_race.measure, network_table.describe, sweep.limits_of(given))
    state = f"{counted(left, 'race')} left, call again" if left else "nothing left"
    print(f"{state}: {len(wanted) - left} of {counted(len(wanted), 'race')} in {given.out.name}")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
