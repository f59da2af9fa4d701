"""Activations that cut something off, gated linear units, power means: against autograd."""

from __future__ import annotations

import pytest
from between import check_between
from torch import nn
from torch.nn import functional as F

FUNCTIONS = {
    "soft shrinkage": (nn.Softshrink(0.2), "elementwise softshrink 0.2"),
    "hard shrinkage": (nn.Hardshrink(0.3), "elementwise hardshrink 0.3"),
    "tanh shrinkage": (nn.Tanhshrink(), "smooth tanh"),
    "softsign": (nn.Softsign(), "broadcast div"),
    "threshold": (nn.Threshold(0.1, -0.4), "elementwise threshold 0.1 -0.4"),
    "random slopes": (nn.RReLU(0.1, 0.5), "leaky_relu(0.3)"),
    "gated channels": (nn.GLU(1), "multiply"),
    "gated rows": (lambda x: F.glu(x, 2), "multiply"),
    "power mean": (lambda x: F.lp_pool2d(x.sigmoid(), 3.0, 2), "elementwise sign"),
    "root mean square": (nn.LPPool2d(2, (3, 2), 1), "average_pool 3×2/1"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_delta_is_autograds(name):
    function, words = FUNCTIONS[name]
    assert words in str(check_between(function, (6, 5)))
