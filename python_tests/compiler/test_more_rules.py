"""Rules with files of their own: against autograd in float64, with what they keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi, SourceLayer

IMAGE = (3, 7, 5)


def compiled(function) -> tuple[Program, Phi]:
    torch.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), Function(function), nn.Flatten())
    model.append(nn.Linear(model(torch.rand(1, *IMAGE)).shape[1], 2)).eval()
    model.double().requires_grad_(False)
    phi = Phi(model, SourceLayer("3", "input", "Linear"))
    return compile_phi(phi, torch.rand(1, *IMAGE).double(), strict=True), phi


class Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ConvNeXtBlock(nn.Module):
    """Channels in the last dimension between a depthwise convolution and a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.gamma = nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class ChannelsLast(nn.Sequential):
    """Modules that take the channels in the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def affine(module: nn.Module) -> nn.Module:
    torch.manual_seed(7)
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1)
    return module


CASES = {
    "group norm": (lambda: affine(nn.GroupNorm(3, 6)), "group_norm 3 groups", "statistics 24 B"),
    "without weights": (lambda: nn.GroupNorm(2, 6, affine=False), "group_norm", "input 840 B"),
    "instance norm": (lambda: affine(nn.InstanceNorm2d(6, affine=True)), "6 groups", "48 B"),
    "elu": (lambda: nn.ELU(0.3), "elu alpha 0.3", "output"),
    "selu": (nn.SELU, "elu alpha 1.67326 scale 1.0507", "output"),
    "celu": (lambda: nn.CELU(0.5), "elu alpha 0.5 input_scale 2", "output"),
    "prelu": (lambda: affine(nn.PReLU(6)), "prelu", "input"),
    "prelu with one slope": (nn.PReLU, "leaky_relu(0.25)", "bit mask"),
    "layer norm": (
        lambda: ChannelsLast(affine(nn.LayerNorm(6))),
        "channel_norm",
        "280 B",
    ),
    "linear": (lambda: ChannelsLast(nn.Linear(6, 6)), "convolution 1×1", "nothing"),
    "convnext": (lambda: affine(ConvNeXtBlock()), "convolution 1×1 + residual", "nothing"),
    "nearest": (lambda: nn.Upsample(scale_factor=(2, 3)), "upsample 2×3", "nothing"),
    "nearest to a size": (lambda: nn.Upsample(size=(14, 5)), "upsample 2×1", "nothing"),
}


@pytest.mark.parametrize("name", CASES)
def test_delta_is_autograds(name):
    make, operation, kept = CASES[name]
    program, phi = compiled(nn.Sequential(make(), nn.Conv2d(6, 3, 3), nn.Tanh()))
    for count in (1, 3):
        images = torch.randn(count, *IMAGE).double()
        x = images.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(phi(x).sum(), x)
        torch.testing.assert_close(program.pullback_of_ones(images), wanted, rtol=1e-9, atol=1e-12)
    (line,) = [line for line in str(program).splitlines() if operation in line]
    assert kept in line


def test_the_affine_map_of_a_norm_fuses_with_what_follows():
    program, _ = compiled(nn.Sequential(affine(nn.GroupNorm(2, 6)), nn.ReLU(), nn.Conv2d(6, 3, 3)))
    assert [str(op) for op in program.ops][1:3] == [
        "group_norm 2 groups",
        "pointwise scale shift + relu",
    ]


def test_a_block_with_the_channels_last_is_compiled_whole():
    program, _ = compiled(nn.Sequential(affine(ConvNeXtBlock()), nn.Sigmoid()))
    assert [str(op) for op in program.ops] == [
        "convolution 3×3",
        "convolution 3×3 depthwise",
        "channel_norm",
        "convolution 1×1",
        "smooth gelu",
        "convolution 1×1 + residual",
        "smooth sigmoid",
    ]


def places(x: Tensor) -> Tensor:
    """Constants in the order of the network, with the channels last."""
    x = x.permute(0, 2, 3, 1)
    x = x * torch.arange(1.0, 7).to(x) + torch.linspace(-1, 1, 6).view(1, 1, 1, 6).to(x)
    return F.relu(F.dropout(x, 0.5, training=False).contiguous() - 0.5).permute(0, 3, 1, 2)


def test_constants_with_the_channels_last():
    program, _ = compiled(places)
    assert [str(op) for op in program.ops] == ["convolution 3×3 + relu"]


REFUSED = {
    "running statistics": lambda x: F.instance_norm(
        x, torch.zeros(6).to(x), torch.ones(6).to(x), use_input_stats=False
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refuses(message):
    with pytest.raises(UnsupportedOperation, match=message):
        compiled(REFUSED[message])
