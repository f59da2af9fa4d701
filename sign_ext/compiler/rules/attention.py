"""Rules for attention: scaled_dot_product_attention, and products around a softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.compiler.builder import Builder
from sign_ext.compiler.ir.attention import Attention
from sign_ext.compiler.ir.broadcast import Broadcast, Select
from sign_ext.compiler.ir.choose import Choose
from sign_ext.compiler.ir.matmul import MatMul
from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.shaping import Reshape
from sign_ext.compiler.ir.softmax import Softmax
from sign_ext.compiler.ir.view import View, contiguous_strides
from sign_ext.compiler.lower import lowers
from sign_ext.compiler.refs import Ref
from sign_ext.compiler.rules.broadcast import of_two
from sign_ext.compiler.rules.take import repeat_interleave
from sign_ext.compiler.rules.viewed import (
    add_alike,
    add_viewed,
    made_by,
    merged_in,
    number_of,
    of_one_image,
)
from sign_ext.errors import UnsupportedOperation


@lowers("scaled_dot_product_attention.default", views=True)
def attention(
    builder: Builder,
    shape: Shape,
    q: Ref,
    k: Ref,
    v: Ref,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Ref:
    """softmax(scale · q kᵀ + mask) v."""
    if not all(isinstance(x, Ref) for x in (q, k, v)):
        raise UnsupportedOperation("one of its operands does not depend on the images")
    if dropout:
        raise UnsupportedOperation("dropout is active in evaluation mode")
    if enable_gqa:
        k, v = (_of_all_heads(builder, q, x) for x in (k, v))
    if isinstance(mask, Ref):
        if is_causal:
            raise UnsupportedOperation("a causal mask and one that depends on the images")
        return _biased(builder, q, k, v, mask, q.view.shape[-1] ** -0.5 if scale is None else scale)
    bias = None
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=torch.float64).masked_fill_(~mask, -torch.inf)
        dims = len(q.view.shape)
        bias = of_one_image(builder, mask.double(), dims, merged_in(q, k, v))
        bias = _of_heads(bias, dims)
    factor = q.view.shape[-1] ** -0.5 if scale is None else float(scale)
    return _add(builder, q, k, v, factor, bias, bool(is_causal))


def _of_all_heads(builder: Builder, q: Ref, x: Ref) -> Ref:
    """k or v with its heads repeated, each for its group of heads of q."""
    if len(q.view.shape) < 3 or len(x.view.shape) != len(q.view.shape):
        raise UnsupportedOperation(f"heads {q.view.shape[:-2]} and {x.view.shape[:-2]}")
    heads, own = q.view.shape[-3], x.view.shape[-3]
    if heads % own:
        raise UnsupportedOperation(f"{heads} heads of q and {own} of k and v")
    if heads == own:
        return x
    sizes = list(x.sizes(builder.batch))
    sizes[-3] = heads
    found: Ref = repeat_interleave(builder, sizes, x, heads // own, -3)
    return found


def _biased(builder: Builder, q: Ref, k: Ref, v: Ref, mask: Ref, scale: float) -> Ref:
    """The same with a bias that depends on the images, by two products and a softmax."""
    op = made_by(builder, mask.number)
    if isinstance(op, Broadcast | Choose | Select) and _hides(op):
        # PyTorch's attention gives 0 for a row that may read nothing, where a softmax has none.
        raise UnsupportedOperation("a mask that depends on the images and may hide everything")
    if len({len(x.view.shape) for x in (q, k, v, mask)}) > 1:
        raise UnsupportedOperation("operands of different dimensions")
    dims = len(k.view.shape)
    turned = k.seen(k.view.permuted((*range(dims - 2), dims - 1, dims - 2)))
    sizes = [x.view.shape[:-2] for x in (q, k, v)]
    lead = tuple(torch.broadcast_shapes(*sizes))
    shape = (*lead, q.view.shape[-2], k.view.shape[-2])
    merged = q.merged

    def marked(x: Ref) -> Ref:
        return Ref(x.number, x.shape, x.view, 0, merged)

    scores = marked(add_viewed(builder, MatMul, [q, turned], shape))
    scores = marked(of_two(builder, "mul", scores, scale))
    scores = marked(of_two(builder, "add", scores, mask))
    weights = marked(add_alike(builder, Softmax, [scores], shape, dim=-1))
    return add_viewed(builder, MatMul, [weights, v], (*shape[:-1], v.view.shape[-1]))


def _hides(op: Broadcast | Choose | Select) -> bool:
    """Whether a value is a mask of bools, or may be -inf by a constant."""
    if isinstance(op, Broadcast) and op.is_mask:
        return True
    if isinstance(op, Select) and op.fill == -torch.inf:
        return True
    return any(bool((constant == -torch.inf).any()) for constant in op.constants())


def _of_heads(bias: Tensor, dims: int) -> Tensor:
    """A bias as (windows or 1, heads or 1, T or 1, S).

    Args:
        bias: of one image, of at most `dims` dimensions.
        dims: of one image of q: with heads in front of the last two if 3, windows if 4.
    """
    bias = bias.reshape(*[1] * (dims - bias.dim()), *bias.shape)
    return bias.reshape(*[1] * (4 - dims), *bias.shape)


def _add(
    builder: Builder, q: Ref, k: Ref, v: Ref, scale: float, bias: Tensor | None, causal: bool
) -> Ref:
    lead = q.view.shape[:-2]
    if len(lead) > 2 or any(len(x.view.shape) > len(q.view.shape) for x in (k, v)):
        raise UnsupportedOperation(f"q, k and v of shapes {q.view.shape}, {k.view.shape}, ...")
    for x in (k, v):
        sizes = x.view.shape[:-2]
        if any(n not in (1, m) for n, m in zip(sizes[::-1], lead[::-1], strict=False)):
            raise UnsupportedOperation(f"heads {lead} and {sizes}")
    if bias is not None and len(bias) > 1 and bool((bias == bias[:1]).all()):
        bias = bias[:1]
    dims = len(lead) + 2
    order = (*range(dims - 3), dims - 2, dims - 3, dims - 1) if lead else None
    shape = (*lead, q.view.shape[-2], v.view.shape[-1])
    three = [_spread(x, dims) for x in (q, k, v)]
    # A position's heads are side by side: together they are its channels.
    heads, length, features = (*[1] * (3 - dims), *shape)[-3:]
    stored = (heads * features, count(shape[:-3]), length)
    options = {"scale": scale, "bias": bias, "causal": causal}
    return add_viewed(builder, Attention, three, shape, order=order, stored=stored, **options)


def _spread(x: Ref, dims: int) -> Ref:
    """An operand with as many dimensions as q."""
    view, more = x.view, dims - len(x.view.shape)
    return x.seen(View((*[1] * more, *view.shape), (*[0] * more, *view.strides), view.offset))


# Written out: q kᵀ, scaled, with constants added, a softmax, times v.


@dataclass
class _Scores:
    """What a softmax reads: factor · q kᵀ + bias."""

    q: Ref
    k: Ref
    factor: float
    bias: Tensor | None  # (of all batches or 1, T, S)


def attention_written_out(builder: Builder, weights: Ref, v: Ref) -> Ref | None:
    """The product of a softmax with v as an attention, where the softmax reads scores.

    What lies between is computed twice if something else reads it too; else nothing does any more.

    Args:
        builder: the program.
        weights: the first factor.
        v: the second.
    """
    softmax = made_by(builder, weights.number)
    if not isinstance(softmax, Softmax) or softmax.log or softmax.dim != -1:
        return None
    *lead, rows, columns = weights.view.shape
    if not _plain(weights.view, rows, columns, softmax.shape):
        return None
    if not _plain(softmax.views[0], rows, columns, softmax.shape):
        return None
    found = _scores(builder, softmax.inputs[0], rows, columns)
    if found is None or found.q.view.shape[:-2] != tuple(lead) or len(lead) > 2:
        return None
    bias = found.bias
    if bias is not None:
        sizes = lead if len(bias) > 1 else [1] * len(lead)
        bias = _of_heads(bias.reshape(*sizes, *bias.shape[1:]), len(lead) + 2)
    return _add(builder, found.q, found.k, v, found.factor, bias, causal=False)


def _plain(view: View, rows: int, columns: int, stored: Shape) -> bool:
    """Whether a view shows a value's memory in order, as matrices of a size."""
    whole = count(view.shape) == count(stored) and view == View.contiguous(view.shape)
    return whole and view.shape[-2:] == (rows, columns)


def _scores(builder: Builder, number: int, rows: int, columns: int) -> _Scores | None:
    """What computes a value that consists of scores, through what scales and shifts them."""
    factor, bias = 1.0, None
    while True:
        op = made_by(builder, number)
        if op is None or not op.activation.is_identity:
            return None
        if isinstance(op, MatMul):
            break
        change = _affine(op, rows, columns)
        if change is None:
            return None
        times, plus = change
        if plus is not None:
            plus = plus * factor
            bias = plus if bias is None else bias + plus
        factor *= times
        number = op.inputs[0]
    if op.factor is not None or not _plain(op.out, rows, columns, op.shape):
        return None
    refs = []
    for operand, view in zip(op.operands, op.views, strict=True):
        refs.append(Ref(op.inputs[operand], op.in_shapes[operand], view))
    if len(refs[0].view.shape) != len(refs[1].view.shape):
        return None
    dims = len(refs[1].view.shape)
    k = refs[1].seen(refs[1].view.permuted((*range(dims - 2), dims - 1, dims - 2)))
    (q, of_q), (k, of_k) = (_unscaled(builder, each) for each in (refs[0], k))
    return _Scores(q, k, factor * of_q * of_k, bias)


def _affine(op: Op, rows: int, columns: int) -> tuple[float, Tensor | None] | None:
    """An operation on scores as a factor and a constant to add, (batches or 1, T, S)."""
    if isinstance(op, Reshape):
        return 1.0, None
    if isinstance(op, Pointwise) and len(op.inputs) == 1:
        scale = 1.0 if op.scale is None else number_of(op.scale)
        if scale is None:
            return None
        return scale, None if op.shift is None else _in_memory(op.shift, op.shape, rows, columns)
    if not isinstance(op, Broadcast | Select) or len(op.views) > 1:
        return None
    in_order = all(_plain(v, rows, columns, op.shape) for v in (op.views[0], op.out))
    if not in_order or op.views[0].shape != op.out.shape:
        return None
    if isinstance(op, Select):
        if op.fill != -torch.inf:
            return None
        fill = torch.zeros_like(op.mask, dtype=torch.float64).masked_fill_(op.mask != 0, -torch.inf)
        return 1.0, _matrices(fill, op.out.shape)
    assert op.constant is not None
    value = number_of(op.constant)
    if op.function == "mul" and value is not None:
        return value, None
    if op.function == "div" and value is not None and not op.constant_first:
        return 1 / value, None
    if op.function == "add":
        return 1.0, _matrices(op.constant.double(), op.out.shape)
    return None


def _matrices(constant: Tensor, shape: Shape) -> Tensor:
    """A constant that broadcasts with a value in order, as (batches or 1, T, S)."""
    if all(n == 1 for n in constant.shape[:-2]):
        return constant.expand(*[1] * (len(shape) - 2), *shape[-2:]).reshape(1, *shape[-2:])
    return constant.expand(shape).reshape(-1, *shape[-2:])


def _in_memory(constant: Tensor, shape: Shape, rows: int, columns: int) -> Tensor | None:
    """A constant (C,), or (C, H, W), of a stored value, as (batches, T, S)."""
    if constant.dim() == 1:
        constant = constant.reshape(-1, *[1] * (len(shape) - 1))
    constant = constant.double().expand(shape)
    if len(shape) == 3:
        constant = constant.permute(1, 2, 0)
    return constant.reshape(-1, rows, columns)


def _unscaled(builder: Builder, x: Ref) -> tuple[Ref, float]:
    """An operand before it was scaled, and copied for that; and the factor."""
    op = made_by(builder, x.number)
    if isinstance(op, Pointwise) and op.is_affine and op.shift is None and op.scale is not None:
        scale = number_of(op.scale)
        if scale is not None and op.in_shapes[0] == op.shape:
            return _uncopied(builder, Ref(op.inputs[0], op.shape, x.view)), scale
    if isinstance(op, Broadcast) and op.function == "mul" and op.constant is not None:
        scale = number_of(op.constant)
        if scale is not None and op.views[0] == op.out and op.in_shapes[0] == op.shape:
            return Ref(op.inputs[0], op.shape, x.view), scale
    return x, 1.0


def _uncopied(builder: Builder, x: Ref) -> Ref:
    """A view of a copy as a view of what was copied, where each dimension is one of it."""
    op = made_by(builder, x.number)
    if not isinstance(op, Rearrange) or x.view.offset:
        return x
    source = op.view
    steps = dict(zip(contiguous_strides(source.shape), _dims(source), strict=True))
    strides = []
    for size, stride in zip(x.view.shape, x.view.strides, strict=True):
        if size == 1 or not stride:
            strides.append(0)
            continue
        whole, step = steps.get(stride, (0, 0))
        if size != whole:
            return x
        strides.append(step)
    view = View(x.view.shape, tuple(strides), source.offset)
    return Ref(op.inputs[0], op.in_shapes[0], view)


def _dims(view: View) -> list[tuple[int, int]]:
    return list(zip(view.shape, view.strides, strict=True))
