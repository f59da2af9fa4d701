"""The calls that made the artefacts; the test makes the same ones to load and to resume them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sign_ext.augment import Classical, Compose, Mixup
from sign_ext.cli import main
from sign_ext.data import load_data
from sign_ext.training import TrainResult, TrainSettings, train

HERE = Path(__file__).parent
SCALE = HERE / "tiny.yaml"
EXPERIMENTS = ("table1", "figure3", "isic", "figure5", "delta_only", "table2")
JOINED = ("table1", "figure3", "isic")  # those with a result for each of two seeds

DIGITS = ("--data", "digits", "--image-size", "8")
STORE = (*DIGITS, "--train-size", "20", "--shard-size", "8", "--step-size", "1")
# The whole store has two snapshots of 16 bits; the unfinished one has measured choices.
FINISHED = (*STORE, "--steps", "3", "--snapshots", "1", "3", "--dtype", "float16")
UNFINISHED = (*STORE, "--steps", "2", "--momentum", "0.5", "--clamp", "0", "255", "--tune")
ALEATORIC = (
    *(*DIGITS, "--train-size", "40", "--model", "basic_cnn", "--model-options.dropout", "0.1"),
    *("--epochs", "3", "--batch-size", "16", "--schedule", "cosine", "--aleatoric", "2"),
    *("--augment", "deepaugment", "--policies", str(HERE / "policies.yaml")),
)


def sign_ext(*words: str | Path) -> tuple[dict[str, Any], str]:
    """Run `sign-ext` on the CPU; return its JSON and what it said beside it."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        device = () if words[0] in ("inspect", "report") else ("--device", "cpu")
        code = main([*map(str, words), *device, "--json"])
    assert code == 0, said.getvalue()
    return json.loads(out.getvalue()), said.getvalue()


def reproduce(
    out: str | Path, *words: str, names: tuple[str, ...] = EXPERIMENTS, scale: str | Path = SCALE
) -> tuple[dict[str, Any], str]:
    """Run experiments at the artefacts' scale, with the seed 0 unless others are named."""
    seeds = () if "--only-seeds" in words else ("--only-seeds", "0")
    return sign_ext("reproduce", *names, "--scale", scale, "--out", out, *seeds, *words)


def own_network() -> nn.Module:
    """A network that is not one of sign_ext's.

    It has no bias before the normalisation: its gradient would be rounding, which Adam makes large.
    """
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(36, 10))


def train_own(out: Path, progress: Any = False) -> tuple[nn.Module, TrainResult]:
    """Train it for four epochs, or continue the run in a folder."""
    data = load_data("digits", train_size=40, image_size=8)
    model = own_network()
    result = train(
        model,
        data.train,
        data.validation.subset(range(50)),
        TrainSettings(epochs=4, batch_size=16, learning_rate=0.01, optimizer="adamw"),
        augment=Compose((Classical(False, False), Mixup(10))),
        out=out,
        resume=True,
        progress=progress,
    )
    return model, result


def unpack(name: str, to: Path) -> Path:
    """Copy an artefact to where it may be written, as it was before it was compressed."""
    folder = shutil.copytree(HERE / name, to / name)
    for path in sorted(folder.rglob("*.gz")):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    return folder
