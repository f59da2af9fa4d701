"""Images on their way to the device and back, beside the computing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Staging:
    """On a CPU: images become float32, results are written where they belong.

    Args:
        device: where the network is.
    """

    pinned = False

    def __init__(self, device: torch.device) -> None:
        """Remember the device."""
        self.device = device

    def upload(self, images: Tensor) -> Any:
        """Begin to bring images to the device; called on the reading threads.

        Args:
            images: uint8 (n, C, H, W) on the CPU.
        """
        return images

    def arrived(self, uploaded: Any) -> Tensor:
        """Take what `upload` began, as float32 on the device.

        Args:
            uploaded: what it returned.
        """
        images: Tensor = uploaded
        return images.to(torch.float32)

    def download(self, results: Mapping[int, Tensor], into: Mapping[int, Tensor]) -> None:
        """Begin to bring results back, rounded to the dtype of where they go.

        Args:
            results: number of steps → float32 images on the device.
            into: number of steps → rows on the CPU.
        """
        for step, images in results.items():
            if into[step].data_ptr() != images.data_ptr():
                into[step].copy_(images)

    def landed(self) -> Callable[[], None]:
        """Return a function that waits until every download begun so far is done."""
        return lambda: None


class CudaStaging(Staging):
    """On CUDA: a stream for each way, from and to pinned memory; the computing never waits.

    Args:
        device: where the network is.
    """

    pinned = True

    def __init__(self, device: torch.device) -> None:
        """Make the two streams."""
        super().__init__(device)
        self._up = torch.cuda.Stream(device)
        self._down = torch.cuda.Stream(device)

    def upload(self, images: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        """Copy from pinned memory on the upload stream."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._up):
            there = images.pin_memory().to(self.device, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self._up)
        return there, arrived

    def arrived(self, uploaded: Any) -> Tensor:
        """Let the computing stream, not this thread, wait for the copy."""
        images: Tensor = uploaded[0]
        current = torch.cuda.current_stream(self.device)
        current.wait_event(uploaded[1])
        images.record_stream(current)
        return images.to(torch.float32)

    def download(self, results: Mapping[int, Tensor], into: Mapping[int, Tensor]) -> None:
        """Round on the computing stream, copy on the download stream."""
        ready = [(results[k].to(rows.dtype), rows) for k, rows in into.items()]
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            for images, rows in ready:
                rows.copy_(images, non_blocking=True)
                images.record_stream(self._down)

    def landed(self) -> Callable[[], None]:
        """Mark the download stream as it is now."""
        event = torch.cuda.Event()
        event.record(self._down)
        return event.synchronize


def staging_for(device: torch.device) -> Staging:
    """The staging of a device.

    Args:
        device: where the network is.
    """
    return CudaStaging(device) if device.type == "cuda" else Staging(device)
