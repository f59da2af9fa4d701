"""Make the artefacts anew: `python python_tests/artefacts/make.py`, at a commit worth remembering.

It calls nothing but the command line and the public functions. See README.md beside it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from old_calls import (
    ALEATORIC,
    DIGITS,
    FINISHED,
    HERE,
    JOINED,
    SCALE,
    UNFINISHED,
    main,
    reproduce,
    sign_ext,
    train_own,
    unpack,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sign_ext import SignTransform
from sign_ext.data import load_data
from sign_ext.training import load_checkpoint

PERIOD = 61  # no multiple of a kernel's size, so that no two filters are the same
GAIN = 0.6  # with it logits differ from image to image, by a few units
RECORD = "stage.json"


def everything(work: Path) -> None:
    """Make each artefact in its turn; later ones rest on earlier ones."""
    for name in ("checkpoint", "store", "unfinished_store", "run", "interrupted_run"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    for name in ("aleatoric_run", "reproduce", "resumed", "results"):
        shutil.rmtree(HERE / name, ignore_errors=True)
    make_checkpoint(work)
    make_stores(work)
    make_runs(work)
    make_reproduction(work)
    make_aleatoric_run(work)
    make_keys(work)
    make_tuning()


def make_checkpoint(work: Path) -> None:
    """A finished run's checkpoint, and what it is good for."""
    out = work / "trained"
    options = ("--model", "basic_cnn", "--model-options.dropout", "0.1", "--epochs", "1")
    sign_ext("train", *DIGITS, "--train-size", "40", *options, "--out", out)
    repeat(out / "model.safetensors")
    keep(out / "model.safetensors", HERE / "checkpoint", compress=True)
    keep(out / "model.json", HERE / "checkpoint")
    model, _ = load_checkpoint(out)
    with torch.no_grad():
        logits = model(load_data("digits", image_size=8).test.images[:4].float())
    write(HERE / "checkpoint" / "logits.json", logits.tolist())


def make_stores(work: Path) -> None:
    """A store with all its shards, and one whose run was killed after the first of three."""
    checkpoint = unpack("checkpoint", work)
    out, partial = work / "store", work / "unfinished_store"
    sign_ext("transform", "--checkpoint", checkpoint, *FINISHED, "--out", out)
    with killed_after("shard-000000.safetensors"):
        words = ["transform", "--checkpoint", str(checkpoint), *UNFINISHED]
        assert main([*words, "--out", str(partial), "--device", "cpu"]) == 130
    for folder in (out, partial):
        for path in sorted(folder.glob("*.*")):
            keep(path, HERE / folder.name)


def make_runs(work: Path) -> None:
    """A run of `train` that was not stopped, and the same one stopped in its third epoch."""

    def stop(done: int, total: int) -> None:
        if done == 7:
            raise Killed

    train_own(work / "run")
    try:
        train_own(work / "interrupted_run", stop)
    except Killed:
        keep(work / "interrupted_run" / "last.safetensors", HERE / "interrupted_run")
    for name in ("model.safetensors", "model.json", "last.safetensors"):
        keep(work / "run" / name, HERE / "run")


def make_reproduction(work: Path) -> None:
    """Records of stages that are done, and of each kind that resumes one that is not."""
    # By names without folders, since results hold the command that made them.
    scale = Path(shutil.copy(SCALE, work)).name
    whole = Path("whole")
    for seed in ("0", "1"):
        reproduce("whole", "--only-seeds", seed, names=JOINED, scale=scale)
        keep(whole / "results.json", HERE / "results", f"seed-{seed}.json")
    reproduce("whole", scale=scale)
    keep(whole / "results.json", HERE / "reproduce", compress=True)
    planned, _ = reproduce("nothing", "--dry-run", scale=scale)
    records = {
        stage["key"]: json.loads((whole / "artefacts" / stage["key"] / RECORD).read_text())
        for stage in planned["stages"]
    }
    epochs, steps = (_training(records, ["classical"], capped) for capped in (False, True))
    learned = _training(records, ["deepaugment"], False)
    search = "search-" + records[learned]["stage"]["inputs"]["policies"]
    opened = {steps, search, learned, *(_measured(records, each) for each in (epochs, steps))}
    opened.add(_measured(records, learned))
    old = HERE / "reproduce" / "artefacts"
    for key in records.keys() - opened:
        keep(whole / "artefacts" / key / RECORD, old / key)
    keep(whole / "artefacts" / search / "policies.yaml", HERE)

    for name in ("model.safetensors", "model.json"):
        shutil.copy(whole / "artefacts" / epochs / name, work / name)
    repeat(work / "model.safetensors")
    keep(work / "model.safetensors", old / epochs, compress=True)
    keep(work / "model.json", old / epochs)
    stopped = _stopped(work / "a", work / scale, f"{steps}/last.safetensors")
    state = stopped / "artefacts" / steps / "last.safetensors"
    repeat(state)
    keep(state, old / steps, compress=True)
    # A search continues whatever the number of trials, so one of two is one of three, killed.
    shorter = work / "shorter.yaml"
    shorter.write_text(SCALE.read_text().replace("trials: 3", "trials: 2"))
    stopped = _stopped(work / "b", shorter, "policies.yaml")
    (study,) = stopped.glob("artefacts/search-*/study.sqlite3")
    keep(study, old / search, compress=True)

    resumed = unpack("reproduce", work)
    reproduce(resumed)
    for key in opened:
        keep(resumed / "artefacts" / key / RECORD, HERE / "resumed" / key)


def _stopped(out: Path, scale: Path, ending: str) -> Path:
    with killed_after(ending):
        words = ["reproduce", "table1", "--scale", str(scale), "--out", str(out)]
        assert main([*words, "--device", "cpu"]) == 130
    return out


def _training(records: dict[str, Any], augment: list[str], capped: bool) -> str:
    """The training of BasicCNN with these augmentations and without SIGN."""
    (key,) = (
        key
        for key, record in records.items()
        if record["stage"]["kind"] == "train" and "sign" not in record["stage"]["inputs"]
        for config in [record["stage"]["config"]]
        if config["augment"] == augment and config["source"]["data"] == "digits"
        if not config["samples"] and (config["settings"]["max_steps"] is not None) == capped
    )
    return key


def _measured(records: dict[str, Any], training: str) -> str:
    (key,) = (
        key
        for key, record in records.items()
        if record["stage"]["kind"] == "classify"
        and f"train-{record['stage']['inputs']['network']}" == training
    )
    return key


def make_aleatoric_run(work: Path) -> None:
    """A run of `sign-ext train` that was killed after its first epoch."""
    out = work / "aleatoric_run"
    with killed_after("last.safetensors"):
        assert main(["train", *ALEATORIC, "--out", str(out), "--device", "cpu"]) == 130
    repeat(out / "last.safetensors")
    keep(out / "last.safetensors", HERE / "aleatoric_run", compress=True)


def make_keys(work: Path) -> None:
    """The key of every stage at the scale `smoke`, with the sizes that it had."""
    found, _ = sign_ext(
        "reproduce",
        "all",
        "--scale",
        HERE / "smoke_scale.yaml",
        "--dry-run",
        "--out",
        work / "nothing",
    )
    write(HERE / "smoke_keys.json", {each["key"]: each["stage"] for each in found["stages"]})


def make_tuning() -> None:
    """The choices that were measured for a batch."""
    with tempfile.TemporaryDirectory() as folder:
        model, _ = load_checkpoint(unpack("checkpoint", Path(folder)))
    sign = SignTransform(model, 1, backend="fused", tune=True)
    sign.transform(load_data("digits", train_size=20, image_size=8).train.float())
    sign.plan.save(HERE / "tuning.json")


class Killed(KeyboardInterrupt):
    """Stands in for a signal."""


@contextlib.contextmanager
def killed_after(ending: str) -> Iterator[None]:
    """Die as soon as a file whose path ends so has got its name."""
    replace = os.replace

    def replace_and_die(source: Any, path: Any, **options: Any) -> None:
        replace(source, path, **options)
        if str(path).endswith(ending):
            raise Killed

    os.replace = replace_and_die
    try:
        yield
    finally:
        os.replace = replace


def repeat(path: Path) -> None:
    """Let every tensor of a file repeat a few numbers, which compress to nothing.

    Names, shapes, dtypes and the header stay as sign_ext wrote them.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    save_file({name: _repeated(name, tensors[name]) for name in sorted(tensors)}, path, header)


def _repeated(name: str, tensor: Tensor) -> Tensor:
    if tensor.numel() < 2:
        return tensor
    few = torch.randn(PERIOD, generator=torch.Generator().manual_seed(len(name)))
    few = (few - few.mean()).mul(64).round().div(64 / GAIN * max(tensor[0].numel(), 16) ** 0.5)
    if "exp_avg" in name:
        few = few.abs() * 1e-3
    return few.repeat(-(-tensor.numel() // PERIOD))[: tensor.numel()].reshape(tensor.shape)


def keep(path: Path, folder: Path, name: str | None = None, *, compress: bool = False) -> None:
    """Copy a file to the artefacts."""
    folder.mkdir(parents=True, exist_ok=True)
    to = folder / (name or path.name)
    if compress:
        to.with_name(f"{to.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
    else:
        shutil.copyfile(path, to)


def write(path: Path, content: Any) -> None:
    """Write JSON."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        everything(Path(folder))
