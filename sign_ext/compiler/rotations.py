"""A pass: queries and keys that are turned in pairs of channels become views of one operation.

Networks write rotary embedding in about ten operations, each for q and for k: slices, a negation,
a stack, two products with constants, a sum, and the class token put in front again. All of them are
linear in one value, the product that q and k are cut from, so that each element is a sum of a few
elements of it times constants. Where these are two of one position, one operation on the whole
value does the same, and attention reads q, k and v from that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sign_ext.compiler.ir.attention import Attention
from sign_ext.compiler.ir.broadcast import Broadcast
from sign_ext.compiler.ir.op import Op, Shape, count
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.rearrange import Rearrange
from sign_ext.compiler.ir.rotate import Rotate
from sign_ext.compiler.ir.shaping import Concat
from sign_ext.compiler.ir.view import View

Ops = list[Op]
LINEAR = (Broadcast, Concat, Pointwise, Rearrange)
MOST_TERMS = 2
MOST_OPERATIONS = 16  # one after the other


@dataclass(frozen=True)
class Term:
    """Elements of a value times constants, in some order.

    Attributes:
        places: int64, where each element lies in one image's memory of the source.
        factors: float64, of the same shape.
    """

    places: Tensor
    factors: Tensor


@dataclass(frozen=True)
class Sum:
    """Each element of a value as a sum over another's.

    Attributes:
        source: the other value's number.
        shape: its stored shape.
        terms: in the order of the value's memory, or of a view of it.
    """

    source: int
    shape: Shape
    terms: tuple[Term, ...]

    def at(self, places: Tensor) -> Sum:
        """Some elements, in the order and shape of an index."""
        terms = (Term(each.places[places], each.factors[places]) for each in self.terms)
        return replace(self, terms=tuple(terms))

    def times(self, factors: Tensor) -> Sum:
        """All terms times constants."""
        terms = (Term(each.places, each.factors * factors.double()) for each in self.terms)
        return replace(self, terms=tuple(terms))


def fuse_rotations(ops: Ops, output: int) -> Ops | None:
    """Turn what attention reads where it is cut from, in one operation; None where there is none.

    Args:
        ops: in an order in which they can be computed.
        output: the number of the program's value.
    """
    made_by = {op.output: op for op in ops}
    values = _Sums(made_by)
    free = max((output, *made_by), default=0)
    found: Ops = []
    changed = False
    for op in ops:
        if isinstance(op, Attention) and any(
            isinstance(made_by.get(number), LINEAR) for number in op.inputs
        ):
            reader = op
            sums = [
                values.of(op.inputs[number], op.in_shapes[number]).at(_places(view))
                for number, view in zip(op.operands, op.views, strict=True)
            ]
            for source in dict.fromkeys(each.source for each in sums):
                made = _rotated(reader, sums, source, free + 1)
                if made is not None:
                    free += 1
                    changed = True
                    turned, reader = made
                    found.append(turned)
            op = reader
        found.append(op)
    return found if changed else None


def _places(view: View) -> Tensor:
    """Where the elements of a view lie, in its shape."""
    found = torch.full(view.shape, view.offset)
    for d, (size, stride) in enumerate(zip(view.shape, view.strides, strict=True)):
        found += (stride * torch.arange(size)).view(
            [-1 if e == d else 1 for e in range(found.dim())]
        )
    return found


class _Sums:
    """The values of a program as sums over others; each is looked at once.

    Args:
        made_by: the operations by their outputs.
    """

    def __init__(self, made_by: dict[int, Op]) -> None:
        """None yet."""
        self._made_by = made_by
        self._found: dict[int, Sum] = {}

    def of(self, number: int, shape: Shape, depth: int = 0) -> Sum:
        """A value as a sum over the nearest before it that is not linear in another in this way.

        Args:
            number: of the value.
            shape: stored.
            depth: how many operations come after it.
        """
        if number not in self._found:
            op = self._made_by.get(number)
            found = None
            if isinstance(op, LINEAR) and op.activation.is_identity and depth < MOST_OPERATIONS:
                found = self._through(op, depth + 1) if len(shape) == 3 else None
            self._found[number] = _itself(number, shape) if found is None else found
        return self._found[number]

    def _through(self, op: Op, depth: int) -> Sum | None:
        """The value of an operation from those that it reads."""
        read = [self.of(*value, depth) for value in zip(op.inputs, op.in_shapes, strict=True)]
        first = read[0]
        if isinstance(op, Rearrange):
            return first.at(_places(op.view).flatten())
        if isinstance(op, Broadcast):
            if op.function != "mul" or op.constant is None:
                return None
            constant = op.constant.cpu().broadcast_to(op.out.shape)
            return _in_memory(first.at(_seen(op)).times(constant), op.out)
        if isinstance(op, Concat):
            return _concatenated(read, op) if len(op.shape) == 3 else None
        assert isinstance(op, Pointwise)
        if op.shift is not None or len(op.shape) != 3:
            return None
        if op.scale is not None:
            first = first.times(op.scale.cpu().repeat(count(op.shape[1:])))
        return _added(first, read[1]) if len(read) == 2 else first


def _itself(number: int, shape: Shape) -> Sum:
    places = torch.arange(count(shape))
    return Sum(number, shape, (Term(places, torch.ones(len(places), dtype=torch.float64)),))


def _seen(op: Broadcast) -> Tensor:
    """Where the elements of the operand lie, in the shape of the value."""
    return _places(op.views[0]).broadcast_to(op.out.shape)


def _in_memory(value: Sum, view: View) -> Sum:
    """The elements of a view of all memory in the order of that memory."""
    back = torch.empty(count(view.shape), dtype=torch.int64)
    back[_places(view).flatten()] = torch.arange(len(back))
    flat = (Term(each.places.flatten(), each.factors.flatten()) for each in value.terms)
    return replace(value, terms=tuple(flat)).at(back)


def _added(first: Sum, second: Sum) -> Sum | None:
    terms = first.terms + second.terms
    if first.source != second.source or len(terms) > MOST_TERMS:
        return None
    return replace(first, terms=terms)


def _concatenated(sums: list[Sum], op: Concat) -> Sum | None:
    """Along a dimension of (C, H, W), whose memory is in the order (H, W, C)."""
    if len({each.source for each in sums}) > 1:
        return None
    dim = {1: 2, 2: 0, 3: 1}[op.dim]
    terms = []
    for k in range(max(len(each.terms) for each in sums)):
        places, factors = [], []
        for each, (channels, height, width) in zip(sums, op.in_shapes, strict=True):
            # A part of fewer terms has others of no weight.
            term = each.terms[min(k, len(each.terms) - 1)]
            weight = term.factors if k < len(each.terms) else torch.zeros_like(term.factors)
            places.append(term.places.view(height, width, channels))
            factors.append(weight.view(height, width, channels))
        terms.append(Term(torch.cat(places, dim).flatten(), torch.cat(factors, dim).flatten()))
    return replace(sums[0], terms=tuple(terms))


def _rotated(
    op: Attention, sums: list[Sum], source: int, number: int
) -> tuple[Rotate, Attention] | None:
    """The operation that turns a source, and attention that reads its value; or None."""
    mine = [o for o, each in enumerate(sums) if each.source == source]
    if all(len(sums[o].terms) == 1 for o in mine):
        return None
    shape = sums[mine[0]].shape
    if len(shape) != 3:
        return None
    channels = shape[0]
    own = torch.ones(count(shape), dtype=torch.float64)
    other = torch.zeros_like(own)
    taken = torch.zeros(len(own), dtype=torch.int64)
    partners = torch.arange(channels)
    views = list(op.views)
    for o in mine:
        first, *rest = sums[o].terms
        view = _strided(first.places)
        if view is None:
            return None
        views[o] = view
        taken.index_add_(
            0, first.places.flatten(), torch.ones(first.places.numel(), dtype=torch.int64)
        )
        own[first.places] = first.factors
        for term in rest:
            weighed = term.factors != 0
            here, there = first.places[weighed], term.places[weighed]
            if bool((here // channels != there // channels).any()):
                return None
            partners[here % channels] = there % channels
            if bool((partners[here % channels] != there % channels).any()):
                return None
            other[here] = term.factors[weighed]
    # Each element is read once, and each channel is the partner of one.
    if int(taken.max()) > 1 or len(partners.unique()) < channels:
        return None
    _, height, width = shape
    turned = Rotate(
        inputs=(source,),
        output=number,
        in_shapes=(shape,),
        shape=shape,
        own=_stored(own, height, width),
        other=_stored(other, height, width),
        partners=tuple(partners.tolist()),
    )
    reads = [
        (number, shape) if o in mine else (op.inputs[i], op.in_shapes[i])
        for o, i in enumerate(op.operands)
    ]
    inputs = tuple(dict.fromkeys(value for value, _ in reads))
    shapes = dict(reads)
    after = replace(
        op,
        inputs=inputs,
        in_shapes=tuple(shapes[value] for value in inputs),
        operands=tuple(inputs.index(value) for value, _ in reads),
        views=tuple(views),
    )
    return turned, after


def _stored(memory: Tensor, height: int, width: int) -> Tensor:
    """(C, H, W) from the order of the memory."""
    return memory.view(height, width, -1).permute(2, 0, 1).contiguous()


def _strided(places: Tensor) -> View | None:
    """The view whose elements lie at some places, or None."""
    first = int(places.flatten()[0])
    strides = [
        int(places.select(d, 1).flatten()[0]) - first if size > 1 else 0
        for d, size in enumerate(places.shape)
    ]
    if min(strides) < 0:
        return None
    view = View(tuple(places.shape), tuple(strides), first)
    return view if bool((_places(view) == places).all()) else None
