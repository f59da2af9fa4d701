"""A function between two convolutions: its rule and its bound step, against autograd in float64."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from step_checks import errors, within
from torch import Tensor, nn

from sign_ext.compiler.build import compile_phi
from sign_ext.compiler.ir.program import Program
from sign_ext.source_layer import Phi, SourceLayer

LAST = SourceLayer("last", "input", "Linear")
CHANNELS = 8
Size = tuple[int, ...]


class Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Between(nn.Module):
    """A convolution, the function, another convolution and a sigmoid."""

    def __init__(self, function, size: Size) -> None:
        super().__init__()
        torch.manual_seed(6)
        kind = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        self.first = kind(3, CHANNELS, 3, padding=1)
        is_module = isinstance(function, nn.Module)
        self.function = deepcopy(function).float() if is_module else Function(function)
        with torch.no_grad():
            channels = self.function.eval()(torch.zeros(1, CHANNELS, *size)).shape[1]
        self.second = kind(channels, 4, 3, padding=1)
        self.last = nn.Linear(4, 2)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.second(self.function(self.first(x))))
        return self.last(y.flatten(2).mean(2) if y.dim() != 4 else y.mean((2, 3)))


def program_of(function, size: Size) -> Program:
    """The strict Program in float64."""
    phi = Phi(Between(function, size).double(), LAST)
    return compile_phi(phi, torch.rand(1, 3, *size).double(), strict=True)


def check_between(function, size: Size = (7, 5), *, seed: int = 0) -> Program:
    """The Program and the bound step in float64 against autograd; the step in float32 as well."""
    network = Between(function, size)
    generator = torch.Generator().manual_seed(seed)
    for count in (1, 3):
        images = torch.randn(count, 3, *size, generator=generator)
        ours, eager = errors(network.float(), images, source=LAST)
        assert within(ours, eager), f"{ours:.2e}, eager {eager:.2e}"
        exact, _ = errors(network.double(), images.double(), source=LAST)
        assert exact < 1e-11
    program = program_of(function, size)
    x = images.double().requires_grad_()
    (wanted,) = torch.autograd.grad(Phi(network, LAST)(x).sum(), x)
    torch.testing.assert_close(program.pullback_of_ones(x.detach()), wanted, rtol=1e-9, atol=1e-12)
    return program


def line_of(program: Program, words: str) -> str:
    """The one line of the printed program that has these words."""
    (line,) = [line for line in str(program).splitlines() if words in line]
    return line
