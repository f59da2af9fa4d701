"""Hardware counters of a few launches from ncu: one fact per kernel; full output in ncu.csv."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from common import NEEDS_GPU, begin, seconds_left
from facts import Facts

SECTIONS = (
    "SpeedOfLight",
    "LaunchStats",
    "Occupancy",
    "SchedulerStats",
    "WarpStateStats",
    "ComputeWorkloadAnalysis",
    "MemoryWorkloadAnalysis",
)
METRICS = (
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "sm__inst_executed_pipe_tensor.sum",
    "smsp__inst_executed.sum",
    "smsp__average_warps_issue_stalled_barrier_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_short_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_long_scoreboard_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_mio_throttle_per_issue_active.ratio",
    "smsp__average_warps_issue_stalled_math_pipe_throttle_per_issue_active.ratio",
)
MIN_SECONDS = 10.0  # ncu is not started with less time left


def find_ncu() -> str | None:
    """The path of ncu, looked up on PATH and in the CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("ncu", path=os.pathsep.join(places))


def record_report(report: Path, facts: Facts) -> bool:
    """Record one fact per launch, with all of ncu's metrics and units.

    Args:
        report: ncu's CSV of the page "details", after ncu's messages.
        facts: Where to record.

    Returns:
        Whether there was any launch.
    """
    lines = report.read_text(errors="replace").splitlines() if report.exists() else []
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(lines[begin:]):
        if row.get("Metric Name") and row.get("Metric Value"):
            launch = launches.setdefault(f"{row['ID']} {row['Kernel Name'][:60]}", {})
            launch |= {name: row[name] for name in ("Grid Size", "Block Size") if row.get(name)}
            launch[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    for name, values in launches.items():
        facts.record("counters", kernel=name, values=values)
    if not launches:
        facts.record("no counters", output="\n".join(lines[-8:])[-1000:])
    return bool(launches)


def main() -> None:
    """Run the launches under ncu."""
    device, facts = begin()
    script = str(Path(__file__).with_name("launches.py"))
    ncu = find_ncu()
    if device.type != "cuda" or ncu is None:
        subprocess.run([sys.executable, script], check=True)
        facts.record(
            "counters", why=NEEDS_GPU if ncu or device.type != "cuda" else "skipped: no ncu"
        )
        return
    report, until = facts.file.with_name("ncu.csv"), time.monotonic() + seconds_left() - 6
    command = [ncu, "--clock-control", "none", "--profile-from-start", "off", "--csv"]
    command += ["--page", "details", "--print-units", "base", "--log-file", str(report)]
    command += [word for section in SECTIONS for word in ("--section", section)]
    # Names of metrics differ between chips, and ncu refuses to run with an unknown one: if it
    # fails, try again without metrics.
    for metrics in (["--metrics", ",".join(METRICS)], []):
        if until - time.monotonic() < MIN_SECONDS:
            return
        try:
            run = [*command, *metrics, sys.executable, script]
            subprocess.run(run, timeout=until - time.monotonic(), check=False)
        finally:
            found = record_report(report, facts)
        if found:
            return


if __name__ == "__main__":
    main()
