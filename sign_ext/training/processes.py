"""The processes of one run: which one this is, its part of each batch, and how they agree.

torchrun starts the processes and tells each in its environment which it is. Lightning Fabric joins
them and puts DistributedDataParallel around the model. In one process, the ordinary case, all of
this does nothing and Fabric is not imported.
"""

from __future__ import annotations

import atexit
import logging
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from sign_ext.training.checks import resolve_device

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """What one process computes of a batch.

    Attributes:
        rows: of the batch.
        copies: how many processes compute these same rows: 1, or all of them.
        fraction: of the batch's mean loss that the mean loss of these rows is; the fractions of
            all processes add up to 1.
    """

    rows: slice
    copies: int
    fraction: float


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    What is called "collective" must be called by every process, in the same order.

    Attributes:
        rank: 0 to count − 1; 0 writes the files and shows the progress.
        count: how many there are.
        here: how many of them are on this machine.
        device: this process's own.
        fabric: Lightning Fabric, that joins them; None if there is but one.
    """

    rank: int = 0
    count: int = 1
    here: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fabric: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and shows."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Return this process's contiguous part of `length` things; sizes differ by 1 at most."""
        return slice(
            self.rank * length // self.count,
            (self.rank + 1) * length // self.count,
        )

    def share(self, batch: int) -> Share:
        """Say what this process computes of a batch of `batch` images.

        Each takes its part. A batch that would leave a process without two images, from which
        batch normalisation could not estimate a variance, is computed whole by every process:
        the mean of equal gradients is that gradient, and none has to sit out a collective call.
        """
        if batch < 2 * self.count:
            return Share(slice(0, batch), self.count, 1 / self.count)
        rows = self.part(batch)
        return Share(rows, 1, (rows.stop - rows.start) / batch)

    def wrap(self, forward: Any, *, all_trained: bool = True) -> Any:
        """Wrap a module, so that its gradients become the mean over the processes; collective.

        The first process's weights and buffers go to all.

        Args:
            forward: the model, or its compiled form.
            all_trained: the loss depends on every parameter. Otherwise each step looks for those
                it does not depend on, which then keep no gradient, as in one process.
        """
        if self.count == 1:
            return forward
        fabric = self.fabric if all_trained else _fabric(self.device, self.here, self.count, False)
        # Compiled code stays inside: Fabric would compile the wrapper, which cannot be done whole.
        return fabric.setup_module(forward, move_to_device=False, _reapply_compile=False)

    def total(self, tensor: Tensor) -> Tensor:
        """Add a tensor up over the processes; collective."""
        if self.count == 1:
            return tensor
        added: Tensor = self.fabric.all_reduce(tensor.clone(), reduce_op="sum")
        return added

    def copy_first(self, tensors: Iterable[Tensor]) -> None:
        """Write the first process's values into tensors, in place; collective."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                values = tensor.detach().contiguous()
                torch.distributed.broadcast(values, src=0)
                tensor.copy_(values)

    def tell(self, value: T) -> T:
        """Return the first process's value; collective."""
        if self.count == 1:
            return value
        told: T = self.fabric.broadcast(value, src=0)
        return told

    def from_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns on the first process, the only one to call it; collective."""
        made: Any = None
        with self.agreeing():
            if self.first:
                made = make()
        return self.tell(made)

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """Raise on every process what the block raises on any of them; collective.

        Else one process would stop, and the others wait for it. Of several errors a process
        raises its own, or that of the lowest rank.
        """
        if self.count == 1:
            yield
            return
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        told: list[Exception | None] = [None] * self.count
        torch.distributed.all_gather_object(told, mine and self._portable(mine))
        raised = mine or next((error for error in told if error is not None), None)
        if raised is not None:
            raised.raised_everywhere = True  # type: ignore[attr-defined]
            raise raised

    def _portable(self, error: Exception) -> Exception:
        """Return an error that can travel to another process: the same, or one that quotes it."""
        where = f"Raised by process {self.rank} of {self.count}."
        try:
            copy: Exception = pickle.loads(pickle.dumps(error))
            same = type(copy) is type(error) and str(copy) == str(error)
        except Exception:
            same = False
        if not same:
            copy = RuntimeError(f"{type(error).__name__}: {error}")
        copy.add_note(where)
        return copy


ALONE = Processes()


def raised_everywhere(error: BaseException) -> bool:
    """Say whether every process of the run raises this error, so that one may tell of it."""
    return bool(getattr(error, "raised_everywhere", False))


def join_processes(device: str | torch.device) -> Processes:
    """Join the processes that a launcher started for this run, or be the only one; collective.

    They stay joined until the interpreter ends: a later call finds them so.

    Args:
        device: "cpu", or "cuda" for each process's own: that of its rank on its machine.

    Returns:
        This process among them, by the launcher's RANK, WORLD_SIZE and LOCAL_RANK in the
        environment. Without WORLD_SIZE, or if it is 1, the process is alone.

    Raises:
        ValueError: no such device, fewer devices than processes, or half a launcher's variables.
        ModuleNotFoundError: there are several processes, and Lightning Fabric is not installed.

    Example:
        >>> join_processes("cpu").count
        1
    """
    place = resolve_device(device)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Processes(device=place)
    rank, count, local = _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")
    here = _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else count
    if count % here:
        raise ValueError(
            f"WORLD_SIZE={count} is no multiple of LOCAL_WORLD_SIZE={here}: start equally many "
            "processes on each machine (torchrun --nnodes=M --nproc-per-node=N)."
        )
    if place.type == "cuda":
        if torch.cuda.device_count() < here:
            raise ValueError(
                f"{here} processes on this machine and {torch.cuda.device_count()} CUDA devices: "
                "give each process its own (torchrun --nproc-per-node=DEVICES), or device='cpu'."
            )
        place = torch.device("cuda", local)
    processes = Processes(rank, count, here, place, _fabric(place, here, count, True))
    with processes.agreeing():
        if torch.device(device).index not in (None, place.index):
            raise ValueError(
                f"device={str(device)!r} in the process of LOCAL_RANK={local}: give 'cuda', and "
                "each process takes the device of its rank."
            )
    return processes


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except (KeyError, ValueError):
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']!r}, and {name}={os.environ.get(name)!r} in the "
            "environment: torchrun sets both to numbers. Start the processes with it, or unset "
            "WORLD_SIZE to train in one."
        ) from None


def _fabric(place: torch.device, here: int, count: int, all_trained: bool) -> Any:
    """Join the processes, if they are not: gloo on CPUs, NCCL on CUDA devices."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"training in several processes needs Lightning Fabric ({error}): "
            "pip install 'sign-ext[experiments]', or start one process.",
            name=error.name,
        ) from error
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)  # else each process announces itself on stderr
    try:
        fabric = Fabric(
            accelerator=place.type,
            devices=here,
            num_nodes=count // here,
            strategy=DDPStrategy(find_unused_parameters=not all_trained),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
    finally:
        logger.setLevel(level)
    # Their threads have to end before the interpreter does: left to its last moments, one in some
    # ten runs was aborted after all its work was done. Registered once, whatever calls this again.
    atexit.unregister(_part)
    atexit.register(_part)
    return fabric


def _part() -> None:
    """Leave the other processes; by itself, without waiting for them."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
