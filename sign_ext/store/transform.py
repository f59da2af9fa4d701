"""`transform_to_store`: a whole data set through SIGN, or another iteration, into a store."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sign_ext.data import ImageSource, source_of
from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.engine.fused.tuning_plan import TuningPlan
from sign_ext.engine.timing import clock
from sign_ext.errors import NegligibleDeltaWarning, StoreError
from sign_ext.explanation import Explanation
from sign_ext.formatting import duration
from sign_ext.iterate import InputIteration
from sign_ext.progress import Progress, reporting
from sign_ext.sign import SignTransform
from sign_ext.store.budget import Load, peak, plan_memory, reset_peak
from sign_ext.store.coordination import Ranks, exclusive_lock
from sign_ext.store.iteration import InputsIteration, Iteration, iteration_of, labels_for
from sign_ext.store.lifecycle import (
    finish,
    finished_manifest,
    join_store,
    old_store_until_a_shard,
    require_same_settings,
    resume_or_create,
    shard_entries,
)
from sign_ext.store.manifest import (
    DTYPES,
    MANIFEST,
    Manifest,
    Provenance,
    TargetKind,
    default_shard_size,
    read_manifest,
    shard_file,
    shard_range,
)
from sign_ext.store.pipeline import Shares, Work, fill_shards
from sign_ext.store.prefetch import OnError, listing_unreadable, sample_images
from sign_ext.store.provenance import provenance_of
from sign_ext.store.shard import fault_of


@dataclass(frozen=True)
class StoreRun:
    """What a run of `transform_to_store` did.

    Attributes:
        folder: the store.
        manifest: complete on the first process; without shards on the others.
        made: number of shards this process made.
        kept: number of its shards that existed and were whole.
        damaged: what was wrong with those of its shards that it made again.
        shares: where its time went.
        explanation: what computed, and why (`SignTransform.explain`).
    """

    folder: Path
    manifest: Manifest
    made: int
    kept: int
    damaged: tuple[str, ...]
    shares: Shares
    explanation: Explanation


def transform_to_store(
    sign: InputIteration | Iteration,
    source: ImageSource | Dataset[Any],
    folder: str | Path,
    *,
    shard_size: int | None = None,
    dtype: str = "float32",
    on_error: OnError = "fail",
    memory: int | None = None,
    readers: int = 2,
    overwrite: bool = False,
    trust: bool = False,
    about: Provenance | None = None,
    ranks: Ranks | None = None,
    progress: Progress = False,
    say: Callable[[str], None] | None = None,
) -> StoreRun:
    """Transform a data set of any size into a folder of shards, or complete an existing one.

    Under torchrun every process calls this with the same arguments. Each makes the shards whose
    index modulo the number of processes is its rank; the bytes do not depend on that number. A
    process killed at any point loses only the shards in progress.

    Args:
        sign: the transform, whose `snapshots` are stored; or another iteration: an
            `InputIteration`, or adversarial images by `sign_ext.store.AttackIteration`. Those with
            a loss take the labels of `source`, which must be the network's outputs.
        source: the data set, see `sign_ext.data.open_data`; or any data set of (image, target),
            which becomes one by `sign_ext.data.source_of`.
        folder: the store, created if needed.
        shard_size: images per shard; by default as many as fill 64 MiB.
        dtype: of the stored images: "float32", "float16" or "bfloat16".
        on_error: what to do about an image that cannot be read: "fail", or "skip" and list it.
        memory: bytes that the process may take in total; None is 4 GiB more than it takes before
            the first image.
        readers: number of threads that read and decode.
        overwrite: replace a store that was made with other settings. It stays until the first
            shard of the new one is written, and comes back if the run fails before that.
        trust: check existing shards by their size only, not by their checksum.
        about: what else belongs in the recipe, such as the checkpoint's configuration, or how
            `auto_step_size` found the step size.
        ranks: this process among several; by default from the launcher's variables.
        progress: True for a bar, or a function of (image-steps done, image-steps of this process).
        say: called with messages for people, among them where Φ is read, and a forecast of the
            time, from one step of a batch.

    Returns:
        What this process did.

    Raises:
        FileExistsError: the store was made with other settings; the message lists the differences.
            Or the folder holds shards without a manifest, a manifest of another program, or a
            training run.
        StoreError: an image cannot be read, the disk is full, or the first process failed.
        StoreInUseError: another run is writing this store.
        DivergenceError: an iterate is not finite.
        ValueError: an option is out of range, or `memory` is too small.

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
    source = source_of(source)
    _check(source, dtype, shard_size, on_error, readers)
    tuning = iteration_of(sign)
    _check_labels(tuning, source)
    device = next(tuning.model.parameters()).device
    # Measuring, if asked for, happens once and under the lock, in `_choices`.
    iteration = tuning.tuned(False)
    with listing_unreadable(source, say):
        one = Sample.of(iteration, source, 1, on_error, device)
    explanation = iteration.explain(one.images, one.labels)
    provenance = provenance_of(tuning, source, explanation, about)
    wanted = _wanted(provenance, source, iteration.stops, dtype, shard_size)
    # Shards are transformed one by one.
    batch = min(iteration.images_at_once(one.images, one.labels), wanted.shard_size)
    with listing_unreadable(source, say):
        sample = Sample.of(iteration, source, batch, on_error, device)
    reset_peak()
    # Allocates the engine's memory, which the budget must include.
    step = _seconds_of_a_step(_try_out(iteration, sample), sample)
    load = Load(
        image=math.prod(source.image_shape),
        snapshots=len(wanted.snapshots),
        dtype=dtype,
        shard=wanted.shard_size,
        batch=batch,
        on_cpu=device.type == "cpu",
        target=_target_bytes(source),
        min_batch=DEFAULT_BATCH if iteration.batch_size is None else None,
    )
    plan = plan_memory(load, memory, peak(), ahead=readers + 1)
    folder = Path(folder)
    with ExitStack() as stack:
        if ranks.world == 1 and (finished := finished_manifest(folder, wanted)):
            missing, kept, damaged = _missing(folder, finished, ranks, trust)
            if not missing:  # nothing to write, so the store may be read-only
                return StoreRun(folder, finished, 0, kept, (), Shares(), explanation)
        manifest = _prepare(stack, folder, wanted, ranks, overwrite, tuning, sample)
        if manifest.choices:
            iteration = iteration.tuned(_tuning_plan(folder, manifest))
        missing, kept, damaged = _missing(folder, manifest, ranks, trust)
        if say:
            for fault in damaged:
                say(f"{fault}; it is made again")
        shares = Shares()
        if missing:
            images = sum(len(_positions(manifest, shard)) for shard in missing)
            total = images * iteration.image_steps
            if say:
                say(explanation.in_short())
                own = " of this process" if ranks.world > 1 else ""
                say(
                    f"{images:,} images{own}, K = {manifest.snapshots[-1]}: computing takes about "
                    f"{duration(total * step)} on {device}"
                )
            report = stack.enter_context(reporting(progress, total, "transforming"))
            work = Work(
                iteration, source, folder, manifest, plan, readers, on_error, first=ranks.first
            )
            with listing_unreadable(source, say):
                shares = fill_shards(work, missing, report)
        ranks.send_done()
        if ranks.first:
            ranks.wait_for_all()
            manifest = finish(folder, manifest)
    return StoreRun(folder, manifest, len(missing), kept, tuple(damaged), shares, explanation)


def refuse_other_settings(
    sign: SignTransform,
    source: ImageSource,
    folder: str | Path,
    *,
    shard_size: int | None = None,
    dtype: str = "float32",
    on_error: OnError = "fail",
    about: Provenance | None = None,
) -> None:
    """Refuse a store that no calibrated step size can fit, before calibrating takes its time.

    Args:
        sign: as for `transform_to_store`; its step size does not count.
        source: the data set.
        folder: the store; it need not exist.
        shard_size: as for `transform_to_store`.
        dtype: as for `transform_to_store`.
        on_error: as for `transform_to_store`.
        about: as for `transform_to_store`, without "calibration".

    Raises:
        FileExistsError: the store was made with other settings; the message lists the differences.
    """
    folder = Path(folder)
    try:
        recipe = read_manifest(folder).recipe
    except (OSError, ValueError):
        return  # there is none, or `transform_to_store` says what is wrong with it
    settings = recipe.get("settings")
    step_size = settings.get("step_size") if isinstance(settings, dict) else None
    if isinstance(step_size, float):
        sign = sign.with_options(step_size=step_size)
    found = {"calibration": recipe.get("calibration", {})}
    iteration = InputsIteration(sign)
    device = next(sign.model.parameters()).device
    with listing_unreadable(source, None):
        one = Sample.of(iteration, source, 1, on_error, device)
    explanation = iteration.tuned(False).explain(one.images, one.labels)
    provenance = provenance_of(iteration, source, explanation, {**(about or {}), **found})
    require_same_settings(
        folder, _wanted(provenance, source, sign.settings.stops, dtype, shard_size)
    )


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


def _check_labels(iteration: Iteration, source: ImageSource) -> None:
    if iteration.needs_labels and source.targets is not None:
        raise ValueError(
            f"{source.name} has targets of shape {tuple(source.targets.shape)} and dtype "
            f"{source.targets.dtype}; this iteration needs one class an image: give a data set "
            "with classes"
        )


def _wanted(
    provenance: Provenance,
    source: ImageSource,
    snapshots: tuple[int, ...],
    dtype: str,
    shard_size: int | None,
) -> Manifest:
    """Return the manifest of the store that is asked for, without shards."""
    image_bytes = len(snapshots) * math.prod(source.image_shape) * DTYPES[dtype].itemsize
    return Manifest(
        recipe=provenance,
        images=len(source),
        shard_size=shard_size or default_shard_size(image_bytes, len(source)),
        snapshots=snapshots,
        dtype=dtype,
        image_shape=source.image_shape,
        class_names=source.class_names,
        targets=_target_kind(source),
    )


def _target_kind(source: ImageSource) -> TargetKind | None:
    if source.targets is None:
        return None
    return TargetKind.of(torch.empty(0, *source.targets.shape, dtype=source.targets.dtype))


def _target_bytes(source: ImageSource) -> int:
    if source.targets is None:
        return 8
    return math.prod(source.targets.shape) * source.targets.dtype.itemsize


def _prepare(
    stack: ExitStack,
    folder: Path,
    wanted: Manifest,
    ranks: Ranks,
    overwrite: bool,
    tuning: Iteration,
    sample: Sample,
) -> Manifest:
    """Return the manifest on disk; the first process writes it under the lock, which it keeps.

    Whatever goes wrong in the first process, the others are told: they are waiting for "go".
    """
    if not ranks.first:
        ranks.wait_for_go()
        return join_store(folder, wanted)
    # Of several processes each checks its own shards, so nobody knows yet whether all are whole.
    finished = finished_manifest(folder, wanted) if ranks.world > 1 else None
    if finished and not os.access(folder, os.W_OK):
        ranks.send_go(True)
        return finished
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(exclusive_lock(folder))
        if ranks.world == 1:  # other processes may be writing shards when this one fails
            stack.enter_context(old_store_until_a_shard(folder))
        manifest = resume_or_create(folder, wanted, overwrite=overwrite)
        if not manifest.choices and (choices := _choices(tuning, sample)):
            manifest = replace(manifest, choices=choices)
            manifest.write(folder)
    except OSError as error:
        ranks.send_go(False)
        # Of `resume_or_create`, about other settings; the system's own has an errno.
        if isinstance(error, FileExistsError) and error.errno is None:
            raise
        raise StoreError(
            f"{folder} cannot be written ({error.strerror}); choose another folder"
        ) from error
    except BaseException:
        ranks.send_go(False)
        raise
    ranks.send_go(True)
    return manifest


def _choices(tuning: Iteration, sample: Sample) -> dict[str, Any]:
    """Return the engine's choices for a batch, measured or given; {} for the fixed rule's."""
    if tuning.measures:
        tuning = _try_out(tuning, sample)
    return tuning.plan.to_dict() if tuning.plan.choices else {}


def _tuning_plan(folder: Path, manifest: Manifest) -> TuningPlan:
    """Return the engine's choices that the manifest holds."""
    try:
        return TuningPlan.from_dict(manifest.choices)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{folder / MANIFEST}: choices is not a tuning plan of sign_ext ({error!r}). Transform "
            "again into another folder, or overwrite this one (--overwrite)"
        ) from error


@dataclass(frozen=True, eq=False)
class Sample:
    """The first images of a data set, to try the engine on.

    Attributes:
        images: float32 (n, 3, H, W) on the network's device, n ≥ 1.
        labels: int64 (n,), after unreadable images perhaps another image's; None for an iteration
            that needs none.
        positions: int64 (n,).
    """

    images: Tensor
    labels: Tensor | None
    positions: Tensor

    @classmethod
    def of(
        cls,
        iteration: Iteration,
        source: ImageSource,
        count: int,
        on_error: OnError,
        device: torch.device,
    ) -> Sample:
        """Read them; the errors are those of `sample_images`."""
        images = sample_images(source, count, on_error).to(device)
        positions = torch.arange(len(images))
        return cls(images, labels_for(iteration, source, positions, device), positions)

    def run(self, iteration: Iteration) -> None:
        """Let an iteration work on them."""
        iteration.run(self.images, self.labels, self.positions)


def _try_out(iteration: Iteration, sample: Sample) -> Iteration:
    """Take one step of one batch, without the warning about a negligible δ: the run gives it."""
    once = iteration.one_step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegligibleDeltaWarning)
        sample.run(once)
    return once


def _seconds_of_a_step(once: Iteration, sample: Sample) -> float:
    """Time one step of one image, in a batch, with one that has computed such a batch."""
    seconds = clock(lambda: sample.run(once), 1, sample.images.device)
    return seconds / len(sample.images) / once.image_steps


def _missing(
    folder: Path, manifest: Manifest, ranks: Ranks, trust: bool
) -> tuple[list[int], int, list[str]]:
    """Check this process's shards.

    Returns:
        The shards to be made, the number of whole ones, and what was wrong with damaged ones.
    """
    missing, damaged, kept = [], [], 0
    own = [shard for shard in range(manifest.shard_count) if ranks.owns(shard)]
    faults: dict[int, str] = {}
    known = shard_entries(folder, manifest, set(own), faults)
    for shard in own:
        entry = known.get(shard)
        exists = (folder / shard_file(shard)).exists()
        fault = fault_of(folder, shard, entry, checksum=not trust) if entry else faults.get(shard)
        if entry is None and fault is None:
            fault = f"{shard_file(shard)} has no record"
        if fault is None:
            kept += 1
            continue
        missing.append(shard)
        if exists and (entry or shard in faults):
            damaged.append(fault)
    return missing, kept, damaged


def _positions(manifest: Manifest, shard: int) -> range:
    return shard_range(shard, manifest.shard_size, manifest.images)
