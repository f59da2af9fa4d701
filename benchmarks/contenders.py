"""Who takes part in a race: every peer and every backend of ours that can run it, by name.

What cannot run is not dropped in silence: it is returned beside the others with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax_peer
import peers
import torch
from torch import nn

from sign_ext import BackendError
from sign_ext.benchmarking import loops, task
from sign_ext.benchmarking.contenders import NAIVE, NO_GPU, ours
from sign_ext.benchmarking.loops import Run
from sign_ext.benchmarking.table import first_line
from sign_ext.settings import BACKENDS

DEFAULTS = "naive, default flags"
LONG = "left out: compiles for minutes (--all-peers)"
# torch.compile of this many modules takes minutes.
MANY_MODULES = 400
TUNED = "fused, tuned"
OURS = (*(name for name in BACKENDS if name != "auto"), TUNED)
# Why some of them take no part on a CPU.
NOT_ON_A_CPU = {"graphed": NO_GPU, "onchip": NO_GPU, TUNED: "on a CPU measuring takes minutes"}


@dataclass(frozen=True, kw_only=True)
class Task(task.Task):
    """One race.

    Attributes:
        network: its name in `sign_ext.models`.
        all_peers: also those that compile for minutes.
    """

    network: str
    all_peers: bool = False


def by_torch(task: Task) -> dict[str, Callable[[], Run]]:
    """The peers that torch alone is enough for, each still to be built."""
    precision, how = task.precision, (task.steps, task.step_size)

    def folded() -> nn.Module:
        phi = task.phi()
        peers.fold(phi)
        return peers.store(phi, precision)

    def tuned(run: Run) -> Run:
        return loops.with_precision(precision, run, tuned=True)

    found = {
        NAIVE: lambda: loops.with_precision(precision, loops.naive(task.phi(), *how)),
        "torchattacks' loop": lambda: loops.with_precision(
            precision, peers.attack_style(task.phi(), *how)
        ),
        "frozen autograd.grad": lambda: loops.with_precision(
            precision, loops.frozen(task.phi(), *how)
        ),
        "frozen, channels_last": lambda: tuned(loops.frozen(task.phi(), *how, channels_last=True)),
        "BatchNorm folded": lambda: tuned(loops.frozen(folded(), *how, channels_last=True)),
        "torch.func.grad": lambda: tuned(peers.functional(task.phi(), *how)),
        "torch.compile": lambda: tuned(loops.compiled(task.phi(), *how)),
        "torch.compile max-autotune": lambda: tuned(
            loops.compiled(folded(), *how, mode="max-autotune")
        ),
        "CUDA graph by hand": lambda: tuned(loops.captured(folded(), *how)),
    }
    if task.precision == "float32" and task.images.is_cuda:
        found[DEFAULTS] = lambda: loops.naive(task.phi(), *how)
    return found


def refused(task: Task, name: str) -> str | None:
    """Why a peer of `by_torch` takes no part, or None."""
    modules = list(task.model.modules())
    if name == "CUDA graph by hand" and not task.images.is_cuda:
        return NO_GPU
    if name == "BatchNorm folded" and not any(isinstance(m, nn.BatchNorm2d) for m in modules):
        return "the network has none"
    if "max-autotune" in name and not task.all_peers:
        return LONG
    if "torch.compile" in name and len(modules) > MANY_MODULES and not task.all_peers:
        return LONG
    return None


def own(task: Task, way: str) -> Run:
    """One of ours: a backend by its name, or the fused one with its choices measured."""
    return ours(task, "fused", tune=True) if way == TUNED else ours(task, way)


def enter(task: Task) -> tuple[dict[str, Run], dict[str, str]]:
    """Build every contender and run it once.

    Args:
        task: the race.

    Returns:
        The contenders by name, ours last, and name → reason for those that cannot run here. Peers
        that compile may fail for reasons of the machine (no compiler, no Triton), so an error of
        theirs is a reason too; of the others it is an error.
    """
    torch.compiler.reset()  # it gives up on code that was compiled often, as by earlier races
    runs: dict[str, Run] = {}
    absent: dict[str, str] = {}

    def add(name: str, build: Callable[[], Run], excused: tuple[type[Exception], ...]) -> None:
        try:
            run = build()
            run(task.images)
        except excused as error:
            absent[name] = first_line(error)
        else:
            runs[name] = run

    for name, build in by_torch(task).items():
        reason = refused(task, name)
        if reason:
            absent[name] = reason
        else:
            add(name, build, (Exception,) if "torch.compile" in name else ())

    device, precision = task.images.device, task.precision
    label, reason = jax_peer.label(device), jax_peer.missing(task.network, device)
    if reason:
        absent[label] = reason
    else:
        how = (task.steps, task.step_size, precision)
        add(label, lambda: jax_peer.compiled(task.network, task.phi(), *how), (Exception,))

    try:
        saving = peers.memory_saving(task.phi())
    except ImportError:
        absent["memsave_torch"] = "not installed"
    else:
        run = loops.with_precision(precision, loops.frozen(saving, task.steps, task.step_size))
        add("memsave_torch", lambda: run, (Exception,))

    for way in OURS:
        if way in NOT_ON_A_CPU and not task.images.is_cuda:
            absent[f"sign_ext {way}"] = NOT_ON_A_CPU[way]
        else:
            add(f"sign_ext {way}", lambda each=way: own(task, each), (BackendError,))
    return runs, absent
