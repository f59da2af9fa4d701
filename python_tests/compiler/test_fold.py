"""The passes make all their changes in one sweep, so that their number does not grow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_ext.compiler import fold
from sign_ext.compiler.build import compile_phi
from sign_ext.source_layer import Phi, SourceLayer


class Block(nn.Module):
    """What every pass finds something in: padding, BatchNorm, a residual, a pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(4)
        self.pad = nn.ZeroPad2d((1, 1, 1, 1))
        self.first = nn.Conv2d(4, 4, 3)
        self.after = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.after(self.first(self.pad(x))))
        return self.pool(torch.relu(x + self.second(self.before(y))))


def compile_blocks(count: int):
    torch.manual_seed(count)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), *(Block() for _ in range(count)), nn.Flatten(), nn.Linear(4 * 5 * 7, 2)
    )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1)
                module.running_var.uniform_(0.5, 2)
    network.eval().requires_grad_(False)
    source = SourceLayer(str(len(network) - 1), "input", "Linear")
    phi = Phi(network, source)
    return phi, compile_phi(phi, torch.rand(1, 3, 5, 7))


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes, each as often as it went through the operations."""
    found: list[str] = []
    for name in (
        "fuse_into_producer",
        "fold_scale_into_consumers",
        "merge_padding",
        "pool_before_activation",
        "flatten_into_linear",
    ):
        sweep = getattr(fold, name)

        def counted(ops, output, sweep=sweep, name=name):
            found.append(name)
            return sweep(ops, output)

        monkeypatch.setattr(fold, name, counted)
    return found


def test_the_number_of_sweeps_does_not_grow_with_the_network(sweeps):
    _, few = compile_blocks(3)
    of_few = list(sweeps)
    sweeps.clear()
    _, many = compile_blocks(60)
    assert sweeps == of_few
    assert len(set(sweeps)) == 5
    # A block is two convolutions and a pooling; the first convolution is one more.
    assert (len(few.ops), len(many.ops)) == (1 + 3 * 3, 1 + 3 * 60)


def test_folded_blocks_compute_what_the_network_does(torch_rng):
    phi, program = compile_blocks(3)
    images = torch.rand(4, 3, 5, 7, generator=torch_rng)
    exact = Phi(phi.model.double(), phi.source)
    x = images.double().requires_grad_()
    (expected,) = torch.autograd.grad(exact(x).sum(), x)
    got = program.pullback_of_ones(images)
    assert (got - expected).norm() < 1e-5 * expected.norm()
