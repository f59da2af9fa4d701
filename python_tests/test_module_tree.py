"""The lists of a network's modules and tensors are PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sign_ext import module_tree


def shared() -> nn.Module:
    """One module in two places, one tensor in two modules, and places that hold nothing."""
    inner = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU())
    net = nn.Sequential(inner, nn.Sequential(nn.ReLU(), inner), nn.Linear(3, 3))
    net[2].weight = inner[0].weight
    net.register_module("nothing", None)
    net.register_parameter("no weight", None)
    net.register_buffer("own", torch.ones(2))
    inner.register_buffer("the same", net.own)
    return net


class Fewer(nn.Sequential):
    """Shows fewer modules and tensors than it has."""

    def named_modules(self, memo=None, prefix="", remove_duplicate=True):
        yield prefix, self

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        yield from ()


CASES = {
    "shared": shared,
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))),
    "its own lists": lambda: Fewer(nn.Linear(2, 2)),
    "its own lists inside": lambda: nn.Sequential(Fewer(nn.Linear(2, 2)), nn.Linear(2, 2)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_they_are_pytorchs(case):
    net = CASES[case]()
    names = [name for name, _ in net.named_modules()]
    assert [name for name, _ in module_tree.named_modules(net)] == names
    assert [id(m) for m in module_tree.modules(net)] == [id(m) for m in net.modules()]
    ours, theirs = module_tree.parameters(net), list(net.parameters())
    assert [p.data_ptr() for p in ours] == [p.data_ptr() for p in theirs]
    ours, theirs = module_tree.buffers(net), list(net.buffers())
    assert [b.data_ptr() for b in ours] == [b.data_ptr() for b in theirs]
