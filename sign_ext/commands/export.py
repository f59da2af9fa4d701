"""Write a store of transformed images as files that anyone can open, names and labels kept.

  png         OUT/K050/CLASS/NAME.png, 8 bits a channel; images.csv lists them
  webp        the same as lossless WebP, smaller and slower
  npy         OUT/K050.npy, float32 (N, C, H, W), unclipped; labels.npy
  hf          Parquet for datasets.load_dataset("OUT"), or ("OUT", "K050")
  webdataset  OUT/K050/000000.tar …, with NAME.png, NAME.cls and NAME.json

SIGN leaves the range of 8-bit images: all formats but npy clip values to 0–255
and round them. What that loses is counted and printed for each K.

OUT appears when it is complete. Until then the files are in OUT.unfinished, and
the same command continues where it was stopped.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sign_ext.commands import console
from sign_ext.commands.console import UsageError
from sign_ext.commands.options import PositiveInt, option
from sign_ext.commands.shared import StoreOptions, require_one_process
from sign_ext.formatting import bytes_in_words, counted, percent

if TYPE_CHECKING:
    from sign_ext.store.export import Export

EXAMPLES = (
    "sign-ext export runs/transformed --to png --out images",
    "sign-ext export runs/transformed --to hf --snapshots 100 --out for-a-colleague",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(StoreOptions):
    """Options of `sign-ext export`."""

    to: str = option(
        type=Literal["png", "webp", "npy", "hf", "webdataset"], help="The format, as above."
    )
    out: str = option(help="Folder to write.", metavar="DIR")
    snapshots: tuple[int, ...] | None = option(
        None,
        type=PositiveInt,
        nargs="+",
        metavar="K",
        help="Numbers of steps to export. Default: all in the store.",
    )
    names: str = option(
        "name",
        type=Literal["name", "path", "position"],
        help="What a file is called: the image's own name, its whole path in the data set (where "
        "names occur twice), or its number in the store.",
    )
    overwrite: bool = option(
        False, type=bool, help="Replace an earlier export in OUT that was made otherwise."
    )


def run(options: Options) -> None:
    """Export and print what was written and lost."""
    from sign_ext.store.export import export_store

    require_one_process("export")
    store, out = Path(options.store).resolve(), Path(options.out).resolve()
    if store == out or store in out.parents:
        raise UsageError(
            f"--out {options.out} lies in the store {options.store}: give a folder elsewhere"
        )
    with console.progress(f"exporting to {options.to}") as report:
        done = export_store(
            options.store,
            options.out,
            options.to,  # type: ignore[arg-type]
            snapshots=options.snapshots,
            naming=options.names,  # type: ignore[arg-type]
            overwrite=options.overwrite,
            progress=report,
        )
    if options.json:
        console.print_json(done.to_dict())
        return
    if done.made < done.parts:
        what = "all of it existed" if not done.made else "the rest existed"
        console.say(f"wrote {counted(done.made, 'part')} of {done.parts:,}; {what}")
    print(
        f"{done.out}: {counted(done.images, 'image')} for each K, {counted(done.files, 'file')}, "
        f"{bytes_in_words(done.bytes)}"
    )
    if done.loss:
        console.print_rich(_table(done))
    else:
        print("nothing was clipped or rounded")


def _table(done: Export) -> Any:
    from rich.table import Table

    table = Table(title="Lost in 8 bits (rms in grey levels, over all values)")
    for name in ("K", "values", "clipped", "below 0", "above 255", "rms clipping", "rms rounding"):
        table.add_column(name, justify="right")
    for step, loss in done.loss.items():
        table.add_row(
            str(step),
            f"{loss.values:,}",
            f"{percent(loss.clipped_share, 2)}%",
            f"{loss.below:,}",
            f"{loss.above:,}",
            f"{loss.clipping_rms:.3g}",
            f"{loss.rounding_rms:.3g}",
        )
    return table
