"""Sums of branches that read one value become one convolution, with the same values and δ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.source_layer import Phi, SourceLayer


class Branches(nn.Module):
    """act(Σ branch(x)), the branches being modules or "x"."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = (branch(x) for branch in self.branches)
        for each in rest:
            first = first + each
        return torch.relu(first)


def conv(kernel, stride=1, groups=1, padding=None, dilation=1, inner=8):
    pad = (kernel - 1) * dilation // 2 if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(8, inner, kernel, stride, pad, dilation, groups, bias=False),
        nn.BatchNorm2d(inner),
    )


CASES = {
    "RepVGG": ([conv(3), conv(1), nn.BatchNorm2d(8)], 1),
    "RepVGG in another order": ([nn.BatchNorm2d(8), conv(1), conv(3)], 1),
    "RepVGG with a stride": ([conv(3, 2), conv(1, 2)], 1),
    "MobileOne, depthwise": ([nn.BatchNorm2d(8), conv(1, 1, 8), conv(3, 1, 8), conv(3, 1, 8)], 1),
    "groups": ([conv(5, groups=2), conv(3, groups=2), nn.Identity()], 1),
    "a shortcut": ([nn.Identity(), conv(3)], 1),
    "dilation": ([conv(3, dilation=2), conv(1), nn.Identity()], 1),
    "other groups": ([conv(3, groups=2), conv(1)], 2),
    "other dilation": ([conv(3, dilation=2), conv(3)], 2),
    "the larger kernel second": ([conv(3, padding=1), conv(5, padding=2)[:1]], 1),
    "another stride": ([conv(3, 2), nn.Sequential(nn.AvgPool2d(2), conv(1))], 2),
}


@pytest.mark.parametrize(("branches", "left"), CASES.values(), ids=CASES)
def test_one_convolution_computes_the_sum(branches, left, torch_rng):
    network = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), Branches(*branches), nn.Flatten(), nn.LazyLinear(2)
    )
    x = torch.rand(2, 3, 10, 6, generator=torch_rng, dtype=torch.float64)
    network.double().eval()
    network(x)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.running_var, module.weight, module.bias):
                    values.copy_(torch.rand(8, generator=torch_rng) + 0.5)
    network.requires_grad_(False)
    phi = Phi(network, SourceLayer("4", "input", "Linear"))
    program = compile_phi(phi, x[:1])
    assert sum(op.kind == "convolution" for op in program.ops) == 1 + left
    if left == 1:
        assert all(op.kind == "convolution" for op in program.ops if len(op.shape) == 3)
    x.requires_grad_()
    expected = phi(x)
    (delta,) = torch.autograd.grad(expected.sum(), x)
    values = {0: x.detach()}
    for op in program.ops:
        values[op.output], _ = op.forward(*(values[number] for number in op.inputs))
    got = values[program.ops[-1].output].flatten(1)
    torch.testing.assert_close(got, expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(program.pullback_of_ones(x.detach()), delta, rtol=1e-11, atol=1e-11)
