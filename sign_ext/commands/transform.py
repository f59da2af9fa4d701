"""Apply SIGN to a data set with a trained network, and store the transformed images.

Each step adds the gradient of the sum of the network's last-layer outputs
(before the logits) to the images. --snapshots keeps the images after several
step counts from one trajectory: no step is computed twice. OUT gets the
images, unrounded, and a manifest of how they were made; feed it to
`sign-ext train --sign OUT`.

The step size depends on the network and on the data: `sign-ext calibrate`
shows what each one does to the images, and proposes one.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import PositiveInt

from sign_ext.commands import console
from sign_ext.commands.errors import UsageError
from sign_ext.commands.options import option
from sign_ext.commands.shared import (
    CheckpointOptions,
    SignOptions,
    check_folder,
    checkpoint_data,
    part_of,
    read_checkpoint,
    resolve_device,
)
from sign_ext.files import sha256_of

EXAMPLES = (
    "sign-ext transform --checkpoint runs/classical/model.safetensors --data digits \\",
    "    --steps 100 --snapshots 50 100 --step-size 30 --out runs/transformed",
)

TINY = 0.1  # grey levels rms: less is hardly a change, and likely a step size left at its default


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(SignOptions, CheckpointOptions):
    """Options of `sign-ext transform`."""

    out: str = option(help="Folder for the transformed images and manifest.", metavar="DIR")
    steps: int = option(50, type=PositiveInt, help="K: how often δ is added.")
    snapshots: tuple[int, ...] | None = option(
        None,
        type=PositiveInt,
        nargs="+",
        metavar="K",
        help="Keep the images after each of these step counts. Default: only after --steps.",
    )
    step_size: float = option(
        1.0, type=float, help="Factor of δ; `sign-ext calibrate` proposes one."
    )
    split: str = option(
        "train", type=Literal["train", "validation", "test"], help="Which part to transform."
    )
    train_size: int | None = option(
        None, type=PositiveInt, help="As in `sign-ext train`: a subset of the training images."
    )
    overwrite: bool = option(False, type=bool, help="Replace what an earlier run left in OUT.")


def run(options: Options) -> None:
    """Transform the images and write OUT."""
    from sign_ext import SignTransform
    from sign_ext.data import save_transformed
    from sign_ext.data.transformed import MANIFEST

    snapshots = _snapshots(options)
    device = resolve_device(options.device)
    out = check_folder(options.out)
    if not options.overwrite and (out / MANIFEST).exists():
        raise FileExistsError(
            f"--out {out} already holds transformed images: give --overwrite, or another folder"
        )
    model, config = read_checkpoint(options.checkpoint, device)
    splits, name = checkpoint_data(options, config, train_size=options.train_size)
    images = part_of(splits, options.split)
    settings: dict[str, Any] = {
        "steps": options.steps,
        "snapshots": snapshots,
        "step_size": options.step_size,
        **options.sign_settings(),
    }
    began = time.perf_counter()
    transform = SignTransform(model, **settings)
    pixels = images.float().to(device)
    explanation = transform.explain(pixels[:1])
    console.say(str(explanation))
    with console.progress("transforming") as report:
        result = transform.transform(pixels, progress=report)
    seconds = time.perf_counter() - began
    assert isinstance(result, dict)
    result = {steps: tensor.cpu() for steps, tensor in result.items()}
    manifest = _manifest(options, name, images, settings, explanation.to_dict())
    save_transformed(out, result, images.labels, manifest=manifest, overwrite=options.overwrite)
    _print(options, out, images.float(), result, seconds)


def _snapshots(options: Options) -> tuple[int, ...]:
    snapshots = tuple(sorted(set(options.snapshots or [options.steps])))
    if snapshots[-1] > options.steps:
        raise UsageError(
            f"--snapshots {snapshots[-1]} is beyond --steps {options.steps}: "
            f"raise --steps or leave it out"
        )
    return snapshots


def _manifest(
    options: Options, name: str, images: Any, settings: dict[str, Any], explanation: dict[str, Any]
) -> dict[str, Any]:
    from sign_ext.data import fingerprint
    from sign_ext.report.environment import versions

    path = Path(options.checkpoint)
    path = path / "model.safetensors" if path.is_dir() else path
    return {
        "checkpoint": {"file": path.name, "sha256": sha256_of(path)},
        "data": {
            "name": name,
            "split": options.split,
            "images": len(images),
            "fingerprint": fingerprint(images),
            "train_size": options.train_size,
            "seed": options.seed,
        },
        "class_names": list(images.class_names),
        "settings": {**settings, "snapshots": list(settings["snapshots"])},
        "explanation": explanation,
        "versions": versions(),
    }


def _print(options: Options, out: Path, originals: Any, result: Any, seconds: float) -> None:
    changes = {}
    for steps, images in result.items():
        delta = images - originals
        changes[steps] = {
            "rms": float(delta.square().mean().sqrt()),
            "largest": float(delta.abs().max()),
        }
    if changes and max(change["rms"] for change in changes.values()) < TINY:
        console.say(
            f"the change is below {TINY} grey levels: `sign-ext calibrate` proposes a step size"
        )
    if options.json:
        console.print_json(
            {"out": str(out), "images": len(originals), "change": changes, "seconds": seconds}
        )
        return
    from sign_ext.report.numbers import duration

    for steps, change in changes.items():
        print(
            f"K = {steps}: {len(originals):,} images changed by {change['rms']:.3g} grey levels "
            f"rms, at most {change['largest']:.3g}"
        )
    print(f"{out} ({duration(seconds)})")
