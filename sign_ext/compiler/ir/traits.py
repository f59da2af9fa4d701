"""What the operators behind an operation can do at once, which decides how a step is scheduled."""

from __future__ import annotations

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.pooling import AveragePool, MaxPool
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.ir.shaping import Reshape


def takes_epilogue(op: Op) -> bool:
    """Whether the operation's input-backward adds another cotangent and masks its result."""
    if isinstance(op, Convolution):
        return op.is_depthwise
    return isinstance(op, MaxPool | AveragePool)


def masks_on_load(op: Op) -> bool:
    """Whether the operation's input-backward takes its own activation's bits with the cotangent."""
    return isinstance(op, MaxPool) or (isinstance(op, Convolution) and op.is_depthwise)


def stem_of(program: Program) -> int | None:
    """The place of the convolution whose input-backward can be added straight to the image.

    The first operation, or the second behind an affine map (a standardisation that padding keeps
    from being folded): a dense convolution of few channels that alone reads the image.

    Args:
        program: any program.
    """
    ops, readers = program.ops, program.readers()
    place = 0
    if ops and is_affine(ops[0]) and readers[0] == (0,):
        place = 1
    if place >= len(ops) or readers[place] != (place,):
        return None
    op = ops[place]
    if not isinstance(op, Convolution) or op.groups != 1 or len(op.inputs) != 1:
        return None
    return place if op.in_shapes[0][0] <= 16 else None


def is_affine(op: Op) -> bool:
    """Whether an operation is scale · x + shift and nothing else."""
    return isinstance(op, Pointwise) and len(op.inputs) == 1 and op.activation.is_identity


def scales(op: Op) -> bool:
    """Whether the operation's backward is a pass in which its bits cost nothing."""
    return isinstance(op, Pointwise) and op.scale is not None


def is_identity_vjp(op: Op) -> bool:
    """Whether the input's cotangent is the output's, unchanged."""
    return isinstance(op, Pointwise) and op.scale is None


def is_free(op: Reshape) -> bool:
    """Whether a reshape moves nothing where channels are innermost: (C, 1, 1) and (C,)."""
    return all(count(shape) == shape[0] for shape in (op.in_shapes[0], op.shape))
