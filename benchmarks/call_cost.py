"""What a call costs beside its steps, and what compiling takes: processor time and memory.

    python benchmarks/call_cost.py                       # `make bench-calls`: resumes
    python benchmarks/call_cost.py --only resnet50
    python benchmarks/call_cost.py --markdown docs/performance.md    # fills the tables

Each line is one process on one thread. All times are processor time, so that other programs on the
machine add little. The exit status is 3 if something is left.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import network_list
import sweep
import torch
from family_list import varied
from json_lines import Row
from torch import Tensor, nn

from sign_ext import SignTransform, iterative_sign
from sign_ext.benchmarking import loops
from sign_ext.benchmarking.measure import memory_usage
from sign_ext.benchmarking.task import Task, step_size_for
from sign_ext.files import write_whole
from sign_ext.formatting import bytes_in_words, counted
from sign_ext.models import build_model

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import bench_table

FACTS = ("what", "network", "images", "pixels", "steps")
SCRIPTS = ("call_cost.py", "network_list.py", "family_list.py")
LIMITS = sweep.Limits(within=float("inf"), seconds=600.0, gigabytes=12.0)
STEPS = (1, 2, 4, 20)
ROUNDS, FIRSTS = 5, 3  # turns of the calls that are compared; calls on a fresh copy
TURN_SECONDS = 20.0  # after which no further round begins
MOST_STEPS_BESIDE = 4  # K up to which the table says what a call takes beside its steps
MOVE = 0.5  # rms change of the pixels (0–255) in the first step
FIRST, SECOND, KEPT, FROZEN = "first call", "second call", "kept SignTransform", "frozen loop"
WARM_UP = (5, 3, 8, 8)  # images that pay for what a process does once
CHAIN_CHANNELS = 8


def chain(layers: int) -> nn.Module:
    """Convolutions with ReLU, one after the other, then a classifier."""
    found: list[nn.Module] = []
    for place in range(layers):
        inputs = CHAIN_CHANNELS if place else 3
        found += [nn.Conv2d(inputs, CHAIN_CHANNELS, 3, padding=1), nn.ReLU()]
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHAIN_CHANNELS, 10)]
    return nn.Sequential(*found, *pool)


def _own(name: str, pixels: int) -> nn.Module:
    return build_model(name, image_shape=(3, pixels, pixels))


# Name → how to build it, and the pixels of an image.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilenet_v2": (lambda: _own("mobilenet_v2", 32), 32),
    "resnet18": (lambda: network_list.torchvision_network("resnet18"), 64),
    "resnet50": (lambda: network_list.torchvision_network("resnet50"), 64),
    "inception_resnet_v2": (lambda: _own("inception_resnet_v2", 96), 96),
    "nasnet_mobile": (lambda: _own("nasnet_mobile", 32), 32),
    "fastvit_t8": (lambda: network_list.timm_network("fastvit_t8"), 64),
    "densenet121": (lambda: network_list.torchvision_network("densenet121"), 64),
    "chain of 100": (lambda: chain(100), 16),
    "chain of 400": (lambda: chain(400), 16),
    "chain of 1600": (lambda: chain(1600), 16),
}
CALLS = {"mobilenet_v2": 128, "resnet18": 32}  # images of the calls that are timed
COMPILED = tuple(name for name in NETWORKS if name != "resnet18")


def build(name: str) -> nn.Module:
    """A network of `NETWORKS` in evaluation mode, with seeded weights."""
    torch.manual_seed(0)
    return varied(NETWORKS[name][0]()).eval()


def images_of(count: int, pixels: int) -> Tensor:
    """Noise (count, 3, pixels, pixels) in 0–255."""
    return 255 * torch.rand(count, 3, pixels, pixels, generator=torch.Generator().manual_seed(1))


def processor_seconds(work: Callable[[], Any]) -> float:
    """The processor time of a call."""
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(cell: Row) -> Row:
    """The numbers of one line; runs in a process of its own.

    Args:
        cell: "what" ("call" or "compile"), "network", "images", "pixels" and "steps".
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    model, images = build(cell["network"]), images_of(cell["images"], cell["pixels"])
    # What a process does once (imports, the libraries' own set-up) is no cost of a network.
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    iterative_sign(small, 255 * torch.rand(WARM_UP), 2)
    if cell["what"] == "call":
        return call_cost(model, images, cell["steps"])
    return compile_cost(model, images)


def call_cost(model: nn.Module, images: Tensor, steps: int) -> Row:
    """Processor seconds of a call: the function's first and later ones, the object's, a loop's.

    Args:
        model: In evaluation mode.
        images: (N, C, H, W), in 0–255.
        steps: K.

    Returns:
        "seconds": name → median; "second_over_kept", "first_over_kept", "kept_over_frozen"; and
        "steps_beside": what a later call of the function takes beyond the K steps of the object's
        longer calls, in steps.
    """
    step_size = step_size_for(model, images, MOVE)

    def function(network: nn.Module, k: int = steps) -> object:
        return iterative_sign(network, images, k, step_size=step_size)

    firsts = []
    for _ in range(FIRSTS):
        fresh = copy.deepcopy(model)  # nothing is kept for it
        firsts.append(processor_seconds(lambda network=fresh: function(network)))
        del fresh
        gc.collect()
    sign = SignTransform(model, steps, step_size=step_size)
    frozen = loops.frozen(Task(model, images, steps, step_size).phi(), steps, step_size)
    work: dict[str, Callable[[], object]] = {
        SECOND: lambda: function(model),
        KEPT: lambda: sign.transform(images),
        FROZEN: lambda: frozen(images),
        "more steps": lambda: sign.transform(images, steps=steps + 2),
    }
    for each in work.values():
        each()
    times: dict[str, list[float]] = {name: [] for name in work}
    for finished in range(ROUNDS):
        if finished and sum(map(sum, times.values())) > TURN_SECONDS:
            break
        for name, each in work.items():
            times[name].append(processor_seconds(each))
    medians = {name: statistics.median(found) for name, found in times.items()}
    longer = zip(times.pop("more steps"), times[KEPT], strict=True)
    step = statistics.median((more - kept) / 2 for more, kept in longer)
    seconds = {FIRST: statistics.median(firsts), **{name: medians[name] for name in times}}
    return {
        "seconds": seconds,
        "rounds": len(times[KEPT]),
        "step_seconds": step,
        "second_over_kept": _ratio(times[SECOND], times[KEPT]),
        "first_over_kept": seconds[FIRST] / seconds[KEPT],
        "frozen_over_second": _ratio(times[FROZEN], times[SECOND]),
        "steps_beside": seconds[SECOND] / step - steps if step > 0 else None,
        "backend": sign.explain(images).backend,
    }


def _ratio(a: Sequence[float], b: Sequence[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def compile_cost(model: nn.Module, images: Tensor) -> Row:
    """Processor seconds and bytes that compiling takes.

    Args:
        model: In evaluation mode.
        images: (N, C, H, W), in 0–255; few, so that buffers are small beside the weights.

    Returns:
        "finding_seconds": to find Φ and to check that samples do not interact, on a fresh copy;
        "compile_seconds": of the first call after that, with K = 1, beyond a later one's;
        "autograd_seconds": of one step by autograd, to compare; "layers": operations of the
        program; "weights_bytes" of the network; "held_bytes": what a first call leaves allocated.
    """
    seconds: list[float] = []
    finding: list[float] = []
    for _ in range(FIRSTS):
        fresh = copy.deepcopy(model)
        sign = SignTransform(fresh, 1)
        finding.append(processor_seconds(lambda sign=sign: sign.source_layer(images)))
        first = processor_seconds(lambda sign=sign: sign.transform(images))
        seconds.append(first - processor_seconds(lambda sign=sign: sign.transform(images)))
        del fresh, sign
        gc.collect()
        if sum(seconds) > TURN_SECONDS:
            break
    frozen = loops.frozen(Task(model, images, 1, 1.0).phi(), 1, 1.0)
    frozen(images)
    autograd = min(processor_seconds(lambda: frozen(images)) for _ in range(FIRSTS))
    sign = SignTransform(model, 1)
    held = memory_usage(lambda: sign.transform(images), images.device).kept
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    explained = sign.explain(images)
    compiled = explained.backend == "fused"
    return {
        "finding_seconds": min(finding),
        "compile_seconds": min(seconds),
        "autograd_seconds": autograd,
        "layers": len(sign.program(images).ops) if compiled else None,
        "modules": sum(1 for _ in model.modules()),
        "weights_bytes": weights,
        "held_bytes": held,
        "backend": explained.backend,
    }


def cells(names: Sequence[str]) -> list[Row]:
    """What the options ask for: calls first, then compiling."""
    found = [
        {"what": "call", "network": name, "images": count, "pixels": NETWORKS[name][1], "steps": k}
        for name, count in CALLS.items()
        if name in names
        for k in STEPS
    ]
    return found + [
        {"what": "compile", "network": name, "images": 1, "pixels": NETWORKS[name][1], "steps": 1}
        for name in COMPILED
        if name in names
    ]


def describe(row: Row) -> str:
    """A line for people."""
    name = f"{row['what']:<8}{row['network']}"
    if row["what"] == "call":
        name += f", {counted(row['images'], 'image')}, K = {row['steps']}"
    if "failed" in row:
        return f"{name:<42} failed: {row['failed']}"
    if row["what"] == "call":
        times = ", ".join(f"{key} {value:.3g} s" for key, value in row["seconds"].items())
        return f"{name:<42} {times}; second over kept {row['second_over_kept']:.2f}"
    return (
        f"{name:<42} {row['compile_seconds']:.3g} s after finding Φ in "
        f"{row['finding_seconds']:.3g} s, {row['layers']} operations; holds "
        f"{bytes_in_words(row['held_bytes'])} beside {bytes_in_words(row['weights_bytes'])}"
    )


def markdown(rows: Sequence[Row]) -> str:
    """The newest lines as two tables.

    Args:
        rows: One a cell.
    """
    good = [row for row in rows if "failed" not in row]
    if not good:
        return "Not measured yet."
    lines = [f"{sweep.provenance(good)} One thread; processor time."]
    calls = [row for row in good if row["what"] == "call"]
    if calls:
        headings = (FIRST, SECOND, KEPT, FROZEN)
        lines += ["", "| network (images, pixels) | K | " + " | ".join(headings)]
        lines[-1] += " | second / kept | steps beside |"
        lines.append("|---|" + "---:|" * (len(headings) + 3))
    for row in calls:
        times = [f"{row['seconds'][name]:.3g} s" for name in headings]
        name = f"{row['network']} ({row['images']}, {row['pixels']})"
        # Of many steps, the noise of the steps is more than what a call takes beside them.
        beside = row["steps_beside"] if row["steps"] <= MOST_STEPS_BESIDE else None
        words = [name, str(row["steps"]), *times, f"{row['second_over_kept']:.2f}"]
        words.append("–" if beside is None else f"{beside:.2f}")
        lines.append("| " + " | ".join(words) + " |")
    compiled = [row for row in good if row["what"] == "compile"]
    if compiled:
        lines += [
            "",
            "| network (pixels) | operations | finding Φ | compiling | a step of autograd, ",
        ]
        lines[-1] += "one image | weights | held beside them |"
        lines.append("|---|" + "---:|" * 6)
    for row in compiled:
        words = [f"{row['network']} ({row['pixels']})", str(row["layers"] or "not compiled")]
        times = ("finding_seconds", "compile_seconds", "autograd_seconds")
        words += [f"{row[name]:.3g} s" for name in times]
        words += [bytes_in_words(row["weights_bytes"]), bytes_in_words(row["held_bytes"])]
        lines.append("| " + " | ".join(words) + " |")
    failed = [f"{row['network']} ({row['failed']})" for row in rows if "failed" in row]
    if failed:
        lines += ["", f"Not measured: {'; '.join(failed)}."]
    return "\n".join(lines)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sweep.add_options(parser, "calls.jsonl", LIMITS)
    add = parser.add_argument
    add("--markdown", type=Path, help="document whose section to fill; measures nothing")
    given = parser.parse_args(arguments)
    sweep.require_known(parser, given.only, NETWORKS)
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, list it, or fill the tables."""
    given = options(arguments)
    table = sweep.Sweep(given.out, FACTS, SCRIPTS)
    if given.markdown:
        old = given.markdown.read_text(encoding="utf-8")
        text = bench_table.fill(old, "calls.jsonl", markdown(table.newest()))
        write_whole(given.markdown, text)
        print(f"filled: {given.markdown}")
        return 0
    wanted = cells(given.only or list(NETWORKS))
    missing = wanted if given.again else table.missing(wanted)
    if given.list:
        for cell in missing:
            print(f"{cell['what']:<8}{cell['network']}, K = {cell['steps']}")
        print("" if missing else "nothing left", end="" if missing else "\n")
        return 0
    left = table.fill(missing, measure, describe, sweep.limits_of(given))
    state = f"{counted(left, 'line')} left, call again" if left else "nothing left"
    print(f"{state}: {len(wanted) - left} of {counted(len(wanted), 'line')} in {given.out.name}")
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
