"""CUDA streams to record steps on: one for each recorded step that is alive.

cuBLAS works in memory that PyTorch keeps for each pair of a handle (one a thread) and a stream, and
a recorded step holds that memory's address. Two steps recorded on one stream would write there at
the same time if they were replayed at the same time, and since pytorch#175276 dropping either of
them frees the memory under the other (pytorch#193402). So a stream belongs to one recorded step for
as long as the step is alive. The next step that takes the stream reuses its memory: 32 MiB for each
stream and handle on Hopper, 8 MiB elsewhere, unless CUBLAS_WORKSPACE_CONFIG says otherwise.

PyTorch hands out 32 streams of a device in turn. Where more steps are alive than that, some share a
stream, and their replays wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

STREAMS = 32  # of a device and priority that PyTorch hands out, c10/cuda/CUDAStream.h


@dataclass(eq=False)
class CaptureStream:
    """A stream and the recorded steps on it.

    Attributes:
        stream: a `torch.cuda.Stream`.
        steps: how many steps recorded on it are alive.
        broken: whether a capture on it failed: it may still be capturing, and is not used again.
        last: the event after the last replay, where several steps share the stream.
        lock: held while one of several steps that share it is queued.
    """

    stream: Any
    steps: int = 0
    broken: bool = False
    last: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_shared(self) -> bool:
        """Whether replays have to wait for each other."""
        return self.steps > 1


class CaptureStreams:
    """Lends out the streams of each device."""

    def __init__(self, make: Callable[[torch.device], Any] = torch.cuda.Stream) -> None:
        """`make` asks PyTorch for the next of a device's streams, in turn."""
        self._make = make
        self._known: dict[torch.device, list[CaptureStream]] = {}
        self._lock = threading.Lock()

    def take(self, device: torch.device) -> CaptureStream:
        """A stream that no recorded step uses; where all are in use, one that the fewest share.

        Args:
            device: a CUDA device.
        """
        with self._lock:
            known = self._known.setdefault(device, [])
            usable = [each for each in known if not each.broken]
            # A free stream first, which has its cuBLAS memory already.
            taken = next((each for each in usable if not each.steps), None)
            taken = taken or self._new_stream(device, known)
            taken = taken or min(usable, key=lambda each: each.steps, default=None)
            if taken is None:  # all 32 are broken: one of them has to do
                taken = CaptureStream(self._make(device))
            taken.steps += 1
            return taken

    def _new_stream(self, device: torch.device, known: list[CaptureStream]) -> CaptureStream | None:
        """A stream that was not lent before, or None.

        Others take from PyTorch's pool as well, so the next in turn may be one that is known.
        """
        for _ in range(STREAMS):
            stream = self._make(device)
            if all(stream != each.stream for each in known):
                known.append(CaptureStream(stream))
                return known[-1]
        return None

    def give_back(self, stream: CaptureStream) -> None:
        """A step recorded on it was dropped, or its capture failed.

        Args:
            stream: from `take`.
        """
        with self._lock:
            stream.steps -= 1


class RecordedStep:
    """Replays a step on the current stream; gives its capture stream back when it is dropped."""

    def __init__(
        self, graph: torch.cuda.CUDAGraph, stream: CaptureStream, streams: CaptureStreams
    ) -> None:
        """`graph` was captured on `stream`, which is one of `streams`."""
        self._graph: torch.cuda.CUDAGraph | None = graph
        self._stream = stream
        self._streams = streams

    def __call__(self) -> None:
        """Queue the step and return."""
        assert self._graph is not None
        on = self._stream
        if not on.is_shared:
            self._graph.replay()
            return
        # Replays on different streams would use the same cuBLAS memory at once: each waits for the
        # one before. The lock keeps another thread from queueing between the wait and the record.
        with on.lock:
            current = torch.cuda.current_stream(on.stream.device)
            if on.last is not None:
                current.wait_event(on.last)
            self._graph.replay()
            on.last = current.record_event()

    def __del__(self) -> None:
        """Drop the graph first: PyTorch may free the stream's cuBLAS memory with it.

        Were the stream given back before, another step could be recorded on it, with the address of
        that memory, while it is freed.
        """
        self._graph = None
        self._streams.give_back(self._stream)
