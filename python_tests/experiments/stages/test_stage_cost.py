"""Operations are counted as a network's layers give them."""

from __future__ import annotations

import pytest
import torch

from sign_ext.experiments.stages.cost import flops_per_image


@pytest.mark.parametrize("side", [8, 20, 33])
def test_flops_of_basic_cnn_are_those_of_its_layers(side):
    half, quarter = side // 2, side // 4
    products = side**2 * 9 * (3 * 32 + 32 * 32) + half**2 * 9 * (32 * 64 + 64 * 64)
    products += quarter**2 * 64 * 512 + 512 * 10
    assert flops_per_image("basic_cnn", {}, (3, side, side)) == 2 * products


def test_flops_keep_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    flops_per_image("basic_cnn", {"dropout": 0.125}, (3, 12, 12))
    assert torch.equal(torch.rand(1), expected)
