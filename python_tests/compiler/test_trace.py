"""Recording a network leaves PyTorch as it was, and changes to the network are noticed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from sign_ext.compiler.trace import trace
from sign_ext.network_state import StructureWatch, weights_digest


def test_two_threads_that_record_at_once_leave_the_module_class_as_it_was():
    inside, other_inside = threading.Event(), threading.Event()

    class First(nn.Flatten):
        def forward(self, x):
            inside.set()
            other_inside.wait(0.5)  # times out where recordings take turns
            return super().forward(x)

    class Second(nn.Flatten):
        def forward(self, x):
            other_inside.set()
            threading.Event().wait(0.2)  # the first, if it was waiting, is done before
            return super().forward(x)

    def record(network, after=None):
        if after is not None:
            assert after.wait(10)
        return trace(network, torch.zeros(1, 3, 4, 4))

    call, getattr_ = nn.Module.__call__, nn.Module.__getattr__
    try:
        with ThreadPoolExecutor(2) as threads:
            graphs = [
                threads.submit(record, First()),
                threads.submit(record, Second(), after=inside),
            ]
            for graph in graphs:
                assert graph.result()(torch.ones(2, 3, 4, 4)).shape == (2, 48)
        assert nn.Module.__call__ is call
        assert nn.Module.__getattr__ is getattr_
    finally:
        nn.Module.__call__, nn.Module.__getattr__ = call, getattr_


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].weight.data.mul_(-1),
        lambda m: m[0].weight.data.copy_(m[0].weight.data.flip(0)),
        lambda m: m[1].running_mean.add_(1),
        lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 1)),
    ],
    ids=["data", "data permuted", "buffer", "state dict", "replaced"],
)
def test_every_change_of_weights_is_noticed(change):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    before = weights_digest(model)
    assert weights_digest(model) == before
    change(model)
    assert weights_digest(model) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m[0], "stride", (2, 2)),
        lambda m: setattr(m[1], "inplace", True),
        lambda m: m.append(nn.ReLU()),
        lambda m: m[0].register_forward_hook(lambda *_: None),
        lambda m: setattr(m[0], "weight", nn.Parameter(m[0].weight * 1)),
        lambda m: setattr(m, "threshold", 3.0),
        lambda m: m.train(),
    ],
    ids=["stride", "flag", "layer", "hook", "parameter", "attribute", "mode"],
)
def test_every_change_of_structure_is_noticed(change):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    watch = StructureWatch(model)
    before = watch.key()
    assert watch.key() == before
    change(model)
    assert watch.key() != before
    hash(watch.key())
