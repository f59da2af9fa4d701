"""End to end: MobileNetV2's K = 10 steps in bfloat16, ours against what else one would write."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import contenders
import torch
from common import NEEDS_GPU, begin
from facts import Facts
from torch import Tensor

from sign_ext.benchmarking.contenders import CAPTURED, FROZEN
from sign_ext.benchmarking.measure import Turns, mirrored, on_each
from sign_ext.benchmarking.race import Reference
from sign_ext.benchmarking.table import first_line
from sign_ext.benchmarking.task import step_size_for
from sign_ext.models import build_model

STEPS, MOVE, ROUNDS = 10, 0.5, 5
BATCHES = (1024, 64)
WAYS = ("sign_ext fused", CAPTURED, FROZEN, f"sign_ext {contenders.TUNED}")


def task_of(network: str, images: int, steps: int, device: torch.device) -> contenders.Task:
    """A network with weights as they are drawn, and noise.

    Args:
        network: its name in `sign_ext.models`.
        images: how many, of 3×32×32.
        steps: K.
        device: where.
    """
    torch.manual_seed(0)
    model = build_model(network, image_shape=(3, 32, 32)).to(device).eval()
    batch = 255 * torch.rand(images, 3, 32, 32, device=device)
    return contenders.Task(
        network=network,
        model=model,
        images=batch,
        steps=steps,
        step_size=step_size_for(model, batch, MOVE),
        precision="bfloat16",
        all_peers=True,
    )


def build(task: contenders.Task, way: str) -> Callable[[Tensor], Tensor]:
    """A contender, from images to p*_K."""
    if way.startswith("sign_ext "):
        return contenders.own(task, way.removeprefix("sign_ext "))
    return contenders.by_torch(task)[way]()


def race(task: contenders.Task, ways: Sequence[str], facts: Facts) -> None:
    """Each is built, run and compared by itself; then all take turns, a fact a round.

    Args:
        task: the work.
        ways: who takes part.
        facts: where to.
    """
    what: dict[str, object] = {"network": task.network, "shape": "3x32x32", "dtype": task.precision}
    what |= {"images": len(task.images), "steps": task.steps}
    reference, runs = Reference(task), {}
    facts.tell("reference", **what, dtype_of_it=reference.dtype, naive_error=reference.rounding)
    inputs = mirrored(task.images)
    device = task.images.device
    for way in ways:
        # Only ours is at stake: a peer that fails says nothing on this package.
        stake = ("right",) if way.startswith("sign_ext ") else ()
        if device.type != "cuda" and (way == CAPTURED or way.endswith(contenders.TUNED)):
            facts.tell("built", **what, way=way, why=NEEDS_GPU)
            continue
        try:
            run = build(task, way)
            error = reference.error(run(task.images))
        except Exception as problem:  # whatever it is, it is this contender's
            told = dict.fromkeys(stake, False)
            facts.tell("built", **what, way=way, why=first_line(problem), **told)
            continue
        told = dict.fromkeys(stake, error <= reference.allowed)
        facts.tell("built", **what, way=way, error=error, **told)
        runs[way] = on_each(run, inputs)
        alone = Turns({way: runs[way]}, device)
        alone.round()
        facts.tell("one call", **what, way=way, seconds=alone.medians()[way])
    turns = Turns(runs, device)
    for finished in range(1, ROUNDS + 1) if device.type == "cuda" else ():
        turns.round()
        work = len(task.images) * task.steps
        medians = {way: 1e6 * median / work for way, median in turns.medians().items()}
        facts.tell("in turns", **what, rounds=finished, median_us_an_image_and_step=medians)


def main() -> None:
    """The large batch, then the small one."""
    device, facts = begin()
    for images in BATCHES if device.type == "cuda" else (2,):
        steps = STEPS if device.type == "cuda" else 1
        race(task_of("mobilenet_v2", images, steps, device), WAYS, facts)


if __name__ == "__main__":
    main()
