"""A step size that nobody has to choose: calibrate's proposal, found once for a store.

The number and how it was found are part of the store's recipe. A rerun takes it from there, so that
it neither waits nor, on another day, arrives at another number.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sign_ext.data import ImageSource
from sign_ext.data.splits import stratified_choice
from sign_ext.progress import Progress
from sign_ext.sign import SignTransform
from sign_ext.store.coordination import CALIBRATION, Ranks
from sign_ext.store.manifest import MANIFEST, Provenance, as_json, read_manifest
from sign_ext.store.prefetch import OnError, Piece, listing_unreadable, read_piece
from sign_ext.store.provenance import weights_sha256

IMAGES = 64
TARGET_SHARE = 0.02
PIXEL_RANGE = 255.0

# The settings that a proposal depends on; the others change memory and speed, or come after it.
DECISIVE = ("steps", "layer", "momentum", "linearize_at", "clamp", "precision")


def auto_step_size(
    sign: SignTransform,
    train: ImageSource,
    folder: str | Path,
    *,
    seed: int = 0,
    on_error: OnError = "fail",
    ranks: Ranks | None = None,
    progress: Progress = False,
    say: Callable[[str], None] | None = None,
) -> tuple[SignTransform, Provenance]:
    """Give a transform the step size that `calibrate` proposes, or the one that a store records.

    What is proposed moves 64 training images by 2% of 255 grey levels (rms) in K = `sign`'s steps.
    Their labels are used only to draw as many images of every class as its share, by the same rule
    as `sign-ext calibrate --split train`. Under torchrun the first process measures, and the
    others wait for its number.

    Args:
        sign: the transform; its own step size is not used.
        train: the training images.
        folder: the store to come. If it was made with a step size found in this way, for the same
            network, images and settings, that is taken, and nothing is measured.
        seed: of the choice of images.
        on_error: what to do about a chosen image that cannot be read: "fail", or "skip" it.
        ranks: this process among several; by default from the launcher's variables.
        progress: True for a bar, or a function of (image-steps done, total).
        say: called with a forecast, and then with the step size.

    Returns:
        The transform with the step size, and how it was found, for the recipe of
        `transform_to_store`: `about={"calibration": found}`.

    Raises:
        ValueError: there is nothing to measure, as `SignTransform.calibrate` says.
        StoreError: an image cannot be read, or the first process failed.

    Example:
        >>> import tempfile
        >>> from sign_ext import SignTransform
        >>> from sign_ext.data import open_data
        >>> from sign_ext.models import build_model
        >>> from sign_ext.store import transform_to_store
        >>> digits = open_data("digits", train_size=20)
        >>> sign = SignTransform(build_model("basic_cnn").eval(), steps=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sign, found = auto_step_size(sign, digits, folder)
        ...     _ = transform_to_store(sign, digits, folder, about={"calibration": found})
        ...     again, _ = auto_step_size(sign, digits, folder)
        >>> again.settings.step_size == sign.settings.step_size, found["images"]
        (True, 20)
    """
    ranks = ranks or Ranks.from_environment()
    folder = Path(folder)

    def find() -> dict[str, Any]:
        wanted = _description(sign, train, seed)
        network = weights_sha256(sign.model)
        if recorded := _recorded(folder, wanted, network, _decisive(asdict(sign.settings))):
            if say:
                say(f"step size {recorded['step_size']:g}, as recorded in {folder / MANIFEST}")
            return recorded
        with listing_unreadable(train, say):
            images = _images(train, int(wanted["images"]), seed, on_error)
        device = next(sign.model.parameters()).device
        # What `tune` chooses belongs to the shards, and would be measured for each step size.
        table = sign.with_options(tune=False).calibrate(
            images.to(device),
            steps=sign.settings.steps,
            step_sizes=(),
            target_share=TARGET_SHARE,
            pixel_range=PIXEL_RANGE,
            progress=progress,
            say=say,
        )
        row = next(row for row in table.rows if row.step_size == table.proposed)
        found = {**wanted, "step_size": table.proposed, "rms": row.rms}
        if say:
            say(
                f"step size {table.proposed:g}, proposed for {len(images)} images of {train.name}: "
                f"it moves them by {row.rms:.3g} grey levels (rms) in K = {table.steps} steps"
            )
        return as_json(found)

    found = ranks.from_first(CALIBRATION, find)
    return sign.with_options(step_size=found["step_size"]), found


def _description(sign: SignTransform, train: ImageSource, seed: int) -> dict[str, Any]:
    """What is measured, as the recipe holds it."""
    return {
        "data": train.name,
        "fingerprint": train.fingerprint,
        "images": min(IMAGES, len(train)),
        "seed": seed,
        "steps": sign.settings.steps,
        "target_share": TARGET_SHARE,
        "pixel_range": PIXEL_RANGE,
    }


def _decisive(settings: dict[str, Any]) -> dict[str, Any]:
    return as_json({name: settings.get(name) for name in DECISIVE})


def _recorded(
    folder: Path, wanted: dict[str, Any], network: str, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """What a store's recipe says of the same calibration; None if it says nothing of it."""
    try:
        recipe = read_manifest(folder).recipe
    except (OSError, ValueError):
        return None  # there is none, or `transform_to_store` says what is wrong with it
    found, made_by, made_with = (
        recipe.get(name) for name in ("calibration", "network", "settings")
    )
    if not (isinstance(found, dict) and isinstance(made_by, dict) and isinstance(made_with, dict)):
        return None
    same = {name: found.get(name) for name in wanted} == wanted
    same = same and made_by.get("weights_sha256") == network and _decisive(made_with) == settings
    step_size = found.get("step_size")
    if not same or made_with.get("step_size") != step_size:
        return None
    if not isinstance(step_size, float) or not math.isfinite(step_size) or step_size <= 0:
        return None
    return found


def _images(train: ImageSource, count: int, seed: int, on_error: OnError) -> Tensor:
    """Read the chosen images, and no others: float32 (n, 3, H, W)."""
    chosen = stratified_choice(np.asarray(train.labels), count, seed=seed)
    parts = []
    for position in chosen.tolist():
        parts.append(read_piece(train, Piece(0, position, position + 1, False), on_error).images)
    if not sum(map(len, parts)):
        raise ValueError(f"none of the {count} images of {train.name} to calibrate on can be read")
    return torch.cat(parts).to(torch.float32)
