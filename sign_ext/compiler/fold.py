"""Passes over a program's operations: each returns an equivalent program that does less.

Constants are folded in float64 and rounded once, to the network's dtype, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from sign_ext.compiler.ir.dense import Convolution, Linear
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.pooling import MaxPool
from sign_ext.compiler.ir.shaping import Pad, Reshape

Ops = list[Op]


def simplify(ops: Ops, output: int) -> tuple[Ops, int]:
    """Apply all passes until none changes anything.

    Args:
        ops: in an order in which they can be computed.
        output: the number of Φ's value.

    Returns:
        The operations, and the number of that value, which a fused operation may compute now.
    """
    passes: tuple[Callable[[Ops, int], Ops | None], ...] = (
        fuse_into_producer,
        fold_scale_into_consumers,
        merge_padding,
        pool_before_activation,
        flatten_into_linear,
    )
    ops = drop_dead(ops, output)
    while True:
        for simplification in passes:
            changed = simplification(ops, output)
            if changed is not None:
                ops = drop_dead(changed, output)
                break
        else:
            return ops, output


def drop_dead(ops: Ops, output: int) -> Ops:
    """Remove what the output does not depend on."""
    needed = {output}
    kept: Ops = []
    for op in reversed(ops):
        if op.output in needed:
            kept.append(op)
            needed.update(op.inputs)
    return kept[::-1]


def uses(ops: Ops, output: int) -> Counter[int]:
    """How often each value is read, counting the program's output as one more read."""
    counter: Counter[int] = Counter(number for op in ops for number in op.inputs)
    counter[output] += 1
    return counter


def fuse_into_producer(ops: Ops, output: int) -> Ops | None:
    """Fuse a pointwise operation into the convolution, linear or pointwise one before it.

    BatchNorm after a convolution, an activation, the sum with another branch.
    """
    used = uses(ops, output)
    made_by = {op.output: op for op in ops}
    for op in ops:
        if not isinstance(op, Pointwise):
            continue
        for side, number in enumerate(op.inputs):
            producer = made_by.get(number)
            if producer is None or used[number] > 1 or not producer.activation.is_identity:
                continue
            fused = _fused(producer, op, side)
            if fused is not None:
                rest = [other for other in ops if other is not producer]
                at = next(j for j, other in enumerate(rest) if other is op)
                rest[at] = fused
                return rest
    return None


def _fused(producer: Op, op: Pointwise, side: int) -> Op | None:
    """`producer` followed by `op`, which reads it as input `side`, as one operation, or None."""
    others = op.inputs[:side] + op.inputs[side + 1 :]
    if others and (producer.has_residual or not producer.takes_residual):
        return None
    if side == 1 and (op.scale is not None or op.shift is not None):
        return None  # the scale belongs to the other branch
    if producer.has_residual and op.scale is not None:
        return None  # the producer's residual would have to be scaled
    inputs = (*producer.inputs, *others)
    if len(set(inputs)) != len(inputs):
        return None
    return producer.followed_by(
        op.scale,
        op.shift,
        inputs=inputs,
        in_shapes=(*producer.in_shapes, *[op.shape] * len(others)),
        output=op.output,
        activation=op.activation,
    )


def fold_scale_into_consumers(ops: Ops, output: int) -> Ops | None:
    """Fold a scale (and a shift, where nothing pads it) into all convolutions that read it.

    x / 255 before the first convolution; a BatchNorm before a convolution.
    """
    for op in ops:
        if not isinstance(op, Pointwise) or not op.is_affine or op.output == output:
            continue
        readers = [other for other in ops if op.output in other.inputs]
        if readers and all(_can_absorb(reader, op) for reader in readers):
            return [_absorbing(other, op) if other in readers else other for other in ops]
    return None


def _can_absorb(reader: Op, op: Pointwise) -> bool:
    if reader.inputs.index(op.output) != 0 or reader.inputs.count(op.output) > 1:
        return False
    return reader.absorbs(shift=op.shift is not None)


def _absorbing(reader: Op, op: Pointwise) -> Op:
    """reader(scale · x + shift) as one operation on x."""
    inputs = (op.inputs[0], *reader.inputs[1:])
    in_shapes = (op.in_shapes[0], *reader.in_shapes[1:])
    return reader.preceded_by(op.scale, op.shift, inputs=inputs, in_shapes=in_shapes)


def merge_padding(ops: Ops, output: int) -> Ops | None:
    """Merge zero-padding into the convolution that is its only reader."""
    used = uses(ops, output)
    made_by = {op.output: op for op in ops}
    for i, op in enumerate(ops):
        if not isinstance(op, Convolution):
            continue
        pad = made_by.get(op.inputs[0])
        if not isinstance(pad, Pad) or pad.value or used[pad.output] > 1 or min(pad.amounts) < 0:
            continue
        left, right, top, bottom = pad.amounts
        merged = replace(
            op,
            inputs=(pad.inputs[0], *op.inputs[1:]),
            in_shapes=(pad.in_shapes[0], *op.in_shapes[1:]),
            padding=(op.padding[0] + top, op.padding[1] + left),
            padding_end=(op.padding_end[0] + bottom, op.padding_end[1] + right),
        )
        return [*ops[:i], merged, *ops[i + 1 :]]
    return None


def pool_before_activation(ops: Ops, output: int) -> Ops | None:
    """maxpool(act(x)) = act(maxpool(x)) for an increasing act: fewer elements, fewer bits.

    The gradients agree too: where act is flat, any choice of the maximum gives 0.
    """
    used = uses(ops, output)
    made_by = {op.output: op for op in ops}
    for op in ops:
        if not isinstance(op, MaxPool):
            continue
        before = made_by.get(op.inputs[0])
        if before is None or used[before.output] > 1 or before.activation.is_identity:
            continue
        if not op.activation.is_identity:
            continue
        bare = replace(before, activation=type(before.activation)())
        pool = replace(op, activation=before.activation)
        return [bare if o is before else pool if o is op else o for o in ops]
    return None


def flatten_into_linear(ops: Ops, output: int) -> Ops | None:
    """Drop a reshape before a linear operation, which flattens its input itself."""
    made_by = {op.output: op for op in ops}
    for i, op in enumerate(ops):
        if isinstance(op, Linear):
            before = made_by.get(op.inputs[0])
            if isinstance(before, Reshape):
                merged = replace(
                    op,
                    inputs=(before.inputs[0], *op.inputs[1:]),
                    in_shapes=(before.in_shapes[0], *op.in_shapes[1:]),
                )
                return [*ops[:i], merged, *ops[i + 1 :]]
    return None
