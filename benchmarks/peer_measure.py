"""Measure one cell of the peer table: a contender's time, error and memory.

A contender takes turns with the naive loop and with nothing else, so that a cell can be measured
by itself: whoever ends the process, fills the memory or compiles for minutes costs no other cell
anything, and measuring goes on after any of them. What a busy machine or a hot chip does shows in
both, so ratios to the naive loop are fair; two contenders are compared by these ratios.
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
LONG = "max-autotune"  # compiles for minutes: of the two networks that claims are made for
LONG_FOR = ("basic_cnn", "mobilenet_v2")
MOVE = 0.5  # grey levels rms that a first step moves images by
LOOSE = 0.1  # the error allowed to PyTorch's default flags, whose convolutions are TF32
# Where rounding alone moves the naive loop's result so far (a deep untrained network in bfloat16),
# errors tell nobody apart: they are kept beside the times, and nobody is left out.
UNTOLD = 0.5
ROUNDS, SECONDS, LEAST = 5, 8.0, 3  # turns of a cell, fewer once that much time is spent


def names(race: Race) -> list[str]:
    """Every contender of a race, whether it can run or not."""
    empty = Task(
        network=race.network,
        model=nn.Identity(),
        images=torch.empty(0),
        steps=race.steps,
        step_size=1.0,
        precision=race.precision,
    )
    found = list(contenders.by_torch(empty))
    if race.device == "cuda" and race.precision == "float32":
        found.insert(1, contenders.DEFAULTS)
    found += [jax_peer.label(torch.device(race.device)), SAVING]
    return found + [f"sign_ext {way}" for way in contenders.OURS]


def why_not(task: Task, name: str) -> str | None:
    """Why a contender cannot take part, as far as it can be told without running it, or None."""
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
    reason = contenders.refused(task, name)
    return reason.partition(" (--")[0] if reason else None


def build(task: Task, name: str) -> Run:
    """A contender, from images to p*_K."""
    how = (task.steps, task.step_size)
    if name == jax_peer.label(task.images.device):
        return jax_peer.compiled(task.network, task.phi(), *how, task.precision)
    if name == SAVING:
        saving = loops.frozen(peers.memory_saving(task.phi()), *how)
        return loops.with_precision(task.precision, saving)
    if name.startswith("sign_ext "):
        return contenders.own(task, name.removeprefix("sign_ext "))
    return contenders.by_torch(task)[name]()


def trim() -> None:
    """Give back what earlier cells left, so that each finds the same memory."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_lost(device: torch.device) -> bool:
    """Whether an error took the GPU's context with it, so that nothing runs here any more."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def is_full(error: BaseException) -> bool:
    """Whether an error says that the memory is full, as compilers and JAX wrap it in their own."""
    return "out of memory" in str(error).lower() or "RESOURCE_EXHAUSTED" in str(error)


class Course:
    """A race's network and images, at as many images as were asked for or fewer.

    Args:
        race: the race.
        images: how many images to run with.
    """

    def __init__(self, race: Race, images: int) -> None:
        """Build the network; its weights and the images are the same in every process."""
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
        """What contenders must agree with."""
        return Reference(self.task)

    @cached_property
    def layers(self) -> list[roofline.Layer]:
        """What a step needs at least, layer by layer."""
        return roofline.layers_of(self.task.phi(), self.task.images, self.race.precision)

    @cached_property
    def machine(self) -> roofline.Machine:
        """What the machine reaches now."""
        return roofline.measure(self.race.precision, self.task.images.device)

    def measure(self, name: str) -> dict[str, Any]:
        """What a cell holds: numbers, or "absent" with the reason.

        Raises:
            torch.OutOfMemoryError: it does not fit.
        """
        task = self.task
        if reason := why_not(task, name):
            return {"absent": reason}
        try:
            run = build(task, name)
            error = self.reference.error(run(task.images))
            if objection := self._objection(name, error):
                return {"absent": objection, "error": error}
            facts = {"ran_with": len(task.images), "error": error, **self._times(name, run)}
            compiled = "torch.compile" in name
            later = _second(run, task) if compiled else None
            del run
            trim()
            facts |= self._memory(name, later)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it is, it is this contender's
            if is_full(error):
                raise torch.OutOfMemoryError(first_line(error)) from error
            return {"absent": first_line(error)}
        return facts

    def _objection(self, name: str, error: float) -> str | None:
        """Why a contender with this error is not timed, or None."""
        if self.reference.rounding > UNTOLD and not math.isnan(error):
            return None
        if name == contenders.DEFAULTS and error <= LOOSE:
            return None
        return self.reference.objection(error)

    def _times(self, name: str, run: Run) -> dict[str, Any]:
        images, inputs = self.task.images, mirrored(self.task.images)
        ways: dict[str, Callable[[], object]] = {name: on_each(run, inputs)}
        if name != NAIVE:
            naive = build(self.task, NAIVE)
            naive(images)
            ways[NAIVE] = on_each(naive, inputs)
        turns = Turns(ways, images.device)
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

    def _memory(self, name: str, later: int | None) -> dict[str, Any]:
        """Peak bytes beyond weights, images and result; JAX's allocator is not torch's."""
        if name == jax_peer.label(self.task.images.device):
            return {}
        if later is None:
            one = replace(self.task, steps=1, tuned=False)
            later = measure.step_bytes(build(one, name), self.task.images)
        return {"peak": later, "per_image": later / len(self.task.images)}


def _second(run: Run, task: Task) -> int:
    """Peak bytes of a call after compilation; more steps take no more memory."""
    peak = measure.memory_usage(lambda: run(task.images), task.images.device).peak
    return peak - task.images.numel() * 4
