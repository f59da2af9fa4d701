"""Passes over a program's operations: each returns an equivalent program that does less.

A pass goes through the operations once and makes every change that it finds, so that the time grows
with their number and not with its square. Constants are folded in float64 and rounded once, to the
network's dtype, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from sign_ext.compiler.fewer_positions import products_at_fewer_positions
from sign_ext.compiler.fold_moves import (
    affine_after_moves,
    channels_into_products,
    merge_copies,
    merge_moves,
    select_first,
    split_products,
)
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.response_norm import fuse_response_norms
from sign_ext.compiler.ir.squeeze_excitation import fuse_excitations
from sign_ext.compiler.parallel_branches import merge_branches
from sign_ext.compiler.rotations import fuse_rotations

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
        merge_branches,
        pool_before_activation,
        flatten_into_linear,
        products_at_fewer_positions,
        merge_copies,
        merge_moves,
        affine_after_moves,
        split_products,
        channels_into_products,
        select_first,
    )
    ops = drop_dead(ops, output)
    first = 0
    while first < len(passes):
        changed = passes[first](ops, output)
        if changed is None:
            first += 1
        else:
            ops = drop_dead(changed, output)
            first = 0
    for fuse in (fuse_rotations, fuse_response_norms, fuse_excitations):
        fused = fuse(ops, output)
        ops = ops if fused is None else drop_dead(fused, output)
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
        fused: Op | None = op
        while fused is not None and fused.scale_and_shift is not None:
            fused = _fused_with_one(fused, made_by, used)
    return None if len(made_by) == len(ops) else list(made_by.values())


def _fused_with_one(op: Op, made_by: dict[int, Op], used: Counter[int]) -> Op | None:
    """The operation fused into one that it reads, in whose place it is in `made_by`, or None."""
    for side, number in enumerate(op.inputs):
        producer = made_by.get(number)
        if producer is None or used[number] > 1 or not producer.activation.is_identity:
            continue
        fused = _fused(producer, op, side)
        if fused is not None:
            del made_by[number]
            made_by[op.output] = fused
            return fused
    return None


def _fused(producer: Op, op: Op, side: int) -> Op | None:
    """`producer` followed by `op`, which reads it as input `side`, as one operation, or None."""
    scale, shift = op.scale_and_shift or (None, None)
    others = op.inputs[:side] + op.inputs[side + 1 :]
    if others and (producer.has_residual or not producer.takes_residual):
        return None
    if side == 1 and (scale is not None or shift is not None):
        return None  # the scale belongs to the other branch
    if producer.has_residual and scale is not None:
        return None  # the producer's residual would have to be scaled
    inputs = (*producer.inputs, *others)
    if len(set(inputs)) != len(inputs):
        return None
    return producer.followed_by(
        scale,
        shift,
        inputs=inputs,
        in_shapes=(*producer.in_shapes, *[op.shape] * len(others)),
        output=op.output,
        activation=op.activation,
    )


def fold_scale_into_consumers(ops: Ops, output: int) -> Ops | None:
    """Fold a scale (and a shift, where nothing pads it) into all convolutions that read it.

    x / 255 before the first convolution; a BatchNorm before a convolution.
    """
    made_by = {op.output: op for op in ops}
    readers: dict[int, list[int]] = {}  # by their outputs
    for op in ops:
        for number in dict.fromkeys(op.inputs):
            readers.setdefault(number, []).append(op.output)
    for op in ops:
        # The operation as it is now: it may have absorbed another.
        affine = made_by[op.output]
        if not affine.is_affine or affine.output == output:
            continue
        reading = readers.get(affine.output, [])
        if reading and all(_can_absorb(made_by[number], affine) for number in reading):
            for number in reading:
                made_by[number] = _absorbing(made_by[number], affine)
            del made_by[affine.output]
            before = readers[affine.inputs[0]]
            before.remove(affine.output)
            before += [number for number in reading if number not in before]
    return None if len(made_by) == len(ops) else list(made_by.values())


def _can_absorb(reader: Op, op: Op) -> bool:
    if reader.inputs.index(op.output) != 0 or reader.inputs.count(op.output) > 1:
        return False
    _, shift = op.scale_and_shift or (None, None)
    return reader.absorbs(shift=shift is not None)


def _absorbing(reader: Op, op: Op) -> Op:
    """reader(scale · x + shift) as one operation on x."""
    scale, shift = op.scale_and_shift or (None, None)
    inputs = (op.inputs[0], *reader.inputs[1:])
    in_shapes = (op.in_shapes[0], *reader.in_shapes[1:])
    return reader.preceded_by(scale, shift, inputs=inputs, in_shapes=in_shapes)


def merge_padding(ops: Ops, output: int) -> Ops | None:
    """Merge zero-padding into the convolution that is its only reader."""
    used = uses(ops, output)
    made_by = {op.output: op for op in ops}
    for op in ops:
        merged = op
        while merged.takes_zeros:
            pad = made_by.get(merged.inputs[0])
            if pad is None or used[pad.output] > 1 or (zeros := pad.zeros_around) is None:
                break
            merged = made_by[op.output] = merged.padded_by(
                zeros,
                inputs=(pad.inputs[0], *merged.inputs[1:]),
                in_shapes=(pad.in_shapes[0], *merged.in_shapes[1:]),
            )
            del made_by[pad.output]
    return None if len(made_by) == len(ops) else list(made_by.values())


def pool_before_activation(ops: Ops, output: int) -> Ops | None:
    """maxpool(act(x)) = act(maxpool(x)) for an increasing act: fewer elements, fewer bits.

    The gradients agree too: where act is flat, any choice of the maximum gives 0.
    """
    used = uses(ops, output)
    made_by = {op.output: op for op in ops}
    changed = False
    for op in ops:
        if not op.selects_largest:
            continue
        before = made_by.get(op.inputs[0])
        if before is None or used[before.output] > 1 or before.activation.is_identity:
            continue
        if not op.activation.is_identity:
            continue
        made_by[before.output] = replace(before, activation=type(before.activation)())
        made_by[op.output] = replace(op, activation=before.activation)
        changed = True
    return list(made_by.values()) if changed else None


def flatten_into_linear(ops: Ops, output: int) -> Ops | None:
    """Drop a reshape before a linear operation, which flattens its input itself."""
    made_by = {op.output: op for op in ops}
    changed = False
    for op in ops:
        if not op.flattens_input:
            continue
        before = made_by.get(op.inputs[0])
        while before is not None and before.keeps_order:
            op = replace(
                op,
                inputs=(before.inputs[0], *op.inputs[1:]),
                in_shapes=(before.in_shapes[0], *op.in_shapes[1:]),
            )
            made_by[op.output] = op
            changed = True
            before = made_by.get(op.inputs[0])
    return list(made_by.values()) if changed else None
