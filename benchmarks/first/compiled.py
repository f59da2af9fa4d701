"""torch.compile with max-autotune, the best peer, against ours; it compiles for minutes."""

from __future__ import annotations

import sys

from common import NEEDS_GPU, begin
from whole_steps import STEPS, race, task_of

from sign_ext.benchmarking.contenders import CAPTURED

IMAGES = 1024
PEER = "torch.compile max-autotune"
OURS = {"basic_cnn": "sign_ext onchip", "mobilenet_v2": "sign_ext fused, tuned"}


def main() -> None:
    """Race on the network named on the command line."""
    device, facts = begin()
    network = sys.argv[1]
    if device.type != "cuda":
        facts.record("built", network=network, way=PEER, why=NEEDS_GPU)
        return
    race(task_of(network, IMAGES, STEPS, device), (PEER, OURS[network], CAPTURED), facts)


if __name__ == "__main__":
    main()
