"""A small race that the tests of benchmarking share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sign_ext.benchmarking.task import Task, random_images, step_size_for


@pytest.fixture
def task(seed: int) -> Task:
    """Two steps of a network of two convolutions, on five images."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 3 * 4, 3),
    ).eval()
    images = random_images(5, (3, 8, 9), 255.0, torch.device("cpu"), seed % 1000)
    return Task(
        model=model, images=images, steps=2, step_size=step_size_for(model, images, move=0.5)
    )
