"""The peer table: every network, precision, batch and contender, measured cell by cell.

    python benchmarks/peer_table.py --out build/peer_table.json --seconds 500    # repeatedly
    python benchmarks/peer_table.py --list                                       # what is missing
    python benchmarks/peer_table.py --markdown docs/performance.md --plot docs/images/peers.svg

Each cell is stored as soon as it is measured, so the script can be stopped at any time; call it
until it prints "nothing left". Cells of other sources, machines or versions of torch stay in the
file, but are neither counted nor shown.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import peer_measure
import torch
from contenders import first_line
from peer_cells import Cell, Race, Table, origin_here, read
from peer_show import fill_document, plot

from sign_ext.settings import PRECISIONS

NETWORKS = ("basic_cnn", "mobilenet_v2", "nasnet_mobile", "inception_resnet_v2")
IMAGES = {"inception_resnet_v2": (64, 4)}
USUAL_IMAGES = (1024, 64)
# More steps if a step is short, so that the fixed cost of a call matters little.
STEPS = {"nasnet_mobile": 10, "inception_resnet_v2": 5}
USUAL_STEPS = 50


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("build/peer_table.json"), help="the file of cells")
    add("--start", type=Path, help="file to start from if --out does not exist")
    add("--seconds", type=float, default=float("inf"), help="start no cell after this time")
    add("--device", choices=("cpu", "cuda"), help="default: cuda if available")
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    add("--precisions", nargs="+", choices=PRECISIONS, help="default: all; on a CPU only float32")
    add("--images", nargs="+", type=int, help="batch sizes (default: two for each network)")
    add("--steps", type=int, help="K (default: depends on the network)")
    add("--contenders", nargs="+", metavar="NAME", help="measure only these contenders")
    add("--list", action="store_true", help="print the missing cells; measures nothing")
    add("--markdown", type=Path, help="document whose section to fill; measures nothing")
    add("--plot", type=Path, help="SVG to draw (needs matplotlib); measures nothing")
    found = parser.parse_args()
    found.device = found.device or ("cuda" if torch.cuda.is_available() else "cpu")
    found.precisions = found.precisions or (
        list(PRECISIONS) if found.device == "cuda" else ["float32"]
    )
    for name in ("images", "steps"):
        value = getattr(found, name)
        if value is not None and min([value] if isinstance(value, int) else value) < 1:
            parser.error(f"--{name}: {value} was given, at least 1 is accepted")
    return found


def requested_cells(arguments: argparse.Namespace) -> list[Cell]:
    """All requested cells, race after race; contenders that compile for minutes come last."""
    races = [
        Race(
            network=network,
            precision=precision,
            images=images,
            steps=arguments.steps or STEPS.get(network, USUAL_STEPS),
            device=arguments.device,
        )
        for place in range(len(arguments.images or USUAL_IMAGES))
        for network in arguments.networks
        for precision in arguments.precisions
        for images in [(arguments.images or IMAGES.get(network, USUAL_IMAGES))[place]]
    ]
    cells = [Cell(race, name) for race in races for name in peer_measure.names(race)]
    if arguments.contenders:
        known = {cell.contender for cell in cells}
        if unknown := set(arguments.contenders) - known:
            raise ValueError(
                f"--contenders: {', '.join(sorted(unknown))} was given; accepted are "
                f"{', '.join(sorted(known))}"
            )
        cells = [cell for cell in cells if cell.contender in arguments.contenders]
    return sorted(cells, key=lambda cell: peer_measure.LONG in cell.contender)


def command() -> str:
    """This command line, without absolute paths of the machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", "benchmarks/peer_table.py", *words])


class LostError(RuntimeError):
    """The CUDA context is lost: this process cannot measure any more, a new one can."""


class CellMeasurer:
    """Measures cells in order, keeping a race's network between its cells."""

    def __init__(self, table: Table) -> None:
        """Start without a network; it is built on demand."""
        self._table = table
        self._prepared: peer_measure.PreparedRace | None = None

    def _prepare(self, race: Race, images: int) -> peer_measure.PreparedRace:
        prepared = self._prepared
        if prepared is None or (prepared.race, len(prepared.task.images)) != (race, images):
            self._prepared = prepared = None  # free it first: two may not fit in memory
            peer_measure.free_memory()
            self._prepared = prepared = peer_measure.PreparedRace(race, images)
        return prepared

    def measure(self, cell: Cell) -> dict[str, Any]:
        """Measure a cell; halve the number of images until it fits in memory."""
        images = cell.race.images
        while True:
            peer_measure.free_memory()
            try:
                return self._prepare(cell.race, images).measure(cell.contender)
            except ImportError as error:  # the network needs a missing library such as timm
                return {"absent": first_line(error)}
            except torch.OutOfMemoryError:
                self._prepared = None
                if images == 1:
                    return {"absent": "out of memory with one image"}
                images //= 2

    def add(self, cell: Cell) -> str:
        """Measure a cell and store it; returns a short description of the result."""
        if self._table.begin(cell):
            facts = self.measure(cell)
        else:
            facts = {"absent": "the process ended each time this was measured"}
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        facts |= {"date": now, "command": command(), "commit": self._table.origin["commit"]}
        self._table.add(cell, facts)
        if "absent" in facts:
            return str(facts["absent"])
        return f"{facts['median']:.4g} s, {facts['speed']:.2f} times the naive loop"


def measure_missing(arguments: argparse.Namespace, table: Table) -> None:
    """Measure missing cells until the time is up, and print how many are left."""
    until = time.monotonic() + arguments.seconds
    cells = requested_cells(arguments)
    left = table.missing(cells)
    measurer = CellMeasurer(table)
    while left and time.monotonic() < until:
        print(f"{left[0]} ... ", end="", flush=True)
        print(measurer.add(left[0]), flush=True)
        left = left[1:]
        if peer_measure.context_is_lost(torch.device(arguments.device)):
            raise LostError(
                f"the last cell destroyed the CUDA context: {len(left)} left, call again"
            )
    state = f"{len(left)} left, call again" if left else "nothing left"
    print(f"{state}: {len(cells) - len(left)} of {len(cells)} cells are in {table.path.name}")


def main() -> int:
    """Measure, list or show; returns 2 for a wrong file or option, 3 if the GPU is lost."""
    arguments = options()
    try:
        if arguments.markdown or arguments.plot:
            content = read(arguments.out)
            if arguments.markdown:
                fill_document(arguments.markdown, arguments.out.name, content)
                print(f"filled: {arguments.markdown}")
            if arguments.plot:
                plot(arguments.plot, content)
                print(f"drawn: {arguments.plot}")
            return 0
        table = Table(arguments.out, origin_here(torch.device(arguments.device)), arguments.start)
        if others := table.count_of_other_origins():
            print(f"{others} cells of other sources or machines are kept, but not counted")
        if arguments.list:
            left = table.missing(requested_cells(arguments))
            print("\n".join(map(str, left)) if left else "nothing left")
        else:
            measure_missing(arguments, table)
    except (ValueError, ImportError) as error:
        print(f"peer_table: {error}", file=sys.stderr)
        return 2
    except LostError as error:
        print(f"peer_table: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
