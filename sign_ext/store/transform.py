"""A data set through SIGN into a store: read ahead, computed, and written behind."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sign_ext.data import ImageSource
from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.errors import NegligibleDeltaWarning, StoreError
from sign_ext.progress import Progress, reporting
from sign_ext.sign import SignTransform
from sign_ext.store.budget import Load, forget_peak, peak, plan_memory
from sign_ext.store.coordination import Ranks, only_writer
from sign_ext.store.lifecycle import begin, entries, finish, take_up
from sign_ext.store.manifest import (
    DTYPES,
    Manifest,
    Recipe,
    default_shard_size,
    shard_file,
    shard_range,
)
from sign_ext.store.pipeline import Shares, Work, fill_shards
from sign_ext.store.prefetch import OnError, Piece, read_piece
from sign_ext.store.provenance import first_readable, recipe_of
from sign_ext.store.shard import fault_of


@dataclass(frozen=True)
class StoreRun:
    """What a run of `transform_to_store` did.

    Attributes:
        folder: the store.
        manifest: complete on the first process, as it was begun on the others.
        made: shards that this process made.
        kept: shards of its own that were there and whole.
        damaged: what was wrong with those of its own that it made again.
        shares: where its time went.
    """

    folder: Path
    manifest: Manifest
    made: int
    kept: int
    damaged: tuple[str, ...]
    shares: Shares


def transform_to_store(
    sign: SignTransform,
    source: ImageSource,
    folder: str | Path,
    *,
    shard_size: int | None = None,
    dtype: str = "float32",
    on_error: OnError = "fail",
    memory: int | None = None,
    readers: int = 2,
    overwrite: bool = False,
    trust: bool = False,
    about: Recipe | None = None,
    ranks: Ranks | None = None,
    progress: Progress = False,
    say: Callable[[str], None] | None = None,
) -> StoreRun:
    """Transform a data set of any size into a folder of shards; run again, do what is missing.

    Under torchrun every process calls this with the same arguments and makes the shards whose
    index leaves its rank; the bytes are the same however many there are. A process killed at any
    moment loses the shard that it was at.

    Args:
        sign: the transform; its `snapshots` are what is stored.
        source: the data set, see `sign_ext.data.open_data`.
        folder: the store, made if needed.
        shard_size: images a shard; by default as many as make 64 MiB.
        dtype: of the stored images: "float32", "float16" or "bfloat16".
        on_error: what an image that cannot be read does: "fail", or "skip" and be listed.
        memory: bytes that the process may take in all; None for 4 GiB more than it takes
            before the first image.
        readers: chunks of images that are read at a time, on threads.
        overwrite: begin anew where the folder holds what another recipe made.
        trust: of shards that are there look at the size only, not at the checksum.
        about: what else belongs in the recipe, such as the checkpoint's configuration.
        ranks: which process this is; by default from the launcher's variables.
        progress: True for a bar, or a function of (image-steps done, all of this process).
        say: called with messages, the first being what `explain` says of the transform.

    Returns:
        What was done.

    Raises:
        FileExistsError: the folder holds what another recipe made; the message says what differs.
        StoreError: an image cannot be read, the disk is full, or another process cannot go on.
        StoreInUseError: another run writes this store.
        DivergenceError: an iterate is not finite.
        ValueError: an option out of range, or more memory needed than allowed.

    Example:
        >>> import tempfile
        >>> from sign_ext import SignTransform
        >>> from sign_ext.data import open_data
        >>> from sign_ext.models import build_model
        >>> sign = SignTransform(build_model("basic_cnn").eval(), steps=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = transform_to_store(sign, open_data("digits", train_size=20), folder)
        ...     run.made, run.shares.images
        (1, 20)
    """
    ranks = ranks or Ranks.from_environment()
    _check(source, dtype, shard_size, on_error, readers)
    sign = sign.with_options(snapshots=sign.settings.stops)
    device = next(sign.model.parameters()).device
    tune, sign = sign, sign.with_options(tune=False)
    one = _sample(source, 1, on_error).to(device)
    explanation = sign.explain(one)
    if say:
        say(str(explanation))
    recipe = recipe_of(tune, source, explanation, about)
    wanted = _wanted(recipe, source, sign.settings.stops, dtype, shard_size)
    batch = min(sign.images_at_once(one), wanted.shard_size)  # shards are transformed one by one
    sample = _sample(source, batch, on_error).to(device)
    forget_peak()
    _try_out(sign, sample)  # the engine's memory, which the budget has to hold too
    load = Load(
        math.prod(source.image_shape),
        len(wanted.snapshots),
        dtype,
        wanted.shard_size,
        batch,
        device.type == "cpu",
        DEFAULT_BATCH if sign.settings.batch_size is None else None,
    )
    plan = plan_memory(load, memory, peak(), ahead=readers + 1)
    folder = Path(folder)
    with ExitStack() as stack:
        there = _prepared(stack, folder, wanted, ranks, overwrite, tune, sample)
        if there.choices:
            sign = sign.with_options(tune=TuningPlan.from_dict(there.choices))
        missing, kept, damaged = _missing(folder, there, ranks, trust)
        if say:
            for fault in damaged:
                say(f"{fault}; it is made again")
        shares = Shares()
        if missing:
            steps = there.snapshots[-1]
            todo = sum(len(_range(there, shard)) for shard in missing) * steps
            report = stack.enter_context(reporting(progress, todo, "transforming"))
            work = Work(sign, source, folder, there, plan, readers, on_error)
            shares = fill_shards(work, missing, report)
        ranks.say_done()
        if ranks.first:
            ranks.wait_for_all()
            there = finish(folder, there)
    return StoreRun(folder, there, len(missing), kept, tuple(damaged), shares)


def _check(
    source: ImageSource, dtype: str, shard_size: int | None, on_error: str, readers: int
) -> None:
    if not len(source):
        raise ValueError(f"{source.name} has no images")
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}")
    if on_error not in ("fail", "skip"):
        raise ValueError(f"on_error is {on_error!r}; accepted: fail, skip")
    for name, value in (("shard_size", shard_size), ("readers", readers)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; accepted: 1 or more")


def _sample(source: ImageSource, batch: int, on_error: OnError) -> Tensor:
    """A batch to find Φ on and to try the engine with."""
    if on_error == "fail":
        return read_piece(
            source, Piece(0, 0, min(batch, len(source)), False), "fail"
        ).images.float()
    return first_readable(source, batch)


def _wanted(
    recipe: Recipe,
    source: ImageSource,
    snapshots: tuple[int, ...],
    dtype: str,
    shard_size: int | None,
) -> Manifest:
    """The manifest of the store that is asked for."""
    image_bytes = len(snapshots) * math.prod(source.image_shape) * DTYPES[dtype].itemsize
    return Manifest(
        recipe=recipe,
        images=len(source),
        shard_size=shard_size or default_shard_size(image_bytes, len(source)),
        snapshots=snapshots,
        dtype=dtype,
        image_shape=source.image_shape,
        class_names=source.class_names,
    )


def _prepared(
    stack: ExitStack,
    folder: Path,
    wanted: Manifest,
    ranks: Ranks,
    overwrite: bool,
    sign: SignTransform,
    sample: Tensor,
) -> Manifest:
    """The manifest on disk: the first process begins it under the lock, the others take it up."""
    if not ranks.first:
        ranks.wait_for_go()
        return take_up(folder, wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_writer(folder))
        there = begin(folder, wanted, overwrite=overwrite)
        if not there.choices and (choices := _choices(sign, sample)):
            there = replace(there, choices=choices)
            there.write(folder)
    except OSError as error:
        ranks.say_go(False)
        if isinstance(error, FileExistsError) and error.errno is None:
            raise
        raise StoreError(
            f"{folder} cannot be written ({error.strerror}); choose another folder"
        ) from error
    except BaseException:
        ranks.say_go(False)
        raise
    ranks.say_go(True)
    return there


def _choices(sign: SignTransform, sample: Tensor) -> dict[str, Any]:
    """The engine's choices for a batch, measured or given; {} where the fixed rule is to hold."""
    if sign.engines.fused.measure:
        sign = _try_out(sign, sample)
    return sign.plan.to_dict() if sign.plan.choices else {}


def _try_out(sign: SignTransform, sample: Tensor) -> SignTransform:
    """Take one step of one batch; whether the images move is told by the real steps."""
    once = sign.with_options(steps=1, snapshots=(1,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegligibleDeltaWarning)
        once.transform(sample)
    return once


def _missing(
    folder: Path, manifest: Manifest, ranks: Ranks, trust: bool
) -> tuple[list[int], int, list[str]]:
    """This process's shards that are to be made, how many others are whole, and what was wrong."""
    missing, damaged, kept = [], [], 0
    own = [shard for shard in range(manifest.shard_count) if ranks.owns(shard)]
    known = entries(folder, manifest, own)
    for shard in own:
        entry = known.get(shard)
        there = (folder / shard_file(shard)).exists()
        fault = fault_of(folder, shard, entry, checksum=not trust) if entry else "no record"
        if fault is None:
            kept += 1
            continue
        missing.append(shard)
        if there and entry:
            damaged.append(fault)
    return missing, kept, damaged


def _range(manifest: Manifest, shard: int) -> range:
    return shard_range(shard, manifest.shard_size, manifest.images)
