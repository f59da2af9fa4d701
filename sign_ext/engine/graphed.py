"""The `graphed` backend: one step recorded as a CUDA graph for each batch shape, replayed K times.

A step of a small network is hundreds of short kernels; replaying a graph launches them all at
once, with no Python, allocation or synchronisation between them. `record_cuda_graph` serves the
compiled backends too.

A capture that fails half-way leaves PyTorch's random generator and allocator in the middle of it.
So the usual cause, a forward pass that reads a value back to the host, is looked for in a warm-up
step, before anything is captured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sign_ext.bounded_cache import BoundedCache
from sign_ext.engine.capture_streams import CaptureStream, CaptureStreams, RecordedStep
from sign_ext.engine.eager import EagerLayouts
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.trajectory import Problem, Trajectory, without_autocast
from sign_ext.errors import BackendError
from sign_ext.eval_state import why_not_recorded
from sign_ext.network_state import StructureWatch
from sign_ext.probe import pullback, random_images, relative_distances, statistics_of

# From a step and its device to a function that replays it.
Record = Callable[[Callable[[], None], torch.device], Callable[[], None]]

WARM_UP_STEPS = 3  # libraries load and pick algorithms in the first steps, which no graph may hold
SAME_DELTA = 1e-5  # relative distance of δ at one image, from one call to the next
SAME_STEP = 1e-3  # and of a step from an eager one, which rounding of the iterate makes coarser
GRAPHS_KEPT = 4  # batch shapes at a time: a full batch, a partial one, and two of an earlier call

_capture_lock = threading.Lock()  # CUDA captures one graph at a time in a process
_streams = CaptureStreams()

_aten = torch.ops.aten
# Operations after which the host needs a value, or a shape that depends on values, to go on.
_HOST_SYNCS = {
    _aten._local_scalar_dense.default: "reads a value back (.item(), or a branch on a tensor)",
    _aten.equal.default: "compares tensors and branches on it",
    _aten.nonzero.default: "makes a tensor whose size depends on values (nonzero)",
    _aten.masked_select.default: "makes a tensor whose size depends on values (masked_select)",
    _aten._unique2.default: "makes a tensor whose size depends on values (unique)",
    _aten.repeat_interleave.Tensor: "makes a tensor whose size depends on values",
}


def _not_capturable(reason: str) -> BackendError:
    return BackendError(
        f"a step of this network cannot be captured as a CUDA graph: {reason}. "
        'backend="autograd" runs it'
    )


class _ForbidHostSync(TorchDispatchMode):
    """Raises at the first operation of this thread that makes the host wait for the device."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        reason = _HOST_SYNCS.get(func)
        if func is _aten._to_copy.default and _copies_to_host(args[0], kwargs or {}):
            reason = "copies a tensor to the host"
        if reason is not None:
            raise _not_capturable(f"it {reason}")
        return func(*args, **(kwargs or {}))


def _copies_to_host(tensor: Tensor, options: Mapping[str, Any]) -> bool:
    target = options.get("device")
    return tensor.is_cuda and target is not None and torch.device(target).type == "cpu"


def forbid_host_sync(step: Callable[[], object]) -> None:
    """Run `step`, and raise BackendError at the first operation that waits for the device.

    Args:
        step: what is to be captured later.
    """
    with _ForbidHostSync():
        step()


def record_cuda_graph(step: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """Capture `step`, which touches only fixed buffers, and return what replays it.

    Steps recorded by separate calls may be replayed at the same time.

    Raises:
        BackendError: the step cannot be captured, for example because it waits for the device.
    """
    with _capture_lock:
        on = _streams.take(device)
        try:
            graph = _capture(step, device, on)
        except BaseException:
            _streams.give_back(on)
            raise
        return RecordedStep(graph, on, _streams)


def _capture(
    step: Callable[[], object], device: torch.device, on: CaptureStream
) -> torch.cuda.CUDAGraph:
    """Warm up and capture on one stream.

    The warm-up runs on the capture stream, so that what libraries keep for each stream, such as
    cuBLAS's workspace, exists before the capture. It uses buffers that the current stream may have
    yet to write, and writes some that the current stream will use: each waits for the other.
    """
    graph = torch.cuda.CUDAGraph()
    stream = on.stream
    # A capture that fails does not restore the current stream: the inner context, which sets what
    # is current already, does so when it is left.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            forbid_host_sync(step)
            for _ in range(WARM_UP_STEPS):
                step()
        torch.cuda.current_stream(device).wait_stream(stream)
        try:
            # Other threads, such as a data loader that pins memory, may go on using CUDA.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                step()
        except RuntimeError as error:
            on.broken = True  # it may still be capturing
            raise _not_capturable(str(error).strip().splitlines()[0]) from error
    return graph


class GraphedTrajectory(Trajectory):
    """A trajectory whose step is recorded when it is made and replayed from then on."""

    def __init__(
        self,
        problem: Problem,
        images: Tensor,
        record: Record,
        layout: torch.memory_format,
        target: Target = NO_TARGET,
    ) -> None:
        """Allocate the buffers in a layout and record a step on them."""
        super().__init__(problem, images, layout, target)
        self.changes = 0  # of δ at an image, when the recorded step was last known to be right
        # Warm-up steps are real steps: they need finite images, and `start` resets what they moved.
        super().start(images, target)
        self._replay = record(self.step, images.device)

    def advance(self, steps: int) -> None:
        """p*_k → p*_{k+steps}, by replaying the recorded step."""
        for _ in range(steps):
            self._replay()


def weights_key(model: nn.Module) -> tuple[object, ...]:
    """Where a network's weights are in memory: a graph reads these addresses.

    Weights changed in place are therefore seen by a recorded graph; weights in other memory
    (`model.to`, a replaced parameter) change the key, and the step is recorded anew.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return tuple((t.data_ptr(), t.shape, t.stride(), t.dtype) for t in tensors)


@dataclass
class _Seen:
    problem: Problem
    image: Tensor
    delta: Tensor
    changes: int


class GraphedEngine:
    """Starts graphed trajectories, keeping the graphs of the last few batch shapes."""

    name = "graphed"

    def __init__(
        self,
        model: nn.Module,
        record: Record = record_cuda_graph,
        structure: StructureWatch | None = None,
        layouts: EagerLayouts | None = None,
    ) -> None:
        """Keep graphs of a network.

        Args:
            model: the network.
            record: turns a step into its replay.
            structure: the network's watch; None makes one.
            layouts: decides the iterates' layout; None makes one.
        """
        self._model = model
        self._structure = structure if structure is not None else StructureWatch(model)
        self._layouts = layouts or EagerLayouts(self._structure)
        self._record = record
        self._kept: BoundedCache[object, GraphedTrajectory] = BoundedCache(GRAPHS_KEPT)
        # By kind of image: one image, and δ there in the last call.
        self._seen: dict[Hashable, _Seen] = {}

    def start(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied, towards a target.

        It is valid until the next call that starts one of the same shape.
        """
        if why := why_not_recorded(self._model):
            raise _not_capturable(why)
        changes = self._changes(problem, images)
        batch = (images.shape, images.dtype, images.device)
        network = (self._structure.key(problem), weights_key(self._model))
        layout = self._layouts.choose(problem, images).format
        key = (batch, problem.settings.of_a_step, target.kind, layout, network)
        about = (problem, images)
        trajectory = self._kept.get_or_make(
            key,
            lambda: GraphedTrajectory(*about, self._record, layout, target),
            lambda kept: kept.changes == changes or _steps_as_eager(kept, *about, layout, target),
        )
        trajectory.changes = changes
        trajectory.start(images, target)
        return trajectory

    def _changes(self, problem: Problem, images: Tensor) -> int:
        """How often δ at an image was another one than in the call before.

        A graph holds the numbers that the forward pass read from Python, which nothing can watch
        completely. Weights that changed in place, which a graph reads anew, show here as well. It
        costs one eager image in a call.
        """
        kind = (images.shape[1:], images.dtype, images.device)
        seen = self._seen.get(kind)
        if seen is not None and seen.problem is problem:
            return seen.changes
        if seen is None:
            like = problem.like or statistics_of(images)
            image = random_images(like, images.shape[1:], 1, 0).to(problem.model_dtype)
        else:
            image = seen.image
        try:
            with without_autocast(images.device):
                _, delta = pullback(problem.phi, image)
        except Exception:  # a network may check what it is given, and refuse a random image
            return 0 if seen is None else seen.changes
        changes = 0
        if seen is not None:
            changes = seen.changes + (not _near(delta, seen.delta, SAME_DELTA))
        self._seen[kind] = _Seen(problem, image, delta, changes)
        return changes


def _steps_as_eager(
    kept: GraphedTrajectory,
    problem: Problem,
    images: Tensor,
    layout: torch.memory_format,
    target: Target,
) -> bool:
    """Whether a recorded step moves the first image, or finds its gradient, as an eager one."""
    kept.start(images, target)
    kept.advance(1)
    eager = Trajectory(problem, images[:1], layout, target[:1])
    eager.start(images[:1], target[:1])
    start = eager.iterate.clone()
    eager.step()
    if kept.gradient is not None and eager.gradient is not None:
        return _near(kept.gradient[:1], eager.gradient, SAME_STEP)
    return _near(kept.iterate[:1] - start, eager.iterate - start, SAME_STEP)


def _near(got: Tensor, expected: Tensor, most: float) -> bool:
    return float(relative_distances(got, expected).max()) <= most
