"""Slice A on a GPU: one file of images, one command for minutes, as many seeds as fit.

    python tools/gpu_slices.py pack --data-root DIR --out slices.safetensors
    python tools/gpu_slices.py run slices.safetensors --out OUT --minutes 9
    python tools/gpu_slices.py join OUT --out JOINED

`pack` puts 16,000 training, 1,500 validation and 10,000 test images of CIFAR-10 (as lossless WebP)
and the settings of the scale `gpu` into one file of at most 44 MiB. `run` needs torch, torchvision,
numpy and safetensors only. Several processes share the GPU; each takes seed after seed, with
training images, Φ and initial weights of its own, and appends a line of JSON to
OUT/slices-PROCESS.jsonl when a seed is done, so that nothing finished is lost when the time is
over. No seed begins that would not end in time. `join` makes of the lines what `sign-ext report`
takes.

What a seed computes is what `sign-ext reproduce slice_a` computes: a test holds the two to equal
answers on the same images.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sign_ext import SignTransform
from sign_ext.augment import Augment, Compose, build_augment, sign_training_set
from sign_ext.change import describe_change
from sign_ext.data.image_set import ImageSet
from sign_ext.data.splits import Splits, stratified_choice
from sign_ext.evaluation.corruption import gaussian_noise
from sign_ext.evaluation.evaluate import evaluate
from sign_ext.models import build_model
from sign_ext.training import TrainResult, TrainSettings, train

LARGEST = 44 * 2**20  # bytes of the packed file
TRAIN_IMAGES = 16_000
TOGETHER = 64  # images in one encoded picture: of 16, 64 and 256, the fewest bytes
METHODS = ("classical", "mixup", "noise", "sign")  # slice A's
PHI_SEEDS = 1_000_000  # as in experiments.stages.networks, which needs more than a GPU machine has
CORRUPTION_SEED = 0  # as in experiments.stages.measure
LEARNT = 1.645  # standard errors above chance that Φ must be on validation images


def main() -> None:
    """Pack, run or join."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("pack", help="put images and settings into one file")
    command.add_argument("--data-root", required=True)
    command.add_argument("--scale", default="gpu", help="a scale, or its YAML file")
    command.add_argument("--train-images", type=int, default=TRAIN_IMAGES)
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(run=_pack)
    command = commands.add_parser("run", help="take seed after seed until the time is over")
    command.add_argument("packed", type=Path)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--minutes", type=float, default=9.0)
    command.add_argument("--processes", type=int, default=8)
    command.add_argument("--first-seed", type=int, default=1)
    command.add_argument("--seeds", type=int, help="at most so many; as many as fit if not given")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    command.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    command.set_defaults(run=_run)
    command = commands.add_parser("join", help="make results.json and the page of the lines")
    command.add_argument("lines", type=Path, help="the folder that `run` wrote")
    command.add_argument("--scale", default="gpu")
    command.add_argument("--out", type=Path, required=True)
    command.set_defaults(run=_join)
    given = parser.parse_args()
    given.run(given)


# ---------------------------------------------------------------------------------------- the file


def _pack(given: argparse.Namespace) -> None:
    from sign_ext.data import load_data
    from sign_ext.experiments.scale import load_scale
    from sign_ext.formatting import plain

    scale = load_scale(given.scale)
    task = scale.tasks[scale.networks[scale.primary].task]
    splits = load_data(
        task.data,
        given.data_root,
        train_size=given.train_images,
        test_size=task.test_size,
        image_size=task.image_size,
    )
    if task.validation_size is not None:
        labels = splits.validation.labels.numpy()
        chosen = stratified_choice(labels, task.validation_size, seed=0).tolist()
        splits = dataclasses.replace(splits, validation=splits.validation.subset(chosen))
    pack(splits, plain(scale), given.out)
    print(f"{given.out}: {given.out.stat().st_size / 2**20:.1f} MiB")


def pack(splits: Splits, scale: Mapping[str, Any], path: Path) -> None:
    """Write the images of three splits as lossless WebP, and the settings, into one file.

    Args:
        splits: uint8 images.
        scale: plain settings of a scale.
        path: of the file.

    Raises:
        ValueError: it would be larger than 44 MiB.
    """
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    for name in ("train", "validation", "test"):
        part = splits.part(name)
        # Several images in one, one below the other, take 8% less than each by itself.
        columns = part.images.permute(0, 2, 3, 1).split(TOGETHER)
        encoded = [_webp(group.flatten(0, 1).contiguous().numpy()) for group in columns]
        arrays[f"{name}.bytes"] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}.ends"] = np.cumsum([len(each) for each in encoded], dtype=np.int64)
        arrays[f"{name}.labels"] = part.labels.numpy().astype(np.uint8)
    metadata = {
        "scale": json.dumps(scale),
        "class_names": json.dumps(splits.class_names),
        "image_shape": json.dumps(splits.image_shape),
        "note": splits.note,
    }
    content = save(arrays, metadata)
    if len(content) > LARGEST:
        raise ValueError(
            f"{path} would have {len(content) / 2**20:.1f} MiB; accepted: {LARGEST / 2**20:.0f} at "
            "most. Take fewer images."
        )
    path.write_bytes(content)


def unpack(path: Path) -> tuple[Splits, dict[str, Any]]:
    """Read what `pack` wrote: the splits, and the settings of the scale."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        names = tuple(json.loads(metadata["class_names"]))
        parts = {}
        for name in ("train", "validation", "test"):
            blob, ends = file.get_tensor(f"{name}.bytes"), file.get_tensor(f"{name}.ends")
            starts = [0, *ends[:-1].tolist()]
            pixels = np.concatenate(
                [
                    _pixels(blob[start:end].tobytes())
                    for start, end in zip(starts, ends.tolist(), strict=True)
                ]
            )
            _, height, width = json.loads(metadata["image_shape"])
            columns = torch.from_numpy(pixels).reshape(-1, height, width, 3)
            images = columns.permute(0, 3, 1, 2).contiguous()
            labels = torch.from_numpy(file.get_tensor(f"{name}.labels").astype(np.int64))
            parts[name] = ImageSet(images, labels, names, f"packed/{name}")
    splits = Splits(parts["train"], parts["validation"], parts["test"], "packed", metadata["note"])
    return splits, json.loads(metadata["scale"])


def _webp(image: np.ndarray) -> bytes:
    from PIL import Image

    content = io.BytesIO()
    # Of quality 100, the files are as large (to a thousandth) and take 25 times as long.
    Image.fromarray(image).save(content, "WEBP", lossless=True, quality=99, method=6, exact=True)
    return content.getvalue()


def _pixels(content: bytes) -> np.ndarray:
    from PIL import Image  # torchvision needs it, so it is there

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


# ----------------------------------------------------------------------------------------- running


def _run(given: argparse.Namespace) -> None:
    given.out.mkdir(parents=True, exist_ok=True)
    if given.rank is not None:
        _work(given)
        return
    deadline = time.time() + 60 * given.minutes
    command = [sys.executable, *sys.argv, "--deadline", str(deadline)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment)
        for rank in range(given.processes)
    ]
    codes = [worker.wait() for worker in workers]
    done = [line for line in _lines(given.out) if "arms" in line]
    print(f"{len(done)} seeds in {given.out}", flush=True)
    if any(codes):
        sys.exit(f"exit codes of the processes: {codes}")


def _work(given: argparse.Namespace) -> None:
    """One process: every so-and-so-manieth seed, as long as there is time."""
    torch.set_num_threads(1)
    splits, scale = unpack(given.packed)
    path = given.out / f"slices-{given.rank}.jsonl"
    longest = 0.0
    seed = given.first_seed + given.rank
    last = math.inf if given.seeds is None else given.first_seed + given.seeds - 1
    finished = {line["seed"] for line in _lines(given.out)}
    while seed <= last and time.time() + 1.1 * longest < given.deadline:
        if seed not in finished:
            began = time.time()
            line = run_seed(splits, scale, seed, torch.device(given.device))
            line["seconds"] = round(time.time() - began, 1)
            longest = max(longest, line["seconds"])
            text = json.dumps(line)
            with path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            print(json.dumps(_short(line)), flush=True)
        seed += given.processes


def _short(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line without the answers to each image."""
    arms = {name: arm["numbers"]["accuracy"] for name, arm in line.get("arms", {}).items()}
    return {**{k: v for k, v in line.items() if k != "arms"}, "accuracy": arms}


def _lines(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line that was finished, of all processes; one that was cut off is left out."""
    for path in sorted(folder.glob("slices-*.jsonl")):
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                continue


def run_seed(
    splits: Splits, scale: Mapping[str, Any], seed: int, device: torch.device
) -> dict[str, Any]:
    """Train and measure the four networks of a seed.

    Args:
        splits: all images.
        scale: the settings, as `unpack` returns them.
        seed: of initial weights, training images, batch order and augmentation.
        device: to compute on.

    Returns:
        A line: "phi", "step_size", "rms" by K, and "arms", each with its numbers and the answers to
        each test image (a safetensors file in base64); or "refused", and why.
    """
    network, sign = scale["networks"][scale["primary"]], scale["sign"]
    task = scale["tasks"][network.get("task", "cifar10")]
    own = _own_images(splits, task.get("train_size"), seed)
    snapshots = tuple(sign["snapshots"])
    phi, trained = _trained(own, None, network, task, seed + PHI_SEEDS, "classical", phi=True)(
        device
    )
    accuracy = trained.best_validation_accuracy
    line: dict[str, Any] = {
        "seed": seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "phi": {
            "validation_accuracy": accuracy,
            "history": [round(row["validation_accuracy"], 4) for row in trained.history],
        },
    }
    chance = 1 / len(own.class_names)
    error = math.sqrt(chance * (1 - chance) / len(own.validation))
    if sign.get("require_learnt") and accuracy <= chance + LEARNT * error:
        return {**line, "refused": f"Φ has {accuracy:.1%} on validation images, as by chance"}
    count = min(sign["calibration_images"], len(own.validation))
    chosen = stratified_choice(own.validation.labels.numpy(), count, seed=0).tolist()
    calibration = SignTransform(phi).calibrate(
        own.validation.subset(chosen).float().to(device),
        steps=max(snapshots),
        target_share=sign["target_share"],
    )
    step = calibration.proposed
    transform = SignTransform(
        phi,
        max(snapshots),
        step_size=step,
        snapshots=snapshots,
        precision=sign["precision"],
    )
    originals = own.train.images
    found = transform.transform(originals.float().to(device))
    assert isinstance(found, dict)
    versions = {k: each.cpu() for k, each in found.items()}
    rms = {k: describe_change(versions[k], originals)["rms"] for k in snapshots}
    generator = torch.Generator().manual_seed(seed)
    noisy = {k: gaussian_noise(originals, rms[k], generator=generator) for k in snapshots}
    line |= {"step_size": step, "rms": {str(k): value for k, value in rms.items()}, "arms": {}}
    for method in METHODS:
        joined = {"sign": versions, "noise": noisy}.get(method)
        model, trained = _trained(own, joined, network, task, seed, method)(device)
        evaluation = evaluate(
            model,
            own.test,
            draws=scale["draws"],
            num_off=scale["pixels"],
            sigma=scale["sigma"],
            seed=CORRUPTION_SEED,
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answers.safetensors"
            evaluation.answers.write(path)
            answers = base64.b64encode(path.read_bytes()).decode()
        numbers = {
            **evaluation.to_dict(),
            "validation_accuracy": trained.best_validation_accuracy,
            "doubt_of_learning": trained.doubt_of_learning,
        }
        line["arms"][method] = {"numbers": numbers, "answers": answers}
    return line


def _own_images(splits: Splits, size: int | None, seed: int) -> Splits:
    """The seed's own training images, where the scale takes a part of those that are packed."""
    if size is None or size >= len(splits.train):
        return splits
    chosen = stratified_choice(splits.train.labels.numpy(), size, seed=seed).tolist()
    return dataclasses.replace(splits, train=splits.train.subset(chosen))


def _trained(
    own: Splits,
    versions: Mapping[int, torch.Tensor] | None,
    network: Mapping[str, Any],
    task: Mapping[str, Any],
    seed: int,
    method: str,
    *,
    phi: bool = False,
) -> Any:
    """A function of the device that trains a network at equal gradient steps, or Φ.

    It returns the model and the result of its training.
    """
    classes = len(own.class_names)
    flips = {"horizontal_flip": task["flips"], "vertical_flip": task["flips"]}
    augment: Augment = build_augment("classical", **flips)
    if method == "mixup":
        augment = Compose((augment, build_augment("mixup", num_classes=classes)))
    epochs = network.get("phi_epochs") or network["epochs"] if phi else network["epochs"]
    names = ("learning_rate", "optimizer", "weight_decay", "schedule", "precision")
    settings = TrainSettings(
        epochs=epochs,
        batch_size=task["batch_size"],
        seed=seed,
        checkpoints=network["epochs"],
        **{name: network[name] for name in names},
    )
    images = own.train if versions is None else sign_training_set(own.train, dict(versions))
    if versions is None and not phi:
        steps = settings.total_steps(3 * len(images))
        settings = dataclasses.replace(settings, epochs=3 * epochs + 1, max_steps=steps)

    def on(device: torch.device) -> tuple[torch.nn.Module, TrainResult]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = build_model(
                network["model"],
                num_classes=classes,
                image_shape=own.image_shape,
                **network["options"],
            ).to(device)
        result = train(model, images, own.validation, settings, augment=augment, device=device)
        return model.eval(), result

    return on


# ----------------------------------------------------------------------------------------- joining


def _join(given: argparse.Namespace) -> None:
    from sign_ext.report.results_page import write_report

    results = join(list(_lines(given.lines)), given.scale)
    given.out.mkdir(parents=True, exist_ok=True)
    for path in write_report(given.out, results):
        print(path)


def join(lines: list[dict[str, Any]], scale_name: str) -> Any:
    """Make results of lines, as `sign-ext reproduce slice_a` would have.

    Args:
        lines: of `run`; those of a refused Φ are listed in the findings.
        scale_name: a scale, or its YAML file.

    Raises:
        ValueError: no seed is finished.
    """
    from sign_ext.experiments.planner import StagePlanner
    from sign_ext.experiments.recipes.arms import KEYS, arms, arms_table
    from sign_ext.experiments.recipes.slices import ABOUT, TITLES
    from sign_ext.experiments.recipes.summary import findings
    from sign_ext.experiments.scale import load_scale
    from sign_ext.experiments.stages.measure import ANSWERS
    from sign_ext.experiments.stages.runner import StageRunner
    from sign_ext.experiments.stages.sources import Sources
    from sign_ext.experiments.stages.stage import Outcome, RunContext, Stage
    from sign_ext.formatting import plain
    from sign_ext.report.schema import Experiment, Results
    from sign_ext.report.verdict import hold_families

    class Elsewhere(Stage):
        """A stage that was run by this script."""

        kind = "gpu-slice"
        version = 1

        def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
            raise NotImplementedError

    done = {line["seed"]: line for line in lines if "arms" in line}
    if not done:
        raise ValueError("no seed is finished; accepted: one or more.")
    seeds = tuple(sorted(done))
    scale = load_scale(scale_name)
    sources = Sources(None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runner = StageRunner(folder, torch.device("cpu"), sources.read)
        planner = StagePlanner(scale, seeds, sources, runner)
        outcomes: dict[str, list[Outcome]] = {}
        specs = arms(scale.primary, METHODS)
        for spec in specs:
            for seed in seeds:
                arm = done[seed]["arms"][spec.method]
                place = folder / f"{spec.method}-{seed}"
                place.mkdir()
                (place / ANSWERS).write_bytes(base64.b64decode(arm["answers"]))
                outcomes.setdefault(spec.name, []).append(
                    Outcome(Elsewhere(), place, arm["numbers"], done[seed]["seconds"])
                )
        table = arms_table(
            planner,
            specs,
            outcomes,
            TITLES["slice_a"].partition(":")[0],
            secondary=tuple(KEYS),
            primary=(scale.primary, "normal"),
        )
    refused = [f"Seed {line['seed']}: {line['refused']}." for line in lines if "refused" in line]
    first = done[seeds[0]]
    experiment = Experiment(
        name="slice_a",
        title=TITLES["slice_a"],
        about=ABOUT,
        settings={
            "step size": {str(seed): done[seed]["step_size"] for seed in seeds},
            "validation accuracy of Φ": {
                str(seed): done[seed]["phi"]["validation_accuracy"] for seed in seeds
            },
        },
        tables=(table,),
        findings=(*refused, *findings(table)),
        seconds=sum(line["seconds"] for line in done.values()),
        made={"device": first["device"]},
    )
    results = Results(
        scale=scale.name,
        seeds=seeds,
        experiments=(experiment,),
        settings=plain(scale),
        machine={"device": first["device"]},
        versions={"torch": first["torch"]},
        seconds=experiment.seconds,
    )
    return hold_families(results, findings)


if __name__ == "__main__":
    main()
