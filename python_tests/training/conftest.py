"""Small sets and a small network for the training tests."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from sign_ext.data import ImageSet
from sign_ext.models import AleatoricHead


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """All tests of this folder."""


@pytest.fixture
def make_set() -> Callable[..., ImageSet]:
    """Return a maker of seeded uint8 sets with random labels of three classes."""

    def make(n=50, seed=0, side=10, dtype=torch.uint8):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, 3, (n,), generator=generator)
        return ImageSet(images.to(dtype), labels, ("a", "b", "c"), f"random/{seed}")

    return make


class Scale(nn.Module):
    """Pixels 0–255 to about −1…1."""

    def forward(self, images):
        return images / 127.5 - 1


@pytest.fixture
def make_net() -> Callable[..., nn.Module]:
    """Return a maker of a seeded network with convolution, batch normalisation and dropout."""

    def make(seed=0, dropout=0.3, side=10, width=8, classes=3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(
                Scale(),
                nn.Conv2d(3, width, 3, padding=1),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Dropout(dropout),
                nn.Flatten(),
                nn.Linear(width * (side // 2) ** 2, classes),
            )

    return make


@pytest.fixture
def aleatoric_net() -> Callable[..., nn.Module]:
    """Return a maker of a seeded network with dropout and two heads."""

    def make(seed=0, spread=0.0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            features = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.2)]
            model = nn.Sequential(*features, nn.Flatten(), nn.Linear(384, 6), AleatoricHead())
        model[5].bias.data[3:] += spread
        return model

    return make


@pytest.fixture
def same_weights() -> Callable[[nn.Module, nn.Module], bool]:
    """Return a bitwise comparison of two models' state."""

    def compare(a, b):
        first, second = a.state_dict(), b.state_dict()
        return first.keys() == second.keys() and all(
            torch.equal(first[name], second[name]) for name in first
        )

    return compare
