"""Draw docs/images/engine_step.png: the tensors alive at each instruction of a BasicCNN step.

Run `python tools/engine_picture.py`; needs sign_ext and matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from sign_ext import SignTransform
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.schedule import Instruction, Schedule
from sign_ext.models import build_model

KINDS = {
    "value": ("activations", "#4477aa"),
    "cotangent": ("cotangents", "#ee6677"),
    "bit mask": ("bit masks", "#228833"),
    "pool index": ("pool indices", "#ccbb44"),
}


def alive_bytes(schedule: Schedule) -> list[dict[str, float]]:
    """Kilobytes alive at each instruction, by kind of tensor."""
    now = dict.fromkeys(KINDS, 0.0)
    found = []
    first_of_stem = len(schedule.instructions) - schedule.stem
    for t, instruction in enumerate(schedule.instructions):
        for slot in instruction.slots_written():
            if t < first_of_stem or schedule.slots[slot].kind != "cotangent":
                now[schedule.slots[slot].kind] += schedule.slots[slot].bytes / 1e3
        found.append(dict(now))
        for slot in instruction.frees:
            kind = schedule.slots[slot].kind
            if kind in now:
                now[kind] -= schedule.slots[slot].bytes / 1e3
    return found


def label(program: Program, instruction: Instruction, is_last: bool) -> str:
    """The label of an instruction in the picture."""
    if instruction.kind == "seed":
        return "cotangent of ones"
    op = program.ops[instruction.op]
    if instruction.kind == "mask":
        return f"bits of %{instruction.op + 1}"
    if is_last:
        return "convolution backward\n+ update of the image"
    name = str(op).replace("convolution", "conv").replace(" + ", "\n+ ")
    return name if instruction.kind == "forward" else f"{op.kind.replace('_', ' ')}\nbackward"


def draw(path: Path) -> None:
    """Draw the picture to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    torch.manual_seed(0)
    step = SignTransform(build_model("basic_cnn").eval()).step(torch.rand(1, 3, 32, 32))
    first_of_stem = len(step.schedule.instructions) - step.schedule.stem
    instructions = step.schedule.instructions[: first_of_stem + 1]
    alive = alive_bytes(step.schedule)[: first_of_stem + 1]
    figure, axes = pyplot.subplots(figsize=(11, 5.2), layout="constrained")
    bottom = [0.0] * len(alive)
    for kind, (name, colour) in KINDS.items():
        heights = [kilobytes[kind] for kilobytes in alive]
        axes.bar(range(len(alive)), heights, bottom=bottom, color=colour, label=name, width=0.92)
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    for t, (kilobytes, top) in enumerate(zip(alive, bottom, strict=True)):
        bits = kilobytes["bit mask"] + kilobytes["pool index"]
        axes.text(t, top + 3, f"{top:.0f} kB\nbits {bits:.1f}", ha="center", fontsize=7)
    last = len(instructions) - 1
    names = [label(step.program, one, t == last) for t, one in enumerate(instructions)]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    forward = sum(one.kind in ("forward", "cast") for one in instructions)
    axes.axvline(forward - 0.5, color="black", linewidth=0.8, linestyle=":")
    axes.text(forward - 0.6, max(bottom) * 1.12, "forward", ha="right", fontsize=9)
    axes.text(forward - 0.4, max(bottom) * 1.12, "backward", ha="left", fontsize=9)
    axes.set_ylim(0, max(bottom) * 1.22)
    axes.set_ylabel("kB of one image alive")
    axes.set_title("One step of BasicCNN on a 3×32×32 image, float32", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parent.parent / "docs/images/engine_step.png"
    parser.add_argument("--out", type=Path, default=default)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
