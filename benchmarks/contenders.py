"""Who takes part in a race: every peer and every backend of ours that can run it, by name.

What cannot run is not dropped in silence: it is returned beside the others with the reason.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import jax_peer
import peers
import torch
from torch import Tensor, nn

from sign_ext import BackendError, SignTransform
from sign_ext.settings import BACKENDS

NAIVE = "naive .backward()"
DEFAULTS = "naive, default flags"
LONG = "left out: compiles for minutes (--all-peers)"
NO_GPU = "needs a CUDA device"
# torch.compile of this many modules takes minutes.
MANY_MODULES = 400


@dataclass(frozen=True)
class Task:
    """One race.

    Attributes:
        network: its name in `sign_ext.models`.
        model: the network in evaluation mode, on the device.
        images: (N, 3, H, W) to try the contenders on.
        steps: K.
        step_size: factor of each step.
        precision: "float32", "tf32" or "bfloat16".
        all_peers: also those that compile for minutes.
    """

    network: str
    model: nn.Module
    images: Tensor
    steps: int
    step_size: float
    precision: str
    all_peers: bool

    def phi(self) -> nn.Module:
        """A copy of Φ of its own for a peer."""
        return peers.features_of(copy.deepcopy(self.model))


def ours(task: Task, backend: str) -> peers.Run:
    """One of our backends."""
    sign = SignTransform(
        task.model,
        task.steps,
        step_size=task.step_size,
        batch_size=len(task.images),
        backend=backend,
        precision=task.precision,
    )
    return sign.transform  # type: ignore[return-value]


def by_torch(task: Task) -> dict[str, Callable[[], peers.Run]]:
    """The peers that torch alone is enough for, each still to be built."""
    precision, how = task.precision, (task.steps, task.step_size)

    def folded() -> nn.Module:
        phi = task.phi()
        peers.fold(phi)
        return peers.store(phi, precision)

    def tuned(run: peers.Run) -> peers.Run:
        return peers.at(precision, run, tuned=True)

    found = {
        NAIVE: lambda: peers.at(precision, peers.naive(task.phi(), *how)),
        "torchattacks' loop": lambda: peers.at(precision, peers.attack_style(task.phi(), *how)),
        "frozen autograd.grad": lambda: peers.at(precision, peers.frozen(task.phi(), *how)),
        "frozen, channels_last": lambda: tuned(peers.frozen(task.phi(), *how, channels_last=True)),
        "BatchNorm folded": lambda: tuned(peers.frozen(folded(), *how, channels_last=True)),
        "torch.func.grad": lambda: tuned(peers.functional(task.phi(), *how)),
        "torch.compile": lambda: tuned(peers.compiled(task.phi(), *how)),
        "torch.compile max-autotune": lambda: tuned(
            peers.compiled(folded(), *how, mode="max-autotune")
        ),
        "CUDA graph by hand": lambda: tuned(peers.captured(folded(), *how)),
    }
    if task.precision == "float32" and task.images.is_cuda:
        found[DEFAULTS] = lambda: peers.naive(task.phi(), *how)
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


def first_line(error: BaseException) -> str:
    """An error in one short line."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}"[:160]


def enter(task: Task) -> tuple[dict[str, peers.Run], dict[str, str]]:
    """Build every contender and run it once.

    Args:
        task: the race.

    Returns:
        The contenders by name, ours last, and name → reason for those that cannot run here. Peers
        that compile may fail for reasons of the machine (no compiler, no Triton), so an error of
        theirs is a reason too; of the others it is an error.
    """
    torch.compiler.reset()  # it gives up on code that was compiled often, as by earlier races
    runs: dict[str, peers.Run] = {}
    absent: dict[str, str] = {}

    def add(
        name: str, build: Callable[[], peers.Run], excused: tuple[type[Exception], ...]
    ) -> None:
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
        run = peers.at(precision, peers.frozen(saving, task.steps, task.step_size))
        add("memsave_torch", lambda: run, (Exception,))

    for backend in BACKENDS:
        if backend == "graphed" and not task.images.is_cuda:
            absent[f"sign_ext {backend}"] = NO_GPU
        elif backend != "auto":
            add(f"sign_ext {backend}", lambda each=backend: ours(task, each), (BackendError,))
    return runs, absent
