"""A pass over sums of linear branches that read the same value: one convolution computes them all.

RepVGG's and MobileOne's blocks as they are trained: a 3×3 convolution, a 1×1 one and a BatchNorm,
each of the block's input, summed. A shortcut around one convolution is such a branch too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.pointwise import Pointwise

Ops = list[Op]


def merge_branches(ops: Ops, output: int) -> Ops | None:
    """Add up the kernels of convolutions of one value whose results are added up.

    Args:
        ops: in an order in which they can be computed.
        output: the number of Φ's value.
    """
    used = Counter(number for op in ops for number in op.inputs)
    used[output] += 1
    made_by = {op.output: op for op in ops}
    for op in ops:
        while op.has_residual:
            merged = _with_its_residual(op, made_by, used) or _of_its_inputs(op, made_by, used)
            if merged is None:
                break
            for number in op.inputs:
                if used[number] == 1 and number not in merged.inputs:
                    made_by.pop(number, None)
            op = made_by[op.output] = merged
    return None if len(made_by) == len(ops) else list(made_by.values())


def _branch(number: int, made_by: dict[int, Op], used: Counter[int]) -> Op | None:
    """What makes a value, if it is a branch that nothing else reads."""
    op = made_by.get(number)
    return op if op and used[number] == 1 and op.activation.is_identity else None


def _with_its_residual(op: Op, made_by: dict[int, Op], used: Counter[int]) -> Op | None:
    """A convolution, or x itself, plus a branch that reads the same x."""
    inputs = op.inputs
    if isinstance(op, Pointwise) and op.scale is None:
        sides: tuple[tuple[int, int], ...] = ((0, 1), (1, 0))  # the sum may be taken either way
    else:
        sides = ((0, 1),)
    for x, other in sides:
        branch = _branch(inputs[other], made_by, used)
        if branch is None or branch.inputs[0] != inputs[x]:
            continue
        first = replace(op, inputs=inputs[x : x + 1], in_shapes=op.in_shapes[x : x + 1])
        return _sum(first, branch, op)
    return None


def _of_its_inputs(op: Op, made_by: dict[int, Op], used: Counter[int]) -> Op | None:
    """The sum of two branches that read the same value."""
    if not isinstance(op, Pointwise) or op.scale is not None:
        return None
    first, second = (_branch(number, made_by, used) for number in op.inputs)
    if first is None or second is None or first.inputs[0] != second.inputs[0]:
        return None
    merged = _sum(first, second, op)
    return merged and merged.followed_by(
        None,
        op.shift,
        inputs=merged.inputs,
        in_shapes=merged.in_shapes,
        output=op.output,
        activation=op.activation,
    )


def _sum(first: Op, second: Op, whole: Op) -> Convolution | None:
    """Two branches as one convolution with `whole`'s activation and output, or None."""
    if not isinstance(first, Convolution) or (
        isinstance(second, Convolution) and _taps(second) > _taps(first)
    ):
        first, second = second, first
    if not isinstance(first, Convolution) or first.shape != second.shape:
        return None
    added = _inside(first, second)
    inputs = (*first.inputs[1:], *second.inputs[1:])
    in_shapes = (*first.in_shapes[1:], *second.in_shapes[1:])
    if added is None or len(inputs) > 1 or (inputs and not first.takes_residual):
        return None
    if first.inputs[0] in inputs:
        return None
    weight, shift = added
    both = [bias.double() for bias in (first.bias, shift) if bias is not None]
    return replace(
        first,
        weight=first.weight.double() + weight,
        bias=torch.stack(both).sum(0) if both else None,
        inputs=(first.inputs[0], *inputs),
        in_shapes=(first.in_shapes[0], *in_shapes),
        output=whole.output,
        activation=whole.activation,
    )


def _taps(op: Convolution) -> int:
    return op.kernel[0] * op.kernel[1]


def _inside(first: Convolution, second: Op) -> tuple[Tensor, Tensor | None] | None:
    """A branch as a weight of `first`'s size and geometry and a bias; None where there is none."""
    if isinstance(second, Pointwise):
        if first.stride != (1, 1) or first.in_shapes[0] != second.in_shapes[0]:
            return None
        kernel, padding, shift = (1, 1), (0, 0), second.shift
        out, per_group = first.weight.shape[:2]
        values = torch.zeros((out, per_group, 1, 1), dtype=torch.float64)
        values = values.to(first.weight.device)
        channel = torch.arange(out, device=values.device)
        # Output channel c reads input channel c, the c-th of all and not of its group.
        scale = second.scale
        values[channel, channel % per_group, 0, 0] = 1.0 if scale is None else scale.double()
    elif isinstance(second, Convolution) and second.groups == first.groups:
        if second.stride != first.stride:
            return None
        kernel, padding, shift = second.kernel, second.padding, second.bias
        values = second.weight.double()
        if kernel != (1, 1) and second.dilation != first.dilation:
            return None
    else:
        return None
    weight = torch.zeros_like(first.weight, dtype=torch.float64)
    spans = []
    for size, inner, pad, own, dilation in zip(
        first.kernel, kernel, first.padding, padding, first.dilation, strict=True
    ):
        before, rest = divmod(pad - own, dilation)
        if rest or before < 0 or before + inner > size:
            return None
        spans.append(slice(before, before + inner))
    weight[:, :, spans[0], spans[1]] = values
    return weight, shift
