"""MobileNetV2's 16 blocks as one operator: right, and timed against their three convolutions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from common import NEEDS_GPU, begin, known, share_of_floor, timed
from facts import Facts
from inverted_residual_checks import Case, errors_of, run_both
from inverted_residual_ways import NAMES, blocks, bytes_moved, input_of, steps
from torch import nn

from sign_ext.compiler.ir.inverted_residual import InvertedResidual
from sign_ext.engine.agreement import relative_distance
from sign_ext.engine.graphed import record_cuda_graph
from sign_ext.eval_state import computing
from sign_ext.ops.native import NATIVE

IMAGES, CHECKED = 1056, 67
PRECISIONS = ("bfloat16", "tf32")


def case_of(op: InvertedResidual, images: int) -> Case:
    """A case of the operators' tests with the sizes of a block; its weights are drawn there."""
    depthwise = op.depthwise
    behind = []
    for axis in range(2):
        size, out = depthwise.in_shapes[0][1 + axis], depthwise.shape[1 + axis]
        reach = (out - 1) * depthwise.stride[axis] + depthwise.weight.shape[2 + axis]
        behind.append(max(0, reach - size - depthwise.padding[axis]))
    return Case(
        (images, *op.in_shapes[0]),
        op.expand.shape[0],
        op.shape[0],
        kernel=tuple(depthwise.weight.shape[2:]),
        stride=depthwise.stride,
        padding=depthwise.padding,
        behind=tuple(behind),
        activations=(op.expand.activation, depthwise.activation, op.project.activation),
        residual=len(op.inputs) > 1,
    )


@contextlib.contextmanager
def failures_told(facts: Facts, what: dict[str, object]) -> Iterator[None]:
    """A block that fails costs itself alone, as far as the device goes on."""
    try:
        yield
    except RuntimeError as error:
        facts.tell("failed", **what, right=False, why=str(error).strip()[:300])
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # raises where the error took the context with it


def tell_errors(
    op: InvertedResidual, precision: str, facts: Facts, what: dict[str, object]
) -> None:
    """Both operators against float64, through their own bits."""
    case = case_of(op, CHECKED if op.expand.weight.is_cuda else 1)
    generator = torch.Generator().manual_seed(0)
    device = op.expand.weight.device.type
    with on_emulation(device):
        run, _ = run_both(case, precision, generator, device)
    try:
        errors = errors_of(case, run, precision)
    except AssertionError as error:
        facts.tell("error", **what, right=False, why=f"not finite: {error}"[:200])
        return
    told = {"checked": case.shape[0], **vars(errors), "right": errors.within(precision)}
    facts.tell("error", **what, **told)


def on_emulation(device: str) -> contextlib.AbstractContextManager[object]:
    """Where there is no GPU, the kernel's text on the host."""
    if device == "cuda":
        return contextlib.nullcontext()
    from emulated_blocks import Device, emulated_blocks

    return emulated_blocks(Device(0))


def tell_times(
    op: InvertedResidual, images: int, precision: str, facts: Facts, what: dict[str, object]
) -> dict[str, float]:
    """A step forward and back, both ways, as graphs; the δ of both are compared, too."""
    x = input_of(op, images)
    device, moved = x.device, bytes_moved(op, images, precision)
    medians = {}
    with computing(nn.Identity(), precision), torch.no_grad():
        ways = steps(op, x, precision)
        if device.type != "cuda":
            ways["convolutions"]()
            facts.tell("step", **what, time=NEEDS_GPU)
            return {}
        apart = relative_distance(ways["block"](), ways["convolutions"]())
        for name in NAMES:
            timing = timed(record_cuda_graph(ways[name], device), device)
            medians[name] = timing.median
            told = timing.us() | share_of_floor(
                facts, timing, moved, 2 * op.flops() * images, precision
            )
            facts.tell("step", **what, images=images, way=name, **told)
    ratio = medians["convolutions"] / medians["block"]
    facts.tell("block over convolutions", **what, images=images, speed=ratio, apart=apart)
    return medians


def main() -> None:
    """Errors of all first, then times; the sums over the network at the end."""
    device, facts = begin()
    on_gpu = device.type == "cuda"
    found = blocks(32, device)
    chosen = list(enumerate(found)) if on_gpu else list(enumerate(found))[-3:-1]
    if known(facts, "copy", "bytes_per_s") is None:
        facts.tell("no ceilings", why="shares of the floor are left out")

    def what(index: int, op: InvertedResidual, precision: str) -> dict[str, object]:
        (c, h, w), stride = op.in_shapes[0], op.depthwise.stride[0]
        sizes = f"{h}x{w}, {c}-{op.expand.shape[0]}-{op.shape[0]}, stride {stride}"
        return {"block": index, "sizes": sizes, "dtype": precision}

    if not NATIVE.loaded:
        facts.tell("error", why=f"skipped: needs the extension ({NATIVE.why})"[:200])
    for index, op in chosen if NATIVE.loaded else ():
        for precision in PRECISIONS:
            with failures_told(facts, what(index, op, precision)):
                tell_errors(op, precision, facts, what(index, op, precision))
    for precision in PRECISIONS:
        for images in (IMAGES, 64) if on_gpu else (1,):
            sums = dict.fromkeys(NAMES, 0.0)
            for index, op in chosen:
                told = what(index, op, precision)
                with failures_told(facts, {**told, "images": images}):
                    for name, median in tell_times(op, images, precision, facts, told).items():
                        sums[name] += 1e6 * median
            if on_gpu:
                facts.tell("all blocks", dtype=precision, images=images, sum_of_medians_us=sums)


if __name__ == "__main__":
    main()
