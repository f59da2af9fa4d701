"""Recording a network leaves PyTorch as it was, whoever else records at the time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from sign_ext.compiler.trace import trace


def test_two_threads_that_record_at_once_leave_the_module_class_as_it_was():
    inside, other_inside = threading.Event(), threading.Event()

    class First(nn.Flatten):
        def forward(self, x):
            inside.set()
            other_inside.wait(0.5)  # in vain where recordings take turns
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
