"""Transfers between host and device that overlap with computing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Staging:
    """On a CPU there is no transfer: images are converted, results are copied to their rows.

    Args:
        device: of the network.
    """

    pinned = False  # whether the rows that results are copied to must be pinned memory

    def __init__(self, device: torch.device) -> None:
        """Keep the device."""
        self.device = device

    def upload(self, images: Tensor) -> Any:
        """Start copying images to the device; called on the reading threads.

        Args:
            images: uint8 (n, C, H, W) on the CPU.
        """
        return images

    def receive(self, uploaded: Any) -> Tensor:
        """Return uploaded images as float32 on the device.

        Args:
            uploaded: what `upload` returned.
        """
        images: Tensor = uploaded
        return images.to(torch.float32)

    def download(self, results: Mapping[int, Tensor], into: Mapping[int, Tensor]) -> None:
        """Start copying results to the host, rounded to the dtype of their rows.

        Args:
            results: number of steps → float32 images on the device.
            into: number of steps → rows on the CPU.
        """
        for step, images in results.items():
            if into[step].data_ptr() != images.data_ptr():
                into[step].copy_(images)

    def download_barrier(self) -> Callable[[], None]:
        """Return a function that waits for every download started so far."""
        return lambda: None


class CudaStaging(Staging):
    """On CUDA: pinned memory and one stream in each direction; the computing stream never waits.

    Args:
        device: of the network.
    """

    pinned = True

    def __init__(self, device: torch.device) -> None:
        """Create the two streams."""
        super().__init__(device)
        self._up = torch.cuda.Stream(device)
        self._down = torch.cuda.Stream(device)

    def upload(self, images: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Copy from pinned memory on the upload stream."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._up):
            on_device = images.pin_memory().to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._up)
        return on_device, copied

    def receive(self, uploaded: Any) -> Tensor:
        """Make the computing stream, not this thread, wait for the copy."""
        images: Tensor = uploaded[0]
        current = torch.cuda.current_stream(self.device)
        current.wait_event(uploaded[1])
        # Allocated on the upload stream: the allocator must not reuse the memory before the
        # computing stream has read it.
        images.record_stream(current)
        return images.to(torch.float32)

    def download(self, results: Mapping[int, Tensor], into: Mapping[int, Tensor]) -> None:
        """Round on the computing stream, copy on the download stream."""
        ready = [(results[k].to(rows.dtype), rows) for k, rows in into.items()]
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            for images, rows in ready:
                rows.copy_(images, non_blocking=True)
                images.record_stream(self._down)  # as in `receive`, the other way round

    def download_barrier(self) -> Callable[[], None]:
        """Record an event on the download stream."""
        event = torch.cuda.Event()
        event.record(self._down)
        return event.synchronize


def staging_for(device: torch.device) -> Staging:
    """Return the staging of a device.

    Args:
        device: of the network.
    """
    return CudaStaging(device) if device.type == "cuda" else Staging(device)
