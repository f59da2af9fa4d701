"""Steps with every kind of operation in a captured graph: whether they are eager's, and stay so.

Islands are run and differentiated by autograd inside the capture. Its backward pass has a thread
of its own, on the stream of the forward pass: the capture stream. What a first run has to show:

1. `ran`: each example can be captured. "why" holds the first line of the error where it cannot.
2. `replay`: the recorded walk is eager's, bit by bit but where PyTorch adds up in another order,
   for the images it was recorded with and for others, and both are float64's.
3. `memory`: capturing, dropping and capturing again takes no more memory each time.
4. `attack`: steps of PGD, whose backward pass begins with the labels' cross-entropy, replayed for
   other images and other labels, are eager's but for signs of gradients next to zero.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping

import torch
from common import NEEDS_GPU, begin, seconds_left
from facts import Facts
from op_examples import EXAMPLES, example
from test_ops_gpu import VARIES, walks

from sign_ext import SignTransform, pgd

# Islands and views first, then the rest.
FIRST = ("linear_attention", "attention", "multihead", "windows", "split_attention", "bilinear")
AGAIN = 5  # captures of one network
ATTACKED = ("linear_attention", "attention", "block")
SAME = 0.98  # of the pixels of an attack; elsewhere rounding decides the sign of a gradient


def main() -> None:
    """Record facts about each example, then about the memory of one that is captured again."""
    device, facts = begin()
    started, on_gpu = time.monotonic(), device.type == "cuda"
    labels: dict[str, object] = {} if on_gpu else {"on": f"the CPU, without a graph; {NEEDS_GPU}"}
    names = [*FIRST, *(name for name in EXAMPLES if name not in FIRST)]
    for name in names if on_gpu else names[:2]:
        if time.monotonic() - started > 0.8 * seconds_left():
            facts.record("left out", **labels, network=name, why="no time was left")
            break
        try:
            found = walks(name, device.type, "float32")
        except Exception as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            facts.record("ran", **labels, network=name, right=False, why=first[:300])
            if on_gpu:
                torch.cuda.synchronize()  # raises if the error has destroyed the context
            continue
        most = max(1e-4, 5 * found["autograd"])
        apart = max(found["apart"], found["apart of others"])
        right = max(found["eager"], found["recorded"]) <= most
        right &= apart <= (most if name in VARIES else 0)
        facts.record("replay", **labels, network=name, **found, right=right)
    for name in ATTACKED:
        record_attack(name, device, facts, labels)
    if on_gpu:
        record_memory("linear_attention", facts)


def record_attack(
    name: str, device: torch.device, facts: Facts, labels: Mapping[str, object]
) -> None:
    """The share of pixels at which two recorded attacks in a row end where eager ones do."""
    model, images = example(name)
    model, images = model.to(device), images.to(device)
    options = {"epsilon": 0.3, "step_size": 0.1, "steps": 5, "clamp": None}
    same = []
    try:
        for given, classes in ((images, (0, 1, 2, 0, 1)), (images.flip(0) * 0.8, (2, 2, 1, 0, 0))):
            of = torch.tensor(classes, device=device)
            ends = [
                pgd(model, given, of, backend=backend, **options)
                for backend in ("fused", "autograd")
            ]
            same.append(float((ends[0] - ends[1]).abs().le(1e-3).double().mean()))
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        facts.record("attack", **labels, network=name, right=False, why=first[:300])
        return
    facts.record("attack", **labels, network=name, same=same, right=min(same) >= SAME)


def record_memory(name: str, facts: Facts) -> None:
    """Bytes that are allocated after each of some captures of a network that is dropped."""
    model, images = example(name)
    model, images = model.cuda(), images.cuda()
    taken = []
    for _ in range(AGAIN):
        sign = SignTransform(model, 2, backend="fused", step_size=0.01)
        sign.transform(images)
        sign.reset()
        del sign
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_allocated())
    facts.record("memory", network=name, bytes=taken, right=taken[-1] <= taken[1])


if __name__ == "__main__":
    main()
