"""The contenders of a race, by name: every peer and every backend of ours that can run it.

Contenders that cannot run are not dropped silently: they are returned with the reason.
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
# torch.compile takes minutes for networks with more modules than this.
MANY_MODULES = 400
TUNED = "fused, tuned"
OURS = (*(name for name in BACKENDS if name != "auto"), TUNED)
# Why some of our backends do not take part on a CPU.
NOT_ON_A_CPU = {"graphed": NO_GPU, "onchip": NO_GPU, TUNED: "on a CPU measuring takes minutes"}


@dataclass(frozen=True, kw_only=True)
class Task(task.Task):
    """One race.

    Attributes:
        network: Its name in `sign_ext.models`.
        all_peers: Include peers that compile for minutes.
    """

    network: str
    all_peers: bool = False


def torch_peers(task: Task) -> dict[str, Callable[[], Run]]:
    """The peers that need only torch: name → function that builds the peer."""
    precision, loop_args = task.precision, (task.steps, task.step_size)

    def folded() -> nn.Module:
        phi = task.phi()
        peers.fold(phi)
        return peers.store(phi, precision)

    def tuned(run: Run) -> Run:
        return loops.with_precision(precision, run, tuned=True)

    found = {
        NAIVE: lambda: loops.with_precision(precision, loops.naive(task.phi(), *loop_args)),
        "torchattacks' loop": lambda: loops.with_precision(
            precision, peers.attack_style(task.phi(), *loop_args)
        ),
        "frozen autograd.grad": lambda: loops.with_precision(
            precision, loops.frozen(task.phi(), *loop_args)
        ),
        "frozen, channels_last": lambda: tuned(
            loops.frozen(task.phi(), *loop_args, channels_last=True)
        ),
        "BatchNorm folded": lambda: tuned(loops.frozen(folded(), *loop_args, channels_last=True)),
        "torch.func.grad": lambda: tuned(peers.functional(task.phi(), *loop_args)),
        "torch.compile": lambda: tuned(loops.compiled(task.phi(), *loop_args)),
        "torch.compile max-autotune": lambda: tuned(
            loops.compiled(folded(), *loop_args, mode="max-autotune")
        ),
        "CUDA graph by hand": lambda: tuned(loops.captured(folded(), *loop_args)),
    }
    if task.precision == "float32" and task.images.is_cuda:
        found[DEFAULTS] = lambda: loops.naive(task.phi(), *loop_args)
    return found


def exclusion_reason(task: Task, name: str) -> str | None:
    """Why a peer of `torch_peers` does not take part, or None."""
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


def build_ours(task: Task, backend: str) -> Run:
    """One of our contenders: a backend by name, or `TUNED`, fused with measured choices."""
    return ours(task, "fused", tune=True) if backend == TUNED else ours(task, backend)


def build_contenders(task: Task) -> tuple[dict[str, Run], dict[str, str]]:
    """Build every contender and run it once.

    Args:
        task: The race.

    Returns:
        The contenders by name, ours last, and name → reason for those that cannot run here. Peers
        that compile may fail because of the machine (no compiler, no Triton), so their exceptions
        count as reasons. Exceptions of other contenders are raised.
    """
    torch.compiler.reset()  # it stops compiling code that earlier races have recompiled often
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

    for name, build in torch_peers(task).items():
        reason = exclusion_reason(task, name)
        if reason:
            absent[name] = reason
        else:
            add(name, build, (Exception,) if "torch.compile" in name else ())

    device, precision = task.images.device, task.precision
    label, reason = jax_peer.label(device), jax_peer.missing(task.network, device)
    if reason:
        absent[label] = reason
    else:
        loop_args = (task.steps, task.step_size, precision)
        add(label, lambda: jax_peer.compiled(task.network, task.phi(), *loop_args), (Exception,))

    try:
        saving = peers.memory_saving(task.phi())
    except ImportError:
        absent["memsave_torch"] = "not installed"
    else:
        run = loops.with_precision(precision, loops.frozen(saving, task.steps, task.step_size))
        add("memsave_torch", lambda: run, (Exception,))

    for backend in OURS:
        if backend in NOT_ON_A_CPU and not task.images.is_cuda:
            absent[f"sign_ext {backend}"] = NOT_ON_A_CPU[backend]
        else:
            add(f"sign_ext {backend}", lambda each=backend: build_ours(task, each), (BackendError,))
    return runs, absent
