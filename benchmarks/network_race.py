"""Race ours against its peers on one network, in one process, taking turns.

Ratios are those of the turns: in each round the naive loop's time over a contender's, of which the
median and the quartiles are kept. The order changes from round to round.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import network_list
import peers
import roofline
import torch
from json_lines import Row
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.benchmarking import loops
from sign_ext.benchmarking.contenders import NAIVE
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.measure import mirrored, on_each, step_bytes
from sign_ext.benchmarking.race import Reference
from sign_ext.benchmarking.table import first_line
from sign_ext.benchmarking.task import Task, step_size_for
from sign_ext.engine.timing import clock
from sign_ext.explanation import Explanation

FROZEN = "frozen"
CHANNELS_LAST = "frozen, channels_last"
FOLDED = "BatchNorm folded, channels_last"
COMPILED = "torch.compile"
OURS = "sign_ext"
MOVE = 0.01  # rms change of the images, which are in 0–1, in the first step
ROUNDS, LEAST, RACE_SECONDS = 9, 3, 60.0  # turns of each, at least, and when no round begins


class NotHereError(Exception):
    """A contender that this network does not have."""


def measure(cell: Row) -> Row:
    """The numbers of one race; runs in a process of its own.

    Args:
        cell: "network" (of `network_list.CONTESTS`), "images", "pixels", "steps", "threads", and
            whether torch.compile takes part ("compiled").
    """
    torch.set_num_threads(cell["threads"])
    warnings.simplefilter("ignore")
    model = network_list.build(cell["network"])
    shape = (cell["images"], 3, cell["pixels"], cell["pixels"])
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    return race(model, images, cell["steps"], compiled=cell["compiled"])


def race(
    model: nn.Module,
    images: Tensor,
    steps: int,
    *,
    compiled: bool = False,
    rounds: int = ROUNDS,
) -> Row:
    """Check that contenders agree with float64, and time those that do.

    Args:
        model: In evaluation mode, float32.
        images: (N, C, H, W), in 0–1.
        steps: K.
        compiled: Whether torch.compile takes part.
        rounds: Turns of each, fewer if they take more than a minute.

    Returns:
        "contenders": name → median seconds, speed with quartiles, error; "absent": name → reason;
        which backend of ours ran, its islands and memory; the matrix product's rate and our share.
    """
    task = Task(model, images, steps, step_size_for(model, images, MOVE))
    reference = Reference(task)
    explained: list[Explanation] = []
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    absent: dict[str, str] = {}
    facts: Row = {"parameters": sum(weight.numel() for weight in model.parameters())}
    for name, build in _builders(task, facts, explained, compiled).items():
        try:
            run = build()
            errors[name] = reference.error(run(images))
        except Exception as error:  # of this contender; ours and the naive loop have to run
            if name in (OURS, NAIVE):
                raise
            absent[name] = str(error) if isinstance(error, NotHereError) else first_line(error)
            continue
        if objection := reference.objection(errors[name]):
            absent[name] = objection
        else:
            runs[name] = run
    if OURS not in runs:
        raise RuntimeError(f"ours {absent[OURS]}")
    before = roofline.matmul_rate("float32", images.device)
    times, processor = turns(runs, images, rounds)
    rate = max(before, roofline.matmul_rate("float32", images.device))
    flop = roofline.flop_of(roofline.layers_of(task.phi(), images, "float32"))
    facts |= {"contenders": summarize(times, errors), "absent": absent}
    facts |= compare(times)
    facts["over_best_in_processor_time"] = compare(processor)["over_best"]
    facts |= {
        "rounding": reference.rounding,
        "flop_per_image_step": flop / len(images),
        "matmul_flop_per_s": rate,
        "share_of_matmul": flop * steps / statistics.median(times[OURS]) / rate,
    }
    facts |= describe_ours(explained[0])
    one = task.one_step()
    facts["step_bytes"] = {
        OURS: step_bytes(_ours(one), images),
        CHANNELS_LAST: step_bytes(
            loops.frozen(one.phi(), 1, one.step_size, channels_last=True), images
        ),
    }
    return facts


def _builders(
    task: Task, facts: Row, explained: list[Explanation], compiled: bool
) -> dict[str, Callable[[], Run]]:
    arguments = (task.steps, task.step_size)

    def folded() -> Run:
        phi = task.phi()
        norms = sum(isinstance(each, nn.BatchNorm2d) for each in phi.modules())
        count = peers.fold(phi)
        facts["batch_norms"], facts["folded"] = norms, count
        if not count:
            raise NotHereError("no BatchNorm follows a convolution")
        return loops.frozen(phi, *arguments, channels_last=True)

    def ours() -> Run:
        sign = SignTransform(
            task.model, task.steps, step_size=task.step_size, batch_size=len(task.images)
        )
        run: Run = sign.transform  # type: ignore[assignment]
        run(task.images)
        explained.append(sign.explain(task.images))
        return run

    found = {
        NAIVE: lambda: loops.naive(task.phi(), *arguments),
        FROZEN: lambda: loops.frozen(task.phi(), *arguments),
        CHANNELS_LAST: lambda: loops.frozen(task.phi(), *arguments, channels_last=True),
        FOLDED: folded,
        OURS: ours,
    }
    if compiled:
        found[COMPILED] = lambda: loops.compiled(task.phi(), *arguments)
    return found


def _ours(task: Task) -> Run:
    sign = SignTransform(
        task.model, task.steps, step_size=task.step_size, batch_size=len(task.images)
    )
    return sign.transform  # type: ignore[return-value]


Times = dict[str, list[float]]  # name → seconds, one for each round


def turns(runs: dict[str, Run], images: Tensor, rounds: int) -> tuple[Times, Times]:
    """Seconds of each contender's calls, by the clock, and of all processors together.

    The second says more where the machine has other work to do.

    Args:
        runs: Name → contender, called once already.
        images: Each turn gets them mirrored in another way.
        rounds: How many; no further one begins after a minute, but three in any case.
    """
    inputs = mirrored(images)
    work = {name: on_each(run, inputs) for name, run in runs.items()}
    times: Times = {name: [] for name in work}
    processor: Times = {name: [] for name in work}
    names = list(work)
    for finished in range(rounds):
        if finished >= LEAST and sum(map(sum, times.values())) > RACE_SECONDS:
            break
        for name in names:
            began = time.process_time()
            times[name].append(clock(work[name], 1, images.device))
            processor[name].append(time.process_time() - began)
        names = names[1:] + names[:1]  # so that nobody always follows the same one
    return times, processor


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile of at least one number."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def summarize(times: Times, errors: dict[str, float]) -> dict[str, Row]:
    """Median seconds of each contender, and how many times as fast as the naive loop it is."""
    found = {}
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[NAIVE], seconds, strict=True)]
        low, speed, high = quartiles(ratios)
        found[name] = {
            "median": statistics.median(seconds),
            "speed": speed,
            "low": low,
            "high": high,
            "rounds": len(seconds),
            "error": errors[name],
        }
    return found


def compare(times: Times) -> Row:
    """Ours against the best peer without a compiler, round by round; and against torch.compile."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    best = min((name for name in times if name not in (OURS, COMPILED)), key=medians.__getitem__)

    def against(name: str) -> Row:
        ratios = [a / b for a, b in zip(times[name], times[OURS], strict=True)]
        low, ratio, high = quartiles(ratios)
        return {"ratio": ratio, "low": low, "high": high}

    found: Row = {"best_peer": best, "over_best": against(best)}
    if COMPILED in times:
        found["over_compiled"] = against(COMPILED)
    return found


def describe_ours(explained: Explanation) -> dict[str, Any]:
    """Which backend ran and why, its islands with their shares, and its memory plan."""
    islands = [
        {"operations": sorted(set(each.operations)), "module": each.module, "share": each.share}
        for each in explained.islands
    ]
    return {
        "backend": explained.backend,
        "reason": explained.reason,
        "operations": list(explained.operations),
        "islands": islands,
        "islands_share": sum(each.share for each in explained.islands),
        "memory_plan": explained.memory,
        "planned_bytes_per_image": explained.bytes_per_image,
    }
