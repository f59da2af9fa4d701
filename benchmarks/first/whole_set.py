"""End to end: BasicCNN, 50,000 images, K = 100, bfloat16, in batches of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import contenders
import torch
from common import NEEDS_GPU, begin
from facts import Facts
from onchip_setup import network_of
from torch import Tensor, nn

from sign_ext import BackendError, SignTransform
from sign_ext.benchmarking.task import step_size_for
from sign_ext.engine.onchip import engine
from sign_ext.engine.timing import clock

IMAGES, STEPS = 50_000, 100
BATCHES = (1056, 256, 4224)
MOVE = 0.5  # RMS change of the pixels (0–255) in the first step; sets the step size
BY_HAND = 1056  # the peer's batch size; only whole batches, as a graph has one shape


def record_time(
    run: Callable[[Tensor], object],
    images: Tensor,
    steps: int,
    facts: Facts,
    labels: dict[str, object],
) -> None:
    """Record the seconds of a call; every shape has run before."""
    seconds = clock(lambda: run(images), 1, images.device)
    each = 1e6 * seconds / len(images) / steps
    facts.record("whole set", **labels, seconds=seconds, us_an_image_and_step=each)


def record_ours(
    model: nn.Module, images: Tensor, steps: int, batch: int, backend: str, facts: Facts,
    labels: dict[str, object],
) -> None:  # fmt: skip
    """Time one of our backends; if its own check fails, record that and time it anyway."""
    labels = {**labels, "way": f"sign_ext {backend}", "batch": batch}

    def build() -> SignTransform:
        sign = SignTransform(
            model,
            steps,
            step_size=step_size_for(model, images[:32], MOVE),
            batch_size=batch,
            backend=backend,
            precision="bfloat16",
        )
        # Run a whole batch and the last, smaller one.
        sign.transform(images[: batch + len(images) % batch])
        return sign

    try:
        sign = build()
    except BackendError as error:
        facts.record("refused", **labels, why=str(error)[:300], right=False)
        with mock.patch.object(engine, "check_step"):
            sign = build()
        labels["checked"] = False
    record_time(sign.transform, images, steps, facts, labels)


def record_by_hand(
    model: nn.Module, images: Tensor, steps: int, facts: Facts, labels: dict[str, object]
) -> None:
    """Time a manually captured CUDA graph of a step, on as many whole batches as there are."""
    batches = images[: len(images) // BY_HAND * BY_HAND].split(BY_HAND)
    task = contenders.Task(
        network="basic_cnn",
        model=model,
        images=batches[0],
        steps=steps,
        step_size=step_size_for(model, images[:32], MOVE),
        precision="bfloat16",
    )
    run = contenders.torch_peers(task)["CUDA graph by hand"]()
    run(batches[0])
    whole = images[: len(batches) * BY_HAND]
    labels = {**labels, "images": len(whole), "way": "CUDA graph by hand", "batch": BY_HAND}
    record_time(lambda p: [run(batch) for batch in batches], whole, steps, facts, labels)


def main() -> None:
    """Time both backends at the medium batch size, then the peer, then the other batch sizes."""
    device, facts = begin()
    on_gpu = device.type == "cuda"
    count, steps, batches = (IMAGES, STEPS, BATCHES) if on_gpu else (5, 2, (2,))
    model = network_of("basic_cnn", 32).to(device)
    images = 255 * torch.rand(count, 3, 32, 32, device=device)
    labels: dict[str, object] = {"network": "basic_cnn", "shape": "3x32x32", "dtype": "bfloat16"}
    labels |= {"images": count, "steps": steps}
    for number, batch in enumerate(batches):
        for backend in ("onchip", "fused"):
            if backend == "onchip" and not on_gpu:
                facts.record("whole set", **labels, way=f"sign_ext {backend}", why=NEEDS_GPU)
                continue
            try:
                record_ours(model, images, steps, batch, backend, facts, labels)
            except BackendError as error:
                facts.record("no time", **labels, way=backend, batch=batch, why=str(error)[:300])
        if number == 0 and on_gpu:
            record_by_hand(model, images, steps, facts, labels)


if __name__ == "__main__":
    main()
