"""Rules for softmax and its logarithm."""

from __future__ import annotations

from typing import Any

import torch

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.softmax import Softmax
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.viewed import add_alike
from sign_ext.errors import UnsupportedOperation


def _over(builder: Builder, x: Ref, dim: int, dtype: Any, log: bool) -> Ref:
    halves = (torch.bfloat16, torch.float16)
    wider = builder.dtype in halves and dtype == torch.float32  # as in `to_dtype`
    if dtype not in (None, False, builder.dtype) and not wider:
        raise UnsupportedOperation(f"a change of type to {dtype}")
    shape = x.view.shape
    return add_alike(builder, Softmax, [x], shape, dim=x.axis(dim) - len(shape), log=log)


@lowers("softmax.int", "_softmax.default", views=True)
def softmax(builder: Builder, shape: Shape, x: Ref, dim: int, dtype: Any = None) -> Ref:
    """Softmax over one dimension."""
    return _over(builder, x, dim, dtype, log=False)


@lowers("log_softmax.int", "_log_softmax.default", views=True)
def log_softmax(builder: Builder, shape: Shape, x: Ref, dim: int, dtype: Any = None) -> Ref:
    """The logarithm of the softmax over one dimension."""
    return _over(builder, x, dim, dtype, log=True)
