"""Time the onchip backend with 128, 256 and 512 threads at 1,056 = 8 · 132 images."""

from __future__ import annotations

import subprocess

import torch
from common import NEEDS_GPU, begin, timed
from onchip_setup import OnChipSetup

from sign_ext.engine.onchip.cost import work_of
from sign_ext.errors import BackendError

IMAGES, STEPS, SIZE = 1056, 20, 32
THREADS = (256, 128, 512)
STEP_SIZE = 1e-3  # so small that thousands of steps hardly change the images


def clock_rate() -> float | None:
    """The multiprocessors' highest clock, Hz."""
    ask = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    try:
        command_output = subprocess.run(
            ask, capture_output=True, text=True, timeout=20, check=True
        ).stdout
        return float(command_output.split()[0]) * 1e6
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def main() -> None:
    """Time each block size, and the fused backend."""
    device, facts = begin()
    on_gpu = device.type == "cuda"
    images, steps, size = (IMAGES, STEPS, SIZE) if on_gpu else (1, 1, 8)
    rate, shape = clock_rate() if on_gpu else None, f"{images}x3x{size}x{size}"
    for name in ("basic_cnn", "resnet20"):
        setup = OnChipSetup(name, images, size, device, STEP_SIZE)
        labels = {"network": name, "shape": shape, "dtype": "bfloat16", "steps": steps}
        fused = setup.sign.engines.fused.start(setup.problem, setup.images)
        for threads in THREADS:
            try:
                trajectory = setup.on_chip(threads)
            except (BackendError, ValueError) as error:
                facts.record("not on chip", **labels, threads=threads, why=str(error)[:200])
                continue
            work = work_of(trajectory.network)
            if not on_gpu:
                trajectory.advance(1)
                facts.record("step on chip", **labels, threads=threads, time=NEEDS_GPU)
                continue
            trajectory.record(setup.sign.engines.onchip._record)
            timing = timed(lambda each=trajectory: each.advance(steps), device, turns=5)
            numbers = timing.us(images * steps) | {"clocks_of_floor": work.clocks}
            if rate:
                processors = torch.cuda.get_device_properties(device).multi_processor_count
                floor = work.clocks * images * steps / processors / rate
                numbers["share_of_floor"] = floor / timing.median
            facts.record("step on chip", **labels, threads=threads, per="image and step", **numbers)
        timing = timed(lambda each=fused: each.advance(steps), device, turns=5)
        facts.record("step fused", **labels, per="image and step", **timing.us(images * steps))


if __name__ == "__main__":
    main()
