"""A training run that kills itself with SIGKILL: python interrupted_run.py FOLDER STEP."""

import os
import signal
import sys

import torch
from torch import nn

from sign_ext.augment import Classical
from sign_ext.data import ImageSet
from sign_ext.training import TrainSettings, train


def start(out=None, *, kill_at=None):
    """Train a small network on random images; kill the process after step `kill_at`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(8 * 49, 3))
    images = torch.randint(0, 256, (64, 3, 9, 9), dtype=torch.uint8)
    data = ImageSet(images, torch.arange(64) % 3, ("a", "b", "c"), "random")
    settings = TrainSettings(epochs=4, batch_size=16, schedule="cosine")

    def stop(done, total):
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    result = train(
        model,
        data,
        data.subset(range(20)),
        settings,
        augment=Classical(),
        out=out,
        resume=out is not None,
        progress=stop,
    )
    return model, result


if __name__ == "__main__":
    start(sys.argv[1], kill_at=int(sys.argv[2]))
