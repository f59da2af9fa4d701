"""Streams to record steps on, one for each recorded step that is alive.

cuBLAS works in memory that PyTorch keeps for each pair of a handle (one a thread) and a stream, and
a recorded step has that memory's address in it. Two steps recorded on one stream would write there
at the same time if they were replayed at the same time, and since pytorch#175276 dropping either of
them frees the memory under the other (pytorch#193402). So a stream belongs to one recorded step for
as long as that is alive; the next step that takes it finds its memory too. That is 32 MiB a stream
and handle on Hopper, 8 MiB elsewhere, unless CUBLAS_WORKSPACE_CONFIG says otherwise.

PyTorch hands out 32 streams of a device in turn. Where more steps than that are alive some share a
stream, and the replays of those wait for each other.
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
        steps: how many recorded on it are alive.
        broken: whether a failed capture may have left it in the middle of one.
        last: the event behind the last replay, where several steps share the stream.
        lock: held while a replay of several is queued.
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
    """Gives out streams of devices and takes them back."""

    def __init__(self, make: Callable[[torch.device], Any] = torch.cuda.Stream) -> None:
        """`make` asks PyTorch for the next of a device's streams."""
        self._make = make
        self._known: dict[torch.device, list[CaptureStream]] = {}
        self._lock = threading.Lock()

    def take(self, device: torch.device) -> CaptureStream:
        """A stream that no recorded step has; where all are taken, the one that fewest share.

        Args:
            device: a CUDA device.
        """
        with self._lock:
            known = self._known.setdefault(device, [])
            whole = [each for each in known if not each.broken]
            free = next((each for each in whole if not each.steps), None)
            taken = free or self._another(device, known)
            if taken is None:
                # Where all are broken, a new one has to do.
                taken = min(whole, key=lambda each: each.steps, default=None) or CaptureStream(
                    self._make(device)
                )
            taken.steps += 1
            return taken

    def _another(self, device: torch.device, known: list[CaptureStream]) -> CaptureStream | None:
        """One that was not given out before, or None."""
        for _ in range(STREAMS):
            stream = self._make(device)
            if all(stream != each.stream for each in known):
                known.append(CaptureStream(stream))
                return known[-1]
        return None

    def give_back(self, stream: CaptureStream) -> None:
        """A step recorded on it is no more.

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
        with on.lock:
            current = torch.cuda.current_stream(on.stream.device)
            if on.last is not None:
                current.wait_event(on.last)
            self._graph.replay()
            on.last = current.record_event()

    def __del__(self) -> None:
        """The graph goes first: PyTorch may free the stream's cuBLAS memory with it."""
        self._graph = None
        self._streams.give_back(self._stream)
