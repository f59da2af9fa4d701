"""Plan `sign-ext transform` on a cluster: estimates in closed form, and simulated runs.

    simulate_cluster.py job | compute | shards | assumptions     tables of estimates
    simulate_cluster.py run --ranks 1000 --shard-size 512        a simulated run
    simulate_cluster.py run --vary ranks 8 64 512                a table of simulated runs
    simulate_cluster.py breaks                                   effects of other assumptions
    simulate_cluster.py fill docs/scaling.md                     regenerate a document's tables

The rate of a process is given (--rate), read from a benchmark (--rate-from
benchmarks/results/FILE.json) or an assumed share of a GPU's peak (--precision, --utilisation). All
units are seconds, bytes and images.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cluster_arithmetic as arithmetic
import numpy as np
from cluster import WASTE, Cluster, HopelessError, Outcome
from cluster_arithmetic import BYTES, CASES, CREATES, FLUSHES, PEAKS, RENAMES, Rows, duration
from cluster_document import markdown, refresh_tables
from cluster_run import simulate

# Field of Cluster → (default, description, source of the default).
ASSUMED: dict[str, tuple[float | None, str, str]] = {
    "shard_size": (512, "images per shard", "choice"),
    "ranks": (1000, "processes, one GPU each", "choice"),
    "start_up": (60, "seconds from launch to the first image", "assumption"),
    "restart": (180, "the same after a pre-emption, including the wait for machines", "assumption"),
    "sigma": (0.05, "lognormal σ of a shard's time", "assumption"),
    "slow_share": (0.01, "share of ranks that are slow throughout", "assumption"),
    "slow_factor": (1.3, "how much longer slow ranks take", "assumption"),
    "job_interval": (float("inf"), "mean seconds between pre-emptions of the job", "choice"),
    "rank_interval": (1.8e8, "mean seconds between failures of one rank", "Llama 3, below"),
    "bandwidth": (100e9, "bytes/s of the file system, all ranks together", "assumption"),
    "link": (2e9, "bytes/s of the file system, one rank", "assumption"),
    "hash_rate": (1.5e9, "bytes/s of SHA-256, one process", "measured: one core, AMD EPYC"),
    "shard_seconds": (0.05, "seconds a shard waits for fsync", "assumption"),
    "operations": (
        CREATES + RENAMES + FLUSHES,
        "creates, renames and fsyncs per shard",
        "counted",
    ),
    "operation_rate": (1e4, "such requests/s, all ranks together", "assumption"),
    "request_seconds": (0.0005, "seconds to open or remove a file", "assumption"),
    "open_rate": (1e5, "files opened per second, all ranks together", "assumption"),
    "listed": (0, "images that each rank lists at each start", "excluded here"),
    "list_seconds": (40e-6, "seconds to list one image in tars", "measured: one core, AMD EPYC"),
    "list_rate": (4e5, "images listed per second, all ranks together", "assumption"),
}
# Title → command-line options that change one assumption.
SCENARIOS = {
    "as assumed": "",
    "shards of 64 MiB": "--shard-size 62",
    "float32 stored": "--dtype float32",
    "a file system of 10 GB/s": "--bandwidth 10e9",
    "each rank lists 14 million images": "--listed 14197122",
    "one of 125 jobs of 8 GPUs, listing its part": "--images 113577 --listed 113577 --ranks 8 "
    "--bandwidth 8e8 --operation-rate 80 --open-rate 800 --list-rate 3200",
    "start-up takes five minutes": "--start-up 300 --restart 420",
    "1% of the ranks at half speed": "--slow-factor 2",
    "4,096 images per shard": "--shard-size 4096",
    "pre-empted every 10 minutes": "--job-interval 600",
    "pre-empted every 10 minutes, sizes trusted": "--job-interval 600 --trust",
    "each GPU is lost once in 2 days": "--rank-interval 172800",
}


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("assumptions", help="the defaults of `run` and their sources")
    for name, text in (
        ("job", "operations and bytes of the cases"),
        ("compute", "GPU time and data rates, by precision"),
        ("shards", "effects of the shard size"),
        ("run", "a simulated run, or a table of runs"),
    ):
        each = commands.add_parser(name, help=text, description=text)
        _add_options(each)
    each = commands.add_parser("breaks", help="effects of other assumptions, worst first")
    each.add_argument("--seeds", type=int, default=10)
    each = commands.add_parser("fill", help="regenerate the tables of a document")
    each.add_argument("document", type=Path)
    commands.choices["shards"].add_argument(
        "--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 4096], metavar="N"
    )
    run = commands.choices["run"]
    add = run.add_argument
    add("--trust", action="store_true", help="a restart checks sizes only, not checksums")
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=10, help="number of runs to average (default: 10)")
    add("--vary", nargs="+", metavar=("OPTION", "VALUE"), help="one row per value of an option")
    add("--json", action="store_true", help="print all numbers as JSON")
    return top


def _add_options(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--case", choices=CASES, default="imagenet21k", help="data set and network")
    add("--images", type=int, help="number of images (default: the case's)")
    add("--steps", type=int, default=100, help="K (default: 100)")
    add("--snapshots", type=int, default=2, help="snapshots per image (default: 2)")
    add("--dtype", choices=BYTES, default="float16", help="dtype of the store (default: float16)")
    add("--rate", type=float, help="images/s of one process, with K steps each")
    add("--rate-from", type=Path, metavar="JSON", help="a result of `make bench`")
    add("--network", default="basic_cnn", help="network in --rate-from (default: basic_cnn)")
    add(
        "--contender",
        default="sign_ext fused",
        help="contender in --rate-from (default: sign_ext fused)",
    )
    add(
        "--precision",
        choices=PEAKS,
        default="bfloat16",
        help="precision of the H100 peak (default: bfloat16)",
    )
    add("--utilisation", type=float, default=0.3, help="assumed share of the peak (default: 0.3)")
    for name, (default, text, _) in ASSUMED.items():
        kind = int if name in ("shard_size", "ranks") else float
        option = "--" + name.replace("_", "-")
        add(option, type=kind, default=default, help=f"{text} (default: {default:g})")


def _case(options: argparse.Namespace) -> arithmetic.Case:
    case = CASES[options.case]
    return dataclasses.replace(case, images=options.images or case.images)


def _rate(options: argparse.Namespace) -> float:
    if options.rate is not None:
        return float(options.rate)
    if options.rate_from is not None:
        return arithmetic.measured_rate(
            options.rate_from, options.network, options.contender, options.steps
        )
    return _case(options).gpu_rate(options.precision, options.utilisation, options.steps)


def cluster_of(options: argparse.Namespace) -> Cluster:
    """The job that the command line describes."""
    case = _case(options)
    return Cluster(
        images=case.images,
        rate=_rate(options),
        image_bytes=case.image_bytes(options.dtype, options.snapshots),
        source_bytes=case.source_bytes,
        hashed_bytes=case.values,
        trust=options.trust,
        **{name: getattr(options, name) for name in ASSUMED},
    )


def variants(options: argparse.Namespace) -> tuple[str, list[Cluster]]:
    """The name of the option that varies, and a cluster for each of its values."""
    cluster = cluster_of(options)
    if not options.vary:
        return "ranks", [cluster]
    name = options.vary[0].lstrip("-").replace("-", "_")
    if name not in (*ASSUMED, "rate") or len(options.vary) < 2:
        raise ValueError(
            f"--vary {' '.join(options.vary)}: give an option and its values, as in "
            f"--vary ranks 8 64; accepted: rate, {', '.join(ASSUMED)}."
        )
    kind = int if name in ("shard_size", "ranks") else float
    changes: list[dict[str, Any]] = [{name: kind(value)} for value in options.vary[1:]]
    return name, [dataclasses.replace(cluster, **each) for each in changes]


def summary(cluster: Cluster, seeds: Sequence[int]) -> dict[str, Any]:
    """Average several runs; the efficiency and the shares of waste sum to 1.

    Args:
        cluster: The job.
        seeds: One run per seed.

    Returns:
        Seconds (mean, minimum and maximum), ideal seconds, efficiency, pre-emptions, waste in
        rank-seconds and as shares; or the reason why a run never ends.
    """
    try:
        runs: list[Outcome] = [simulate(cluster, seed) for seed in seeds]
    except HopelessError as error:
        return {"never_ends": str(error)}
    seconds = [each.seconds for each in runs]
    mean = float(np.mean(seconds))
    waste = {name: float(np.mean([each.waste[name] for each in runs])) for name in WASTE}
    return {
        "seconds": mean,
        "least": min(seconds),
        "most": max(seconds),
        "ideal": cluster.ideal,
        "efficiency": cluster.ideal / mean,
        "preemptions": float(np.mean([each.preemptions for each in runs])),
        "waste_rank_seconds": waste,
        "waste_shares": {name: spent / (mean * cluster.ranks) for name, spent in waste.items()},
    }


def run(options: argparse.Namespace) -> None:
    """Simulate and print a table or JSON."""
    name, clusters = variants(options)
    seeds = range(options.seed, options.seed + options.seeds)
    found = [(each, summary(each, seeds)) for each in clusters]
    if options.json:
        rows = [{"settings": _finite(each), **numbers} for each, numbers in found]
        print(json.dumps(rows, indent=2, allow_nan=False))
        return
    heads = [name.replace("_", " "), "shards", "time", "least – most", "ideal", "pre-emptions"]
    table: Rows = [[*heads, "efficiency", *(each.replace("_", "-") for each in WASTE)]]
    for each, numbers in found:
        first = [f"{getattr(each, name):,.4g}" if name != "ranks" else f"{each.ranks:,}"]
        first.append(f"{each.shards:,}")
        if "never_ends" in numbers:
            table.append([*first, "never ends", *[""] * (len(table[0]) - len(first) - 1)])
            continue
        span = f"{duration(numbers['least'])} – {duration(numbers['most'])}"
        shares = [numbers["efficiency"], *numbers["waste_shares"].values()]
        table.append(
            [*first, duration(numbers["seconds"]), span, duration(numbers["ideal"])]
            + [f"{numbers['preemptions']:.2g}"]
            + [f"{share:z.1%}" for share in shares]
        )
    print(markdown(table))


def _finite(cluster: Cluster) -> dict[str, Any]:
    """A cluster's settings for JSON, which has no infinity: None means no limit."""
    settings = dataclasses.asdict(cluster)
    return {name: None if value == float("inf") else value for name, value in settings.items()}


def breaks(seeds: int) -> Rows:
    """The table of the effects of other assumptions, worst first."""
    found = []
    for label, changes in SCENARIOS.items():
        options = parser().parse_args(["run", *changes.split()])
        found.append((label, changes, summary(cluster_of(options), range(seeds))))
    found.sort(key=lambda each: -each[2].get("seconds", float("inf")))
    rows = [["", "options", "time", "efficiency", "largest waste"]]
    for label, changes, numbers in found:
        cells = ["never ends", "", ""]
        if "seconds" in numbers:
            name, share = max(numbers["waste_shares"].items(), key=lambda each: each[1])
            cells = [duration(numbers["seconds"]), f"{numbers['efficiency']:.1%}"]
            cells.append(f"{name.replace('_', '-')}, {share:.0%}")
        rows.append([label, f"`{changes}`" if changes else "", *cells])
    return rows


def tables(options: argparse.Namespace) -> Rows:
    """The table of a command without simulation, or of `breaks`."""
    if options.command == "assumptions":
        rows = [
            [f"`--{name.replace('_', '-')}`", f"{default:g}", text, source]
            for name, (default, text, source) in ASSUMED.items()
        ]
        return [["option", "default", "what", "source"], *rows]
    if options.command == "breaks":
        return breaks(options.seeds)
    case, steps, snapshots = _case(options), options.steps, options.snapshots
    if options.command == "job":
        return arithmetic.job(steps, snapshots, options.hash_rate)
    if options.command == "compute":
        return arithmetic.compute(case, options.ranks, options.utilisation, steps, snapshots)
    return arithmetic.shards(
        case,
        options.sizes,
        ranks=options.ranks,
        rate=_rate(options),
        dtype=options.dtype,
        snapshots=snapshots,
        request_seconds=options.request_seconds,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line (default: the process's)."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "run":
            run(options)
        elif options.command == "fill":
            text = options.document.read_text("utf-8")
            options.document.write_text(refresh_tables(text, main), "utf-8")
        else:
            print(markdown(tables(options)))
    except (ValueError, OSError) as error:
        sys.exit(f"simulate_cluster.py: {error}")


if __name__ == "__main__":
    main()
