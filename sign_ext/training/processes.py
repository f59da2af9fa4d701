"""The processes of one run: their ranks, their parts of each batch, and their communication.

torchrun starts the processes and sets each one's rank in its environment. Lightning Fabric joins
them and wraps the model in DistributedDataParallel. With one process, the usual case, nothing here
has an effect and Fabric is not imported.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import pickle
import sys
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
    """The part of a batch that one process computes.

    Attributes:
        rows: of the batch.
        copies: number of processes that compute these rows: 1, or all of them.
        fraction: the weight of these rows' mean loss in the batch's mean loss; over all processes
            the weights add up to 1.
    """

    rows: slice
    copies: int
    fraction: float


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Methods marked "collective" must be called by every process, in the same order.

    Attributes:
        rank: 0 to count − 1; rank 0 writes the files and shows the progress.
        count: number of processes.
        local_count: number of those on this machine.
        device: of this process.
        fabric: Lightning Fabric, which joins them; None for a single process.
    """

    rank: int = 0
    count: int = 1
    local_count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    fabric: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """Return this process's contiguous part of `length` items; sizes differ by 1 at most."""
        return slice(
            self.rank * length // self.count,
            (self.rank + 1) * length // self.count,
        )

    def share(self, batch: int) -> Share:
        """Return the part of a batch of `batch` images that this process computes.

        If a process would get fewer than two images, of which batch normalisation cannot estimate
        a variance, every process computes the whole batch: the mean of equal gradients is that
        gradient, and no process misses a collective call.
        """
        if batch < 2 * self.count:
            return Share(slice(0, batch), self.count, 1 / self.count)
        rows = self.part(batch)
        return Share(rows, 1, (rows.stop - rows.start) / batch)

    def wrap(self, forward: Any, *, all_trained: bool = True) -> Any:
        """Wrap a module so that its gradients are averaged over the processes; collective.

        All processes get the first one's weights and buffers.

        Args:
            forward: the model, or its compiled form.
            all_trained: whether the loss depends on every parameter. If not, each step searches
                for unused parameters, which then get no gradient, as in one process.
        """
        if self.count == 1:
            return forward
        fabric = (
            self.fabric
            if all_trained
            else _fabric(self.device, self.local_count, self.count, False)
        )
        # Keep the compiled module inside: Fabric would compile the wrapper instead, which cannot
        # be captured as one graph.
        return fabric.setup_module(forward, move_to_device=False, _reapply_compile=False)

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the processes; collective."""
        if self.count == 1:
            return tensor
        summed: Tensor = self.fabric.all_reduce(tensor.clone(), reduce_op="sum")
        return summed

    def broadcast_tensors(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with the first process's values; collective."""
        if self.count == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                values = tensor.detach().contiguous()
                torch.distributed.broadcast(values, src=0)
                tensor.copy_(values)

    def broadcast(self, value: T) -> T:
        """Return the first process's value; collective."""
        if self.count == 1:
            return value
        received: T = self.fabric.broadcast(value, src=0)
        return received

    def call_on_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first process only and return its result on all; collective."""
        result: Any = None
        with self.raising_together():
            if self.first:
                result = function()
        return self.broadcast(result)

    @contextmanager
    def raising_together(self) -> Iterator[None]:
        """Raise on every process if the block raises on any of them; collective.

        Otherwise the failing process would stop and the others would wait for it forever. A
        process raises its own error, or else that of the lowest rank.
        """
        if self.count == 1:
            yield
            return
        own: Exception | None = None
        try:
            yield
        except Exception as error:
            own = error
        errors: list[Exception | None] = [None] * self.count
        torch.distributed.all_gather_object(errors, own and self._portable(own))
        raised = own or next((error for error in errors if error is not None), None)
        if raised is not None:
            raised.raised_everywhere = True  # type: ignore[attr-defined]
            raise raised

    def _portable(self, error: Exception) -> Exception:
        """Return an error that can be sent to another process: the same, or one that quotes it."""
        try:
            copy: Exception = pickle.loads(pickle.dumps(error))
            same = type(copy) is type(error) and str(copy) == str(error)
        except Exception:
            same = False
        if not same:
            copy = RuntimeError(f"{type(error).__name__}: {error}")
        copy.add_note(f"Raised by process {self.rank} of {self.count}.")
        return copy


ONE_PROCESS = Processes()


def raised_everywhere(error: BaseException) -> bool:
    """Return whether every process of the run raises this error, so that one report is enough."""
    return bool(getattr(error, "raised_everywhere", False))


def join_processes(device: str | torch.device) -> Processes:
    """Join the processes that a launcher started for this run, if there are several; collective.

    They stay joined until the interpreter exits, so further calls are allowed.

    Args:
        device: "cpu", or "cuda" for the device of each process's rank on its machine.

    Returns:
        This process, as described by RANK, WORLD_SIZE and LOCAL_RANK in the environment. It is the
        only one if WORLD_SIZE is not set or 1.

    Raises:
        ValueError: there is no such device, there are fewer devices than processes, or some of the
            launcher's variables are missing.
        ModuleNotFoundError: there are several processes, and Lightning Fabric is not installed.

    Example:
        >>> join_processes("cpu").count
        1
    """
    place = resolve_device(device)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return Processes(device=place)
    rank, count, local = _number("RANK"), _number("WORLD_SIZE"), _number("LOCAL_RANK")
    local_count = _number("LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in os.environ else count
    if count % local_count:
        raise ValueError(
            f"WORLD_SIZE={count} is no multiple of LOCAL_WORLD_SIZE={local_count}: start the "
            "same number of processes on each machine (torchrun --nnodes=M --nproc-per-node=N)."
        )
    if place.type == "cuda":
        if torch.cuda.device_count() < local_count:
            raise ValueError(
                f"{local_count} processes on this machine and {torch.cuda.device_count()} CUDA "
                "devices: give each process its own (torchrun --nproc-per-node=DEVICES), or "
                "device='cpu'."
            )
        place = torch.device("cuda", local)
    processes = Processes(rank, count, local_count, place, _fabric(place, local_count, count, True))
    with processes.raising_together():
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


def _fabric(place: torch.device, local_count: int, count: int, all_trained: bool) -> Any:
    """Join the processes unless they are already: gloo on CPUs, NCCL on CUDA devices."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"training in several processes needs Lightning Fabric ({error}): "
            "pip install lightning-fabric, or start one process.",
            name=error.name,
        ) from error
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)  # or each process announces itself on stderr
    try:
        fabric = Fabric(
            accelerator=place.type,
            devices=local_count,
            num_nodes=count // local_count,
            strategy=DDPStrategy(find_unused_parameters=not all_trained),
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
    finally:
        logger.setLevel(level)
    atexit.unregister(_leave)  # so that it runs once
    atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Leave the process group without waiting for the others, and end its threads.

    A thread of gloo drops the tensors of a collective after the caller has gone on, and needs the
    GIL for it. If the interpreter is being finalised by then, Python ends the thread by
    `pthread_exit`, which unwinds through a destructor of PyTorch's that may not throw, and the
    process is aborted after all its work was done: "terminate called without an active exception"
    (`take_gil`, called by `~AsyncWork` in `ProcessGroupGloo::runLoop`). So the threads must be
    joined before: by the group's destructor, once nothing refers to the group.
    """
    if not torch.distributed.is_initialized():
        return
    group = torch.distributed.group.WORLD
    torch.distributed.destroy_process_group()
    # The group is also held by each DistributedDataParallel, and these by the frames of errors.
    for name in ("last_type", "last_value", "last_traceback"):
        sys.__dict__.pop(name, None)
    gc.collect()
    # The last reference must be Python's own, which is dropped without the GIL. With the GIL held,
    # as a DistributedDataParallel drops its reference, joining could wait for ever.
    del group
