"""Draw docs/images/onchip.png: the placement of BasicCNN's arrays in shared memory by phase.

Run `python tools/onchip_picture.py`; needs sign_ext and matplotlib.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from sign_ext import SignTransform
from sign_ext.engine.onchip.network import OnChipNetwork, put_on_chip
from sign_ext.engine.onchip.plan import OnChipPlan, SharedMemory
from sign_ext.engine.onchip.shared_memory import Array, phases_of
from sign_ext.models import build_model

H200 = SharedMemory(232_448, 233_472)
KINDS = {
    "weights": ("weights", "weights", "#bbbbbb"),
    "value": ("values", "value", "#4477aa"),
    "g": ("cotangents", "cotangent", "#ee6677"),
    "residues": ("residue bits", "residue bits", "#228833"),
    "p": ("the image p, float32", "p", "#ccbb44"),
    "x": ("the image, bfloat16", "p in bfloat16", "#66ccee"),
}


def kind_of(array: Array) -> str | None:
    """The kind of an array in the picture; None for the 16 bytes of zeros, which are not drawn."""
    name = array.name[0]
    if name.endswith("weights"):
        return "weights"
    return name if name in KINDS else None


def draw_plan(axes: Any, plan: OnChipPlan, layers: int, title: str) -> None:
    """Draw one launch: phases on the x axis, addresses on the y axis."""
    from matplotlib.patches import Rectangle

    phases = phases_of(layers, plan.mode)
    columns = ["load", *(f"layer {i + 1}" for i, _ in phases), "store"]
    for array in plan.arrays:
        kind = kind_of(array)
        if kind is None:
            continue
        at, height = plan.at[array.name] / 1e3, array.bytes / 1e3
        # Phase -1 is the load; the store follows the last phase.
        places = sorted(len(phases) + 1 if t > len(phases) else t + 1 for t in array.alive)
        runs: list[list[int]] = []
        for place in places:
            if runs and place == runs[-1][1]:
                runs[-1][1] = place + 1
            else:
                runs.append([place, place + 1])
        for begin, end in runs:
            axes.add_patch(
                Rectangle((begin, at), end - begin, height, fc=KINDS[kind][2], ec="white", lw=1.2)
            )
            layer = "" if array.name[1] < 0 else f" {array.name[1] + 1}"
            if height > 9:
                text = f"{KINDS[kind][1]}{layer}"
                axes.text(
                    (begin + end) / 2, at + height / 2, text, ha="center", va="center", size=7
                )
    axes.set_xlim(0, len(columns))
    axes.set_ylim(0, H200.block / 1e3)
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, size=8)
    axes.set_ylabel("shared memory, kB")
    axes.set_title(title, size=10, loc="left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw(network: OnChipNetwork, path: Path) -> None:
    """Draw the picture to `path`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    figure, axes = plt.subplots(1, 2, figsize=(11, 5.2), sharey=True)
    titles = ("forward launch", "backward launch, with the update")
    for panel, launch, title in zip(axes, network.launches, titles, strict=True):
        draw_plan(panel, launch.plan, len(network.layers), title)
    axes[1].set_ylabel("")
    figure.legend(
        handles=[Patch(color=color, label=name) for name, _, color in KINDS.values()],
        loc="lower center", ncols=len(KINDS), frameon=False, fontsize=8,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=150, metadata={"Software": None})


def main() -> None:
    """Parse the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().parent.parent / "docs" / "images" / "onchip.png"
    parser.add_argument("--out", type=Path, default=default, help="output file")
    options = parser.parse_args()
    model = build_model("basic_cnn", image_shape=(3, 32, 32)).eval()
    program = SignTransform(model, 1).program(torch.rand(1, 3, 32, 32))
    draw(put_on_chip(program, H200, torch.device("cpu")), options.out)


if __name__ == "__main__":
    main()
