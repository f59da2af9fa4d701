"""The rule for roll."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sign_ext.compiler.builder import Builder, dense
from sign_ext.compiler.ir.gather import Gather
from sign_ext.compiler.ir.op import count
from sign_ext.compiler.lower import Ref, lowers
from sign_ext.errors import UnsupportedOperation


@lowers("roll.default", whole=True)
def roll(
    builder: Builder, sizes: Sequence[int], x: Ref, shifts: Sequence[int], dims: Sequence[int] = ()
) -> Ref:
    """Positions moved along dimensions, those at the end to the start."""
    if not dims:
        raise UnsupportedOperation("it rolls the images too")
    axes = [x.axis(d) for d in dims]
    x = dense(builder, x)
    if len(x.shape) != 3:
        raise UnsupportedOperation(f"a value of shape {x.shape}")
    memory = torch.arange(count(x.shape))
    seen = memory.as_strided(x.view.shape, x.view.strides)
    source = torch.empty_like(memory)
    source.as_strided(x.view.shape, x.view.strides).copy_(seen.roll(list(shifts), axes))
    rows = source.view(-1, x.shape[0])
    places = rows[:, 0] // x.shape[0]
    if not torch.equal(rows, places[:, None] * x.shape[0] + torch.arange(x.shape[0])):
        raise UnsupportedOperation("it rolls the channels")
    made = builder.add(Gather, (x,), x.shape, places=tuple(places.tolist()))
    return made.like(x)
