"""The machine's ceilings: a copy, matrix products in three precisions, launch latency."""

from __future__ import annotations

import roofline
import torch
from common import begin, timed

from sign_ext.engine.graphed import record_cuda_graph

LAUNCHES = 200


def main() -> None:
    """Measure each ceiling and record it at once."""
    device, facts = begin()
    on_gpu = device.type == "cuda"
    if on_gpu:
        chip = torch.cuda.get_device_properties(device)
        facts.record(
            "device",
            gpu=chip.name,
            multiprocessors=chip.multi_processor_count,
            l2_bytes=getattr(chip, "L2_cache_size", None),
            shared_bytes_of_a_block=chip.shared_memory_per_block_optin,
        )
    size = 2**30 if on_gpu else 2**22
    rate = roofline.copy_rate(device, size, seconds=0.5 if on_gpu else 0.01)
    facts.record("copy", bytes_per_s=rate, bytes_read_and_as_many_written=size)
    for precision in ("bfloat16", "tf32", "float32") if on_gpu else ("float32",):
        rate = roofline.matmul_rate(precision, device, seconds=0.3 if on_gpu else 0.01)
        facts.record(f"product {precision}", flop_per_s=rate, shapes=roofline.SHAPES[device.type])
    small = torch.rand(64, device=device)

    def launches() -> None:
        for _ in range(LAUNCHES):
            small.add_(1)

    facts.record("launch", **timed(launches, device).us(LAUNCHES), what="add_ of 64 values")
    if on_gpu:
        replay = record_cuda_graph(launches, device)
        facts.record("launch in a graph", **timed(replay, device).us(LAUNCHES))


if __name__ == "__main__":
    main()
