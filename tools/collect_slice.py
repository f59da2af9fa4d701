"""Take from a finished slice what is kept of it: its numbers, and what each network answered.

Of `sign-ext reproduce slice_a --scale medium --only-seeds 1 --out OUT`, the folder DEST gets

    slice_A_seed1.json           results.json, for `sign-ext report`
    slice_A_seed1.answers.npz    for each network and measure, bits of right answers (packed) and
                                 the true class's probability (float16), by image; of slice D all
                                 that was measured of each image

    python tools/collect_slice.py OUT DEST
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np

from sign_ext.evaluation.answers import Answers
from sign_ext.experiments.stages.measure import ANSWERS
from sign_ext.files import write_whole
from sign_ext.report.results_page import JSON
from sign_ext.report.schema import Results


def main() -> None:
    """Collect one slice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="of `sign-ext reproduce`, with one slice and seed")
    parser.add_argument("dest", type=Path)
    given = parser.parse_args()
    for path in collect(given.out, given.dest):
        print(path, path.stat().st_size)


def collect(out: Path, dest: Path) -> list[Path]:
    """Write both files and return their paths.

    Args:
        out: folder of a `sign-ext reproduce` of one slice with one seed.
        dest: a folder; it is created.

    Raises:
        ValueError: it has another number of slices or seeds.
    """
    results = Results.read(out / JSON)
    names = [each.name for each in results.experiments]
    if len(names) != 1 or not names[0].startswith("slice_") or len(results.seeds) != 1:
        raise ValueError(
            f"{out / JSON} has {names} with seeds {results.seeds}; accepted: one slice, one seed."
        )
    arrays: dict[str, np.ndarray] = {}
    seen: set[Path] = set()
    for table in results.experiments[0].tables:
        for row in table.rows:
            # The first is the stage that measured, which several tables may share.
            folder = out / "artefacts" / row.stages[0]
            if folder in seen:  # several rows are of one stage in slice D
                continue
            seen.add(folder)
            kind = folder.name.partition("-")[0]
            record = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
            where = "out of distribution" if record["stage"]["config"].get("ood") else "test"
            answers = Answers.read(folder / ANSWERS)
            name = f"{row.group}/{row.label}/{kind}/{where}"
            kept = answers.values.keys() & {"correct", "probability"} or answers.values.keys()
            for measure in sorted(kept):
                values = answers.values[measure]
                bits = values.dtype == np.bool_
                packed_values = np.packbits(values) if bits else values.astype(np.float16)
                arrays[f"{name}/{measure}"] = packed_values
                arrays[f"{name}/images"] = np.array(len(values))
    stem = f"slice_{names[0][-1].upper()}_seed{results.seeds[0]}"
    dest.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    files = [dest / f"{stem}.json", dest / f"{stem}.answers.npz"]
    write_whole(files[0], (out / JSON).read_text(encoding="utf-8"))
    write_whole(files[1], packed.getvalue())
    return files


if __name__ == "__main__":
    main()
