"""Which of a program's first layers run on chip, and why no more of them do."""

from __future__ import annotations

import pytest
import torch
from onchip_cases import NETWORKS
from torch import nn

from sign_ext import BackendError, SignTransform
from sign_ext.engine.onchip.network import put_on_chip, share_on_chip
from sign_ext.engine.onchip.partition import cotangent_of, readers_of, rest_of, trunk_of
from sign_ext.engine.onchip.plan import SharedMemory
from sign_ext.models.basic_cnn import basic_cnn

H200 = SharedMemory(232_448, 233_472)
CPU = torch.device("cpu")


def program_of(model: nn.Module, shape=(3, 16, 16)):
    torch.manual_seed(0)
    images = 255 * torch.rand(2, *shape)
    return SignTransform(model.eval(), 2).program(images)


def conv(channels_in, channels_out, **options):
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, **options)


class Residual(nn.Module):
    """A convolution, and one that is added, after a smooth activation, to its own input."""

    def __init__(self):
        super().__init__()
        self.first, self.second = conv(3, 8), conv(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((x + nn.functional.silu(self.second(x))).mean((2, 3)))


def test_basic_cnn_runs_on_chip_up_to_its_hidden_layer():
    program = program_of(basic_cnn(10, (3, 32, 32)), (3, 32, 32))
    trunk = trunk_of(program)
    assert [layer.weight.shape[0] for layer in trunk.layers] == [32, 32, 64, 64]
    assert [layer.pooled for layer in trunk.layers] == [False, True, False, True]
    assert [layer.kept for layer in trunk.layers] == [1, 3, 1, 3]
    assert "many images at once" in trunk.stop_reason
    network = put_on_chip(program, H200, CPU)
    assert not network.is_whole
    assert network.features_shape == (64, 8, 8)
    assert network.rest is not None
    assert network.rest.image_shape == (64, 8, 8)
    assert 0.9 < share_on_chip(network, program) < 1
    first, second = network.lines()
    assert "4 layers" in first
    assert "two launches a step" in first
    assert "linear" in second


def test_a_network_whose_head_folds_away_is_whole():
    model = nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 4),
    )  # fmt: skip
    program = program_of(model)
    network = put_on_chip(program, H200, CPU)
    assert network.is_whole
    assert share_on_chip(network, program) == 1.0
    assert "one launch" in network.lines()[0]


def test_a_small_linear_layer_is_a_convolution_as_large_as_its_input():
    model = nn.Sequential(
        conv(3, 32), nn.ReLU(), nn.MaxPool2d(2), conv(32, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    # The second pooling in a row is a layer by itself.
    layers = trunk_of(program_of(model)).layers
    assert [layer.pooled for layer in layers] == [True, True, True, False]
    torch.testing.assert_close(layers[2].weight[:, :, 0, 0], torch.eye(8))
    del model[6]
    model[7] = nn.Linear(128, 8)
    layers = trunk_of(program_of(model)).layers
    assert layers[-1].weight.shape == (8, 8, 4, 4)
    assert layers[-1].conv_shape == (8, 1, 1)


def test_an_affine_map_of_the_image_is_part_of_the_trunk():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(conv(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 4))

        def forward(self, x):
            return self.body((x - torch.tensor([100.0, 120.0, 90.0])[:, None, None]) / 58)

    trunk = trunk_of(program_of(Standardised()))
    assert trunk.scale is not None
    assert trunk.shift is not None
    torch.testing.assert_close(trunk.scale, torch.full((3,), 1 / 58))
    torch.testing.assert_close(trunk.shift, -torch.tensor([100.0, 120.0, 90.0]) / 58)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (conv(8, 8, groups=8), "has groups or dilation"),
        (conv(8, 8, groups=2), "has groups or dilation"),
        (nn.Conv2d(8, 8, 3, dilation=2), "has groups or dilation"),
        (nn.AvgPool2d(3, 1, 1), "has padding"),
        (nn.AvgPool2d(3, 2, ceil_mode=True), "windows that are cut off"),
        (nn.MaxPool2d(3, 2), "not the maximum over adjacent 2×2 windows"),
        (nn.SiLU(), "is not a convolution, pooling, sum"),
    ],
    ids=str,
)
def test_a_trunk_ends_at_what_the_kernel_cannot_do(layer, reason):
    body = [conv(3, 8), nn.ReLU(), layer, conv(8, 8), nn.ReLU()]
    model = nn.Sequential(*body, nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 3, 16, 16))
    trunk = trunk_of(program_of(model))
    assert len(trunk.layers) == 1
    assert reason in trunk.stop_reason


def test_a_value_that_is_read_again_is_not_left_behind():
    program = program_of(Residual())
    network = put_on_chip(program, H200, CPU)
    assert len(network.layers) == 1  # its output is the last value on chip, for both readers
    assert network.rest is not None
    assert network.rest.ops[0].kind == "convolution"


def test_the_rest_starts_from_the_last_value():
    model = basic_cnn(10, (3, 16, 16))
    program = program_of(model).to(torch.float64)
    network = put_on_chip(program, H200, CPU)
    place = network.layers[-1].end
    images = 255 * torch.rand(2, 3, 16, 16, dtype=torch.float64)
    values = [images]
    residues = []
    for op in program.ops[:place]:
        value, residue = op.forward(values[-1])
        values.append(value)
        residues.append(residue)
    cotangent = rest_of(program, place).pullback_of_ones(values[-1])
    for op, residue in zip(reversed(program.ops[:place]), reversed(residues), strict=True):
        (cotangent,) = op.vjp(cotangent, residue)
    torch.testing.assert_close(cotangent, program.pullback_of_ones(images))


def test_a_network_without_a_first_layer_says_why():
    model = nn.Sequential(conv(3, 9, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 4))
    with pytest.raises(BackendError, match=r"no layer .* has groups or dilation"):
        put_on_chip(program_of(model), H200, CPU)


def test_layers_that_do_not_fit_are_left_to_the_rest():
    program = program_of(basic_cnn(10, (3, 32, 32)), (3, 32, 32))
    network = put_on_chip(program, SharedMemory(120_000, 120_000), CPU)
    assert 0 < len(network.layers) < 4
    assert "bytes of shared memory" in network.stop_reason


def test_residual_blocks_and_shortcuts_are_taken():
    make, shape, _ = NETWORKS["residual"]
    program = program_of(make(), shape)
    layers = trunk_of(program).layers
    assert len(layers) == 13  # a convolution, five blocks of two, two shortcuts
    assert [i for i, layer in enumerate(layers) if layer.adds is not None] == [2, 4, 7, 9, 12]
    for i in (7, 12):  # the sum of two convolutions
        added = layers[i].adds
        assert not readers_of(layers, added)
        assert layers[added].kept == 0
        assert cotangent_of(layers, added) == i  # what is only added has the sum's cotangent
    assert put_on_chip(program, H200, CPU).is_whole


class ActivatedBranch(nn.Module):
    """Adds a value with an activation that nothing else reads."""

    def __init__(self):
        super().__init__()
        self.first, self.left, self.right = conv(3, 8), conv(8, 8), conv(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x).relu()
        return self.head((self.left(x).relu() + self.right(x)).relu().mean((2, 3)))


def test_a_branch_without_a_cotangent_array_ends_the_trunk():
    program = program_of(ActivatedBranch())
    network = put_on_chip(program, H200, CPU)
    assert not network.is_whole
    assert len(network.layers) == 1
