"""Run slices of one seed one after the other, and keep what each leaves.

    python tools/run_slices.py --data-root DIR                       # those of docs/results/medium
    python tools/run_slices.py --data-root DIR --slices a:4-6 b:2    # these alone, in this order

Each slice is `sign-ext reproduce slice_a --scale medium --only-seeds SEED` on one thread; slices of
a seed share its Φ, and D takes the networks of A. What `tools/collect_slice.py` keeps of it goes to
--out. A slice that is there is not run again, and one that was interrupted continues where it was:
call the same command again. A slice that fails is named at the end, and the others run.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from collect_slice import collect

ROOT = Path(__file__).resolve().parents[1]
# The protocol's pilot, a first seed of the other two, what describes the pilot, three seeds of
# each, then the 30 that the protocol's rule asks for after this pilot.
WANTED = ("a:1-3", "b:1", "c:1", "d:1-3", "a:4-5", "b:2-3", "c:2-3", "a:6-30", "b:4-30", "c:4-30")


class Slice(NamedTuple):
    """One seed of one slice."""

    letter: str
    seed: int

    @property
    def experiment(self) -> str:
        """Its name in `sign-ext reproduce`."""
        return f"slice_{self.letter}"

    @property
    def kept(self) -> str:
        """The file that shows that it is finished: collecting writes it."""
        return f"slice_{self.letter.upper()}_seed{self.seed}.answers.npz"


def parse_slices(text: str) -> list[Slice]:
    """Read "a:4" or "a:1-3".

    Example:
        >>> [(each.experiment, each.seed) for each in parse_slices("B:1-2")]
        [('slice_b', 1), ('slice_b', 2)]
    """
    found = re.fullmatch(r"(?:slice_)?([abcd]):(\d+)(?:-(\d+))?", text.lower())
    first, last = (int(found[2]), int(found[3] or found[2])) if found else (0, -1)
    if found is None or last < first:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no slice; accepted: a, b, c or d and its seeds, such as a:4 or a:1-3"
        )
    return [Slice(found[1], seed) for seed in range(first, last + 1)]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the data's files")
    parser.add_argument(
        "--slices",
        type=parse_slices,
        nargs="+",
        default=[parse_slices(each) for each in WANTED],
        metavar="SLICE:SEEDS",
        help=f"in this order; default: {' '.join(WANTED)}",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "medium")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "slices", help="artefacts")
    parser.add_argument("--scale", default="medium", help="a scale, or its YAML file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--python", default=sys.executable, help="interpreter that has sign_ext")
    given = parser.parse_args()
    if not given.data_root.is_dir():
        parser.error(f"--data-root: {given.data_root} is not a folder")
    slices = list(dict.fromkeys(each for several in given.slices for each in several))
    scale = (
        str(Path(given.scale).resolve()) if given.scale.endswith((".yaml", ".yml")) else given.scale
    )
    options = ["--scale", scale, "--device", given.device]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(given.threads),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    given.work.mkdir(parents=True, exist_ok=True)
    try:
        with alone_in(given.work):
            link(given.work / "data", given.data_root)
            command = [given.python, "-m", "sign_ext", "reproduce"]
            failed = run_slices(slices, command, options, given.work, given.out, environment)
    except BlockingIOError:
        parser.error(f"--work: another run uses {given.work}; give this one a folder of its own")
    except FileExistsError as error:
        parser.error(f"--work: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")
    print(afterwards(given.out), flush=True)
    if failed:
        sys.exit("failed: " + ", ".join(f"{each.experiment} seed {each.seed}" for each in failed))


def run_slices(
    slices: Sequence[Slice],
    command: Sequence[str],
    options: Sequence[str],
    work: Path,
    out: Path,
    environment: dict[str, str],
) -> list[Slice]:
    """Run the slices that `out` does not have.

    Args:
        slices: in order.
        command: what comes before an experiment's name.
        options: what comes after its seed.
        work: the working folder, with the data in `data`; gets a folder `seedN` for each seed.
        out: gets the files of `collect_slice`.
        environment: of the processes.

    Returns:
        Those that failed.
    """
    failed = []
    for number, each in enumerate(slices, start=1):
        name = f"[{number}/{len(slices)}] {each.experiment} seed {each.seed}"
        if (out / each.kept).exists():
            print(f"{name}: in {out}", flush=True)
            continue
        print(f"{name}: begins {time.strftime('%H:%M:%S')}", flush=True)
        began, spent = time.monotonic(), _processor_seconds()
        # Relative names, since the report has the command.
        line = [*command, each.experiment, "--only-seeds", str(each.seed), "--data-root", "data"]
        line += ["--out", f"seed{each.seed}", *options]
        code = subprocess.run(line, cwd=work, env=environment, check=False).returncode
        took = f"{(time.monotonic() - began) / 60:.1f} min, "
        took += f"{(_processor_seconds() - spent) / 60:.1f} of processor time"
        if code == 0:
            try:
                collect(work / f"seed{each.seed}", out)
            except (OSError, ValueError, KeyError) as error:
                print(f"{name}: cannot be collected: {error}", file=sys.stderr, flush=True)
                code = 1
        if code:
            failed.append(each)
        print(f"{name}: {'FAILED after' if code else 'finished in'} {took}", flush=True)
    return failed


def afterwards(out: Path) -> str:
    """Say which commands make use of the slices in a folder."""
    shown = out.resolve()
    here = Path.cwd()
    name = shown.relative_to(here) if shown.is_relative_to(here) else shown
    lines = ["next:", f"  sign-ext report {name} --out {name / 'joined'}"]
    if (shown.parent / "README.md").exists():
        lines.append(f"  python tools/paper_sentences.py {name.parent}")
    return "\n".join(lines)


def link(path: Path, target: Path) -> None:
    """Give a folder a name in the working folder.

    Raises:
        FileExistsError: the name stands for something else.
    """
    if path.is_symlink() or path.exists():
        if path.resolve() != target.resolve():
            raise FileExistsError(f"{path} is there and is not {target}; remove it")
        return
    path.symlink_to(target.resolve(), target_is_directory=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, since slices of a seed write the same report one after the other.

    Raises:
        BlockingIOError: another process holds it.
    """
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _processor_seconds() -> float:
    """Seconds that finished child processes have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
