"""What the operators behind an operation can do at once, which decides how a step is scheduled."""

from __future__ import annotations

from sign_ext.compiler.dense import Convolution
from sign_ext.compiler.op import Op, count
from sign_ext.compiler.pointwise import Pointwise
from sign_ext.compiler.pooling import AveragePool, MaxPool
from sign_ext.compiler.program import Program
from sign_ext.compiler.shaping import Reshape


def takes_epilogue(op: Op) -> bool:
    """Whether the operation's input-backward adds another cotangent and masks its result."""
    if isinstance(op, Convolution):
        return op.is_depthwise
    return isinstance(op, MaxPool | AveragePool)


def masks_on_load(op: Op) -> bool:
    """Whether the operation's input-backward takes its own activation's bits with the cotangent."""
    return isinstance(op, MaxPool) or (isinstance(op, Convolution) and op.is_depthwise)


def can_be_stem(program: Program) -> bool:
    """Whether the first operation's input-backward can be accumulated straight into the image.

    A dense convolution of few channels, and nothing else reads the image.
    """
    if not program.ops or program.readers()[0] != (0,):
        return False
    op = program.ops[0]
    if not isinstance(op, Convolution) or op.groups != 1 or len(op.inputs) != 1:
        return False
    return op.in_shapes[0][0] <= 16


def scales(op: Op) -> bool:
    """Whether the operation's backward is a pass in which its bits cost nothing."""
    return isinstance(op, Pointwise) and op.scale is not None


def is_handed_on(op: Op) -> bool:
    """Whether the input's cotangent is the output's, unchanged."""
    return isinstance(op, Pointwise) and op.scale is None


def is_free(op: Reshape) -> bool:
    """Whether a reshape moves nothing where channels are innermost: (C, 1, 1) and (C,)."""
    return all(count(shape) == shape[0] for shape in (op.in_shapes[0], op.shape))
