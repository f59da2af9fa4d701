"""A pass: a 1×1 convolution runs where the image is smaller, before or after its size changes.

Interpolation and average pooling mix positions, a 1×1 convolution mixes channels, so that either
may come first. The bias stays what it is, since the weights of each new position sum to one.
"""

from __future__ import annotations

from dataclasses import replace

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import Op, Shape
from sign_ext.compiler.ir.program import FLOP_A_BYTE

Ops = list[Op]


def products_at_fewer_positions(ops: Ops, output: int) -> Ops | None:
    """Exchange a 1×1 convolution and a change of size next to it where that is less work.

    x → bilinear → 1×1 in decoders; x → 1×1 → average pooling in DenseNet.

    Args:
        ops: in an order in which they can be computed.
        output: the number of Φ's value.

    Returns:
        The new operations, or None if there was nothing to exchange.
    """
    readers: dict[int, int] = {output: 1}
    for op in ops:
        for number in op.inputs:
            readers[number] = readers.get(number, 0) + 1
    made_by = {op.output: op for op in ops}
    changed = False
    for op in ops:
        second = made_by[op.output]
        first = made_by.get(second.inputs[0])
        if first is None or readers[first.output] > 1 or not _exchangeable(first, second):
            continue
        before, after = _exchanged(first, second)
        if _work(before) + _work(after) < _work(first) + _work(second):
            made_by[first.output], made_by[second.output] = before, after
            changed = True
    return list(made_by.values()) if changed else None


def _exchangeable(first: Op, second: Op) -> bool:
    """Whether one is a 1×1 convolution alone and the other a change of size."""
    for product, resized in ((first, second), (second, first)):
        if isinstance(product, Convolution) and product.is_pointwise and resized.averages_positions:
            plain = product.activation.is_identity and resized.activation.is_identity
            return plain and not product.has_residual
    return False


def _exchanged(first: Op, second: Op) -> tuple[Op, Op]:
    """The second operation on the first one's input, and the first on its result."""
    channels, size = second.shape[0], second.shape[1:]
    if isinstance(first, Convolution):
        channels = first.in_shapes[0][0]
    else:
        size = first.in_shapes[0][1:]
    between: Shape = (channels, *size)
    before = replace(
        second,
        inputs=first.inputs,
        in_shapes=first.in_shapes,
        output=first.output,
        shape=between,
    )
    after = replace(
        first,
        inputs=(first.output,),
        in_shapes=(between,),
        output=second.output,
        shape=second.shape,
    )
    return before, after


def _work(op: Op) -> int:
    """As `Program.shares` estimates it."""
    return op.flops() + FLOP_A_BYTE * op.traffic()
