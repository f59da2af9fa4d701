"""End to end: K = 10 steps of MobileNetV2 in bfloat16, ours against the best alternatives."""

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
CONTENDERS = ("sign_ext fused", CAPTURED, FROZEN, f"sign_ext {contenders.TUNED}")


def task_of(network: str, images: int, steps: int, device: torch.device) -> contenders.Task:
    """A task with a randomly initialized network and random images.

    Args:
        network: Its name in `sign_ext.models`.
        images: Number of 3×32×32 images.
        steps: K.
        device: Device of network and images.
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


def build(task: contenders.Task, name: str) -> Callable[[Tensor], Tensor]:
    """Build a contender: a function from images to p*_K."""
    if name.startswith("sign_ext "):
        return contenders.build_ours(task, name.removeprefix("sign_ext "))
    return contenders.torch_peers(task)[name]()


def race(task: contenders.Task, names: Sequence[str], facts: Facts) -> None:
    """Build, run and check each contender alone; then let all take turns, one fact per round.

    Args:
        task: The work.
        names: The contenders.
        facts: Where to record.
    """
    labels: dict[str, object] = {
        "network": task.network,
        "shape": "3x32x32",
        "dtype": task.precision,
    }
    labels |= {"images": len(task.images), "steps": task.steps}
    reference, runs = Reference(task), {}
    facts.record("reference", **labels, dtype_of_it=reference.dtype, naive_error=reference.rounding)
    inputs = mirrored(task.images)
    device = task.images.device
    for name in names:
        # Only our results count as right or wrong: a failing peer says nothing about this package.
        checked = ("right",) if name.startswith("sign_ext ") else ()
        if device.type != "cuda" and (name == CAPTURED or name.endswith(contenders.TUNED)):
            facts.record("built", **labels, way=name, why=NEEDS_GPU)
            continue
        try:
            run = build(task, name)
            error = reference.error(run(task.images))
        except Exception as problem:  # any failure concerns this contender only
            verdict = dict.fromkeys(checked, False)
            facts.record("built", **labels, way=name, why=first_line(problem), **verdict)
            continue
        verdict = dict.fromkeys(checked, error <= reference.allowed)
        facts.record("built", **labels, way=name, error=error, **verdict)
        runs[name] = on_each(run, inputs)
        alone = Turns({name: runs[name]}, device)
        alone.round()
        facts.record("one call", **labels, way=name, seconds=alone.medians()[name])
    turns = Turns(runs, device)
    for finished in range(1, ROUNDS + 1) if device.type == "cuda" else ():
        turns.round()
        work = len(task.images) * task.steps
        medians = {name: 1e6 * median / work for name, median in turns.medians().items()}
        facts.record("in turns", **labels, rounds=finished, median_us_an_image_and_step=medians)


def main() -> None:
    """Race with the large batch, then with the small one."""
    device, facts = begin()
    for images in BATCHES if device.type == "cuda" else (2,):
        steps = STEPS if device.type == "cuda" else 1
        race(task_of("mobilenet_v2", images, steps, device), CONTENDERS, facts)


if __name__ == "__main__":
    main()
