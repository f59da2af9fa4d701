"""Check MobileNetV2's 16 blocks as single operators, and time them against three convolutions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from common import NEEDS_GPU, begin, earlier_value, share_of_floor, timed
from facts import Facts
from inverted_residual_checks import Case, errors_of, run_both
from inverted_residual_variants import NAMES, blocks, bytes_moved, input_of, steps
from torch import nn

from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.engine.agreement import relative_distance
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.eval_state import computing
from sign_ext.ops.native import NATIVE

IMAGES, CHECKED = 1056, 67
PRECISIONS = ("bfloat16", "tf32")


def case_of(op: InvertedResidual, images: int) -> Case:
    """A case of the operators' tests with the sizes of a block and random weights."""
    depthwise = op.depthwise
    padding_end = []
    for axis in range(2):
        size, out = depthwise.in_shapes[0][1 + axis], depthwise.shape[1 + axis]
        reach = (out - 1) * depthwise.stride[axis] + depthwise.weight.shape[2 + axis]
        padding_end.append(max(0, reach - size - depthwise.padding[axis]))
    return Case(
        (images, *op.in_shapes[0]),
        op.expand.shape[0],
        op.shape[0],
        kernel=tuple(depthwise.weight.shape[2:]),
        stride=depthwise.stride,
        padding=depthwise.padding,
        padding_end=tuple(padding_end),
        activations=(op.expand.activation, depthwise.activation, op.project.activation),
        residual=len(op.inputs) > 1,
    )


@contextlib.contextmanager
def failures_recorded(facts: Facts, labels: dict[str, object]) -> Iterator[None]:
    """Record a failure of a block and continue with the next, if the device still works."""
    try:
        yield
    except RuntimeError as error:
        facts.record("failed", **labels, right=False, why=str(error).strip()[:300])
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # raises if the error has destroyed the context


def record_errors(
    op: InvertedResidual, precision: str, facts: Facts, labels: dict[str, object]
) -> None:
    """Compare both directions with float64, through the operator's own residue bits."""
    case = case_of(op, CHECKED if op.expand.weight.is_cuda else 1)
    generator = torch.Generator().manual_seed(0)
    device = op.expand.weight.device.type
    with emulated_unless_on_gpu(device):
        run, _ = run_both(case, precision, generator, device)
    try:
        errors = errors_of(case, run, precision)
    except AssertionError as error:
        facts.record("error", **labels, right=False, why=f"not finite: {error}"[:200])
        return
    numbers = {"checked": case.shape[0], **vars(errors), "right": errors.within(precision)}
    facts.record("error", **labels, **numbers)


def emulated_unless_on_gpu(device: str) -> contextlib.AbstractContextManager[object]:
    """A context that, without a GPU, runs the kernel's source on the host."""
    if device == "cuda":
        return contextlib.nullcontext()
    from emulated_blocks import Device, emulated_blocks

    return emulated_blocks(Device(0))


def record_times(
    op: InvertedResidual, images: int, precision: str, facts: Facts, labels: dict[str, object]
) -> dict[str, float]:
    """Time forward and backward of both variants as CUDA graphs, and compare their δ."""
    x = input_of(op, images)
    device, moved = x.device, bytes_moved(op, images, precision)
    medians = {}
    with computing(nn.Identity(), precision), torch.no_grad():
        runs = steps(op, x, precision)
        if device.type != "cuda":
            runs["convolutions"]()
            facts.record("step", **labels, time=NEEDS_GPU)
            return {}
        apart = relative_distance(runs["block"](), runs["convolutions"]())
        for name in NAMES:
            timing = timed(record_cuda_graph(runs[name], device), device)
            medians[name] = timing.median
            numbers = timing.us() | share_of_floor(
                facts, timing, moved, 2 * op.flops() * images, precision
            )
            facts.record("step", **labels, images=images, way=name, **numbers)
    ratio = medians["convolutions"] / medians["block"]
    facts.record("block over convolutions", **labels, images=images, speed=ratio, apart=apart)
    return medians


def main() -> None:
    """Record the errors of all blocks, then times, then sums over the network."""
    device, facts = begin()
    on_gpu = device.type == "cuda"
    found = blocks(32, device)
    chosen = list(enumerate(found)) if on_gpu else list(enumerate(found))[-3:-1]
    if earlier_value(facts, "copy", "bytes_per_s") is None:
        facts.record("no ceilings", why="shares of the floor are not computed")

    def labels_of(index: int, op: InvertedResidual, precision: str) -> dict[str, object]:
        (c, h, w), stride = op.in_shapes[0], op.depthwise.stride[0]
        sizes = f"{h}x{w}, {c}-{op.expand.shape[0]}-{op.shape[0]}, stride {stride}"
        return {"block": index, "sizes": sizes, "dtype": precision}

    if not NATIVE.loaded:
        facts.record("error", why=f"skipped: needs the extension ({NATIVE.why})"[:200])
    for index, op in chosen if NATIVE.loaded else ():
        for precision in PRECISIONS:
            with failures_recorded(facts, labels_of(index, op, precision)):
                record_errors(op, precision, facts, labels_of(index, op, precision))
    for precision in PRECISIONS:
        for images in (IMAGES, 64) if on_gpu else (1,):
            sums = dict.fromkeys(NAMES, 0.0)
            for index, op in chosen:
                labels = labels_of(index, op, precision)
                with failures_recorded(facts, {**labels, "images": images}):
                    for name, median in record_times(op, images, precision, facts, labels).items():
                        sums[name] += 1e6 * median
            if on_gpu:
                facts.record("all blocks", dtype=precision, images=images, sum_of_medians_us=sums)


if __name__ == "__main__":
    main()
