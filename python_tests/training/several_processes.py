"""A process of a test run: torchrun ... several_processes.py SCENE FOLDER.

Each process writes what it found to FOLDER/found.RANK.json and its weights to
FOLDER/NAME.RANK.safetensors. The test calls the same runs in one process.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from sign_ext.augment import Classical, Compose, Mixup
from sign_ext.data import ImageSet
from sign_ext.training import TrainSettings, train
from sign_ext.training.processes import raised_everywhere

# 37 images: four batches of 8 and one of 5; with 35 the last holds 3, too few to be divided.
SETTINGS = TrainSettings(epochs=2, batch_size=8, learning_rate=3e-3, weight_decay=1e-2)
RANK = int(os.environ.get("RANK", "0"))


def image_set(n, seed):
    rng = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 9, 9), dtype=torch.uint8, generator=rng)
    labels = torch.randint(0, 3, (n,), generator=rng)
    return ImageSet(images, labels, ("a", "b", "c"), f"random/{seed}")


class Scale(nn.Module):
    """Pixels 0–255 to about −1…1; float64 buffers show that any kind is exchanged."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        if self.training:
            self.calls += 1
        return images / 127.5 - 1


class PartlyUsed(nn.Module):
    """The loss does not depend on `unused`."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(4, 4)
        self.used = nn.Linear(243, 3)

    def forward(self, images):
        return self.used(images.flatten(1) / 127.5 - 1)


def plain_net(seed=0):
    torch.manual_seed(seed)
    layers = [Scale(), nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(54, 3))


def usual_net():
    torch.manual_seed(0)
    layers = [Scale(), nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(294, 3))


def partly_used_net():
    torch.manual_seed(0)
    return PartlyUsed()


def _plain(seed):
    sets = image_set(37, 0), image_set(31, 1)
    return plain_net(seed), *sets, SETTINGS, Classical()


def _mixup(seed):
    # Less than two images a process in the last batch, fewer validation images than processes.
    sets = image_set(35, 0), image_set(1, 1)
    settings = replace(SETTINGS, optimizer="sgd", schedule="cosine")
    return plain_net(seed), *sets, settings, Compose((Classical(), Mixup(3)))


def _partly_used(seed):
    settings = replace(SETTINGS, optimizer="adamw")
    return partly_used_net(), image_set(20, 0), image_set(9, 1), settings, None


# The runs that agree with one process; the seed is of the initial weights.
ALIKE = {"plain": _plain, "mixup": _mixup, "partly_used": _partly_used}


def run_alike(name, seed=0, **options):
    """Train one of the runs that agree; return model and result."""
    model, a, b, settings, augment = ALIKE[name](seed)
    return model, train(model, a, b, settings, augment=augment, **options)


def usual_run(out=None, *, at=None, **options):
    """Train a network with dropout and batch normalisation; call `at` after each step."""
    model, settings = usual_net(), replace(SETTINGS, epochs=3)
    sets = image_set(37, 0), image_set(31, 1)
    options = {"out": out, "resume": out is not None, "progress": at or False, **options}
    return model, train(model, *sets, settings, augment=Classical(), **options)


def killed(folder):
    """Both processes die by SIGKILL in the second epoch."""
    (folder / f"pid.{RANK}").write_text(str(os.getpid()))
    other = folder / "pid.1"

    def kill(done, total):
        if done == 7:  # five steps an epoch
            os.kill(int(other.read_text()), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    usual_run(folder / "killed", at=kill)


def keep_weights(folder, name, model):
    """Write this process's weights to FOLDER/NAME.RANK.safetensors."""
    from safetensors.torch import save_file

    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, folder / f"{name}.{RANK}.safetensors")


def plain(folder):
    """One run."""
    model, result = run_alike("plain", seed=RANK)
    keep_weights(folder, "plain", model)
    return result.to_dict()


def uncaught(folder):
    """An error that ends both processes; the interpreter keeps its frames in sys.last_traceback."""
    steep = replace(SETTINGS, learning_rate=1e30)
    train(plain_net(), image_set(37, 0), image_set(9, 1), steep)


def everything(folder):
    """The runs of all other tests, one after another; returns what goes into found.RANK.json."""
    found = {}

    def keep(name, model, result):
        found[name] = result.to_dict()
        keep_weights(folder, name, model)

    def refusal(name, call, *arguments, **options):
        try:
            call(*arguments, **options)
        except Exception as error:
            notes = getattr(error, "__notes__", [])
            found[name] = [type(error).__name__, str(error), raised_everywhere(error), notes]

    for name in ALIKE:  # of the initial weights those of the first process count
        keep(name, *run_alike(name, seed=RANK))
    keep("whole", *usual_run())
    model, result = usual_run(folder / "killed")
    keep("resumed", model, result)
    found["form"] = [type(m).__name__ for m in model.modules()]
    found["training"] = [m.training for m in model.modules()]
    found["again"] = usual_run(folder / "killed")[1].to_dict()
    model(torch.rand(2, 3, 9, 9)).sum().backward()  # the caller's again, in this process alone

    steps_seen = []
    progress = lambda done, total: steps_seen.append(done)  # noqa: E731
    run_alike("plain", out=folder / f"out.{RANK}", progress=progress)
    found["steps seen"] = steps_seen

    refusal("taken", run_alike, "plain", out=folder / "killed")
    refusal("differ", run_alike, ("plain", "mixup")[RANK])
    spoilt = image_set(20, 0).float()
    spoilt[3, 0, 0, 0] = torch.nan if RANK else 0.0
    spoilt = ImageSet(spoilt, torch.arange(20) % 3, ("a", "b", "c"), "spoilt")
    refusal("one's own", train, plain_net(), spoilt, image_set(9, 1), SETTINGS)
    refusal("awkward", train, Fails(), image_set(20, 0), image_set(9, 1), SETTINGS)
    refusal("not here", run_alike, "plain", device="cuda")
    broken = image_set(20, 0)
    if RANK:
        broken.images[0] = 255 - broken.images[0]
    refusal("other images", train, plain_net(), broken, broken, SETTINGS)
    steep = replace(SETTINGS, learning_rate=1e30)
    refusal("diverged", train, plain_net(), image_set(37, 0), image_set(9, 1), steep)
    refusal(
        "not compiled", train, Peeks(), *(image_set(20, 0),) * 2, replace(SETTINGS, compile=True)
    )
    found["cli"] = [command_line(folder), command_line(folder)]
    return found


class AwkwardError(Exception):
    """Cannot be rebuilt from its message, so it does not travel as it is."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")


class Fails(PartlyUsed):
    """Raises in the second process only."""

    def forward(self, images):
        if RANK:
            raise AwkwardError(7, "not today")
        return super().forward(images)


class Peeks(PartlyUsed):
    """Cannot be compiled whole."""

    def forward(self, images):
        values = super().forward(images)
        return values * (2.0 if values.detach().sum().item() > 0 else 1.0)


def command_line(folder):
    """Run `sign-ext train`; return its exit code and what this process wrote."""
    from sign_ext.cli import main

    words = "train --data digits --train-size 40 --image-size 16 --model basic_cnn --epochs 1"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = main([*words.split(), "--device", "cpu", "--json", "--out", f"{folder}/cli"])
        except SystemExit as stop:
            code = stop.code
    return [code, out.getvalue(), err.getvalue()]


def write_threads(path):
    """Write the names of this process's threads, none where there is no /proc."""
    names = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    path.write_text(json.dumps(names))


if __name__ == "__main__":
    torch.set_num_threads(1)
    scene, where = sys.argv[1], Path(sys.argv[2])
    # Registered first, so that it runs after everything that is done on exit.
    atexit.register(write_threads, where / f"threads.{RANK}.json")
    scenes = {each.__name__: each for each in (killed, plain, uncaught, everything)}
    found = scenes[scene](where)
    (where / f"found.{RANK}.json").write_text(json.dumps(found))
