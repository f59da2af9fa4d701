"""Passes over what moves positions, and over products of which only parts are read."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

from sign_ext.compiler.ir.gather import Gather
from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.shaping import Slice
from sign_ext.compiler.ir.view import View
from sign_ext.compiler.refs import Ref, grouped

Ops = list[Op]


def _uses(ops: Ops, output: int) -> Counter[int]:
    found: Counter[int] = Counter(number for op in ops for number in op.inputs)
    found[output] += 1
    return found


def merge_moves(ops: Ops, output: int) -> Ops | None:
    """Rolling and cutting into windows, one after the other, as one copy."""
    used = _uses(ops, output)
    made_by = {op.output: op for op in ops}
    for op in ops:
        op = made_by[op.output]
        while (places := op.places_moved) is not None:
            before = made_by.get(op.inputs[0])
            if before is None or used[before.output] > 1 or (first := before.places_moved) is None:
                break
            op = made_by[op.output] = Gather(
                inputs=before.inputs,
                in_shapes=before.in_shapes,
                output=op.output,
                shape=op.shape,
                places=tuple(first[place] for place in places),
            )
            del made_by[before.output]
    return None if len(made_by) == len(ops) else list(made_by.values())


def merge_copies(ops: Ops, output: int) -> Ops | None:
    """Let a copy of a copy read the first value directly."""
    made_by = {op.output: op for op in ops}
    changed = False
    for op in ops:
        op = made_by[op.output]
        while (second := op.copied_view) is not None:
            before = made_by.get(op.inputs[0])
            if before is None or (first := before.copied_view) is None:
                break
            view = _after(first, second)
            if view is None:
                break
            op = op.copying(view, inputs=before.inputs, in_shapes=before.in_shapes)
            made_by[op.output] = op
            changed = True
    return list(made_by.values()) if changed else None


def _after(first: View, second: View) -> View | None:
    """A view of a copy of a view, as a view of the first value; None where that has no strides."""
    if not second.covers(count(first.shape)):
        return None
    order = second.outermost_first()
    copied = Ref(1, first.shape, first)
    groups = grouped(copied, (2, *(second.shape[d] for d in order)), 2)
    if groups is None:
        return None
    of = dict(zip(order, groups[1:], strict=True))
    atoms = [atom for d in range(len(order)) for atom in of[d]]
    shape = tuple(atom.size for atom in atoms)
    return View(shape, tuple(atom.stride or 0 for atom in atoms), first.offset)


def affine_after_moves(ops: Ops, output: int) -> Ops | None:
    """Move a scale and shift after a rearrangement of positions, where a product absorbs it."""
    used = _uses(ops, output)
    made_by = {op.output: op for op in ops}
    reads: dict[int, list[Op]] = {}
    for op in ops:
        for number in op.inputs:
            reads.setdefault(number, []).append(op)
    changed = False
    for move in ops:
        affine = made_by.get(move.inputs[0]) if len(move.inputs) == 1 else None
        if affine is None or not affine.is_affine or used[affine.output] > 1:
            continue
        after = reads.get(move.output, [])
        if move.places_moved is None or move.output == output or not after:
            continue
        if not all(each.absorbs(shift=True) and each.inputs[0] == move.output for each in after):
            continue
        # The values change their numbers: the move's result is where the affine map's was.
        made_by[affine.output] = replace(
            move, inputs=affine.inputs, in_shapes=affine.in_shapes, output=affine.output
        )
        made_by[move.output] = replace(
            affine,
            inputs=(affine.output,),
            in_shapes=(move.shape,),
            output=move.output,
            shape=move.shape,
        )
        changed = True
    return list(made_by.values()) if changed else None


def split_products(ops: Ops, output: int) -> Ops | None:
    """Split a product whose readers take disjoint channels into one product for each reader."""
    readers: dict[int, list[Op]] = {}
    for op in ops:
        for number in dict.fromkeys(op.inputs):
            readers.setdefault(number, []).append(op)
    found: Ops = []
    parts: dict[int, Op] = {}  # by the outputs of the slices that they replace
    for op in ops:
        reading = readers.get(op.output, [])
        if op.output in parts:
            found.append(parts[op.output])
        elif op.output != output and _is_split(op, reading):
            for each in reading:
                start, stop = each.channels_sliced or (0, op.shape[0])
                parts[each.output] = op.with_channels(
                    start, stop, output=each.output, shape=each.shape
                )
        else:
            found.append(op)
    return found if parts else None


def _is_split(op: Op, reading: Ops) -> bool:
    """Whether a product is read through slices of channels alone, which do not overlap."""
    if not op.splits_channels or not reading:
        return False
    spans = []
    for each in reading:
        if (span := each.channels_sliced) is None:
            return False
        spans.append(span)
    spans.sort()
    return all(first[1] <= second[0] for first, second in pairwise(spans))


def channels_into_products(ops: Ops, output: int) -> Ops | None:
    """Drop a selection of channels whose readers can take them from all channels themselves."""
    made_by = {op.output: op for op in ops}
    readers: dict[int, list[Op]] = {}
    for op in ops:
        for number in op.inputs:
            readers.setdefault(number, []).append(op)
    changed = False
    for op in ops:
        index, reading = op.channels_taken, readers.get(op.output, [])
        if index is None or op.output == output or not reading:
            continue
        if not all(_reads_channels(made_by[each.output], op) for each in reading):
            continue
        for each in reading:
            reader = made_by[each.output]
            made_by[each.output] = reader.taking_channels(
                index,
                inputs=(op.inputs[0], *reader.inputs[1:]),
                in_shapes=(op.in_shapes[0], *reader.in_shapes[1:]),
            )
        changed = True
    return list(made_by.values()) if changed else None


def _reads_channels(reader: Op, op: Op) -> bool:
    """Whether an operation reads another once, as its first input, and may take its channels."""
    first = reader.inputs[0] == op.output and reader.inputs.count(op.output) == 1
    return first and reader.takes_channels and op.inputs[0] not in reader.inputs


def select_first(ops: Ops, output: int) -> Ops | None:
    """Select positions before what is computed at each of them: the class token, at the end."""
    used = _uses(ops, output)
    made_by = {op.output: op for op in ops}
    free = max(made_by, default=0)
    parts: dict[tuple[int, int, int], int] = {}  # of a value, from where to where
    todo = [op for op in ops if op.positions_selected is not None]
    changed = False
    while todo:
        op = todo.pop()
        span, source = op.positions_selected, made_by.get(op.inputs[0])
        if span is None or source is None or made_by.get(op.output) is not op:
            continue
        if used[source.output] > 1 or not _at_each_position(source):
            continue
        changed = True
        start, stop = span
        inputs = []
        for number, shape in zip(source.inputs, source.in_shapes, strict=True):
            if (number, start, stop) not in parts:
                free += 1
                part = Slice(
                    inputs=(number,),
                    in_shapes=(shape,),
                    output=free,
                    shape=(shape[0], 1, stop - start),
                    dim=3,
                    start=start,
                    stop=stop,
                )
                parts[number, start, stop] = free
                made_by[free] = part
                used[number] += 1
            used[number] -= 1
            used[parts[number, start, stop]] += 1
            inputs.append(parts[number, start, stop])
        shape = (source.shape[0], 1, stop - start)
        in_shapes = tuple((each[0], 1, stop - start) for each in source.in_shapes)
        # Perhaps it was the last reader but them: what they select of may be selected first too.
        todo += [made_by[number] for number in dict.fromkeys(inputs)]
        selected = replace(source, inputs=tuple(inputs), in_shapes=in_shapes, shape=shape)
        rest = op.after_selection(shape)
        if rest is None:
            del made_by[source.output]
            made_by[op.output] = replace(selected, output=op.output)
        else:
            made_by[source.output] = selected
            made_by[op.output] = rest
    return _in_order(list(made_by.values())) if changed else None


def _at_each_position(op: Op) -> bool:
    """Whether each position of the value depends on the same position of the inputs."""
    return op.at_each_position and all(each[1:] == op.shape[1:] for each in op.in_shapes)


def _in_order(ops: Ops) -> Ops:
    """Operations in an order in which they can be computed."""
    made_by = {op.output: op for op in ops}
    done: set[int] = set()
    found: Ops = []
    for op in ops:
        todo = [op]
        while todo:
            last = todo[-1]
            needs = [made_by[n] for n in last.inputs if n in made_by and n not in done]
            if needs and last.output not in done:
                todo += needs
                continue
            todo.pop()
            if last.output not in done:
                done.add(last.output)
                found.append(last)
    return found
