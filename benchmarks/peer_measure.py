"""Measure one cell of the peer table: a contender's time, error and memory.

A contender takes turns with the naive loop only, so that each cell is measured independently: a
contender that ends the process, fills the memory or compiles for minutes affects no other cell. A
busy machine or a hot chip slows both, so ratios to the naive loop are fair, and two contenders are
compared by these ratios.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import contenders
import jax_peer
import peers
import roofline
import torch
from contenders import NAIVE, Task, first_line
from peer_cells import Race
from torch import nn

from sign_ext import pullback_of_ones
from sign_ext.benchmarking import loops, measure
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.measure import Turns, mirrored, on_each
from sign_ext.benchmarking.race import Reference
from sign_ext.models import build_model

SAVING = "memsave_torch"
LONG = "max-autotune"  # compiles for minutes: measured only for the networks below
LONG_FOR = ("basic_cnn", "mobilenet_v2")
MOVE = 0.5  # RMS change of the pixels (0–255) in the first step; sets the step size
LOOSE_TOLERANCE = 0.1  # error allowed with PyTorch's default flags: TF32 convolutions
# If rounding alone changes the naive loop's result by this much (a deep untrained network in
# bfloat16), errors do not distinguish right from wrong: they are stored, and no contender is
# excluded.
INDISTINCT = 0.5
ROUNDS, SECONDS, LEAST = (
    5,
    8.0,
    3,
)  # turns per cell, time limit for them, and minimum number of turns


def names(race: Race) -> list[str]:
    """The names of all contenders of a race, including those that cannot run."""
    empty = Task(
        network=race.network,
        model=nn.Identity(),
        images=torch.empty(0),
        steps=race.steps,
        step_size=1.0,
        precision=race.precision,
    )
    found = list(contenders.torch_peers(empty))
    if race.device == "cuda" and race.precision == "float32":
        found.insert(1, contenders.DEFAULTS)
    found += [jax_peer.label(torch.device(race.device)), SAVING]
    return found + [f"sign_ext {backend}" for backend in contenders.OURS]


def absence_reason(task: Task, name: str) -> str | None:
    """Why a contender cannot take part, as far as is known without running it, or None."""
    device = task.images.device
    if name == jax_peer.label(device):
        return jax_peer.missing(task.network, device)
    if name == SAVING:
        try:
            peers.memory_saving(nn.Sequential())
        except ImportError:
            return "not installed"
        return None
    if name.startswith("sign_ext "):
        on_cpu = contenders.NOT_ON_A_CPU.get(name.removeprefix("sign_ext "))
        return None if task.images.is_cuda else on_cpu
    reason = contenders.exclusion_reason(task, name)
    return reason.partition(" (--")[0] if reason else None


def build(task: Task, name: str) -> Run:
    """Build a contender: a function from images to p*_K."""
    loop_args = (task.steps, task.step_size)
    if name == jax_peer.label(task.images.device):
        return jax_peer.compiled(task.network, task.phi(), *loop_args, task.precision)
    if name == SAVING:
        saving = loops.frozen(peers.memory_saving(task.phi()), *loop_args)
        return loops.with_precision(task.precision, saving)
    if name.startswith("sign_ext "):
        return contenders.build_ours(task, name.removeprefix("sign_ext "))
    return contenders.torch_peers(task)[name]()


def free_memory() -> None:
    """Free the memory of earlier cells, so that each cell starts with the same memory."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def context_is_lost(device: torch.device) -> bool:
    """Whether an error has destroyed the CUDA context, so that this process cannot continue."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory; compilers and JAX wrap it in their own exceptions."""
    return "out of memory" in str(error).lower() or "RESOURCE_EXHAUSTED" in str(error)


class PreparedRace:
    """The network and images of a race, ready to measure contenders.

    Args:
        race: The race.
        images: Number of images; fewer than the race's if those do not fit in memory.
    """

    def __init__(self, race: Race, images: int) -> None:
        """Build the network; weights and images are the same in every process."""
        side = 299 if race.network == "inception_resnet_v2" else 32
        device = torch.device(race.device)
        torch.manual_seed(0)
        model = build_model(race.network, image_shape=(3, side, side)).to(device).eval()
        self.race = race
        pixels = torch.rand(images, 3, side, side, generator=torch.Generator().manual_seed(1))
        batch = pixels.to(device) * 255
        self.task = Task(
            network=race.network,
            model=model,
            images=batch,
            steps=race.steps,
            step_size=MOVE / float(pullback_of_ones(model, batch[:32]).square().mean().sqrt()),
            precision=race.precision,
            all_peers=race.network in LONG_FOR,
        )

    @cached_property
    def reference(self) -> Reference:
        """The result that contenders must agree with."""
        return Reference(self.task)

    @cached_property
    def layers(self) -> list[roofline.Layer]:
        """The minimum work of a step, by layer."""
        return roofline.layers_of(self.task.phi(), self.task.images, self.race.precision)

    @cached_property
    def machine(self) -> roofline.Machine:
        """The machine's peak rates, measured now."""
        return roofline.measure(self.race.precision, self.task.images.device)

    def measure(self, name: str) -> dict[str, Any]:
        """Measure a cell: its numbers, or "absent" with the reason.

        Raises:
            torch.OutOfMemoryError: The contender does not fit in memory.
        """
        task = self.task
        if reason := absence_reason(task, name):
            return {"absent": reason}
        try:
            run = build(task, name)
            error = self.reference.error(run(task.images))
            if objection := self._objection(name, error):
                return {"absent": objection, "error": error}
            facts = {"ran_with": len(task.images), "error": error, **self._times(name, run)}
            compiled = "torch.compile" in name
            peak = _peak_when_compiled(run, task) if compiled else None
            del run
            free_memory()
            facts |= self._memory(name, peak)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # any failure concerns this contender only
            if is_out_of_memory(error):
                raise torch.OutOfMemoryError(first_line(error)) from error
            return {"absent": first_line(error)}
        return facts

    def _objection(self, name: str, error: float) -> str | None:
        """Why a contender with this error is not timed, or None."""
        if self.reference.rounding > INDISTINCT and not math.isnan(error):
            return None
        if name == contenders.DEFAULTS and error <= LOOSE_TOLERANCE:
            return None
        return self.reference.objection(error)

    def _times(self, name: str, run: Run) -> dict[str, Any]:
        images, inputs = self.task.images, mirrored(self.task.images)
        runs: dict[str, Callable[[], object]] = {name: on_each(run, inputs)}
        if name != NAIVE:
            naive = build(self.task, NAIVE)
            naive(images)
            runs[NAIVE] = on_each(naive, inputs)
        turns = Turns(runs, images.device)
        spent = 0.0
        while len(turns.times[name]) < ROUNDS:
            turns.round()
            spent = sum(sum(each) for each in turns.times.values())
            if spent > SECONDS and len(turns.times[name]) >= LEAST:
                break
        medians = turns.medians()
        steps, median = self.race.steps, medians[name]
        flop = roofline.flop_of(self.layers) * steps
        found = {
            "median": median,
            "fastest": min(turns.times[name]),
            "rounds": len(turns.times[name]),
            "naive_median": medians[NAIVE],
            "speed": medians[NAIVE] / median,
            "image_steps_per_second": len(images) * steps / median,
            "matmul_flop_per_s": self.machine.flop_per_s,
            "share_of_matmul": flop / median / self.machine.flop_per_s,
        }
        if self.machine.bytes_per_s:
            bound = roofline.floor(self.layers, self.machine) * steps
            found |= {"copy_bytes_per_s": self.machine.bytes_per_s}
            found |= {"floor_seconds": bound, "share_of_floor": bound / median}
        return found

    def _memory(self, name: str, peak: int | None) -> dict[str, Any]:
        """Peak bytes beyond weights, images and result; JAX, with its own allocator, has none."""
        if name == jax_peer.label(self.task.images.device):
            return {}
        if peak is None:
            one_step = replace(self.task, steps=1, tuned=False)
            peak = measure.step_bytes(build(one_step, name), self.task.images)
        return {"peak": peak, "per_image": peak / len(self.task.images)}


def _peak_when_compiled(run: Run, task: Task) -> int:
    """Peak bytes of a call after compilation; the number of steps does not affect it."""
    peak = measure.memory_usage(lambda: run(task.images), task.images.device).peak
    return peak - task.images.numel() * 4
