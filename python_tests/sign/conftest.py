"""The network and the images that the tests of iterative_sign start from."""

from __future__ import annotations

import pytest
import torch
from networks import tiny_cnn


@pytest.fixture
def model():
    return tiny_cnn().eval()


@pytest.fixture
def images(torch_rng):
    return torch.rand(5, 3, 9, 11, generator=torch_rng) * 255
