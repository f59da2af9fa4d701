"""How many images to work on at a time on a CUDA device where the caller does not say.

It is a fixed rule of the device's kind, its memory and the program's memory plan, not of what
happens to be free: the same call has the same batches, and so the same bits, on the same kind of
device.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sign_ext.compiler.memory_plan import MemoryPlan
from sign_ext.engine.trajectory import Problem, iterate_dtype
from sign_ext.errors import level_of_the_caller
from sign_ext.formatting import bytes_in_words

DEFAULT_BATCH = 128  # images at a time where there is no GPU to fill
# Positions of images for each multiprocessor at least, 32 images of 32×32: a step's short kernels
# then take several times as long as their launches.
POSITIONS = 1 << 15
MOST_A_PROCESSOR = 64  # images, however small they are
# One batch may take the device's memory divided by this. The last batch of a call is smaller and
# records a step with buffers of its own; images and results need memory too.
SHARE = 4
TENSOR_BYTES = 1 << 31  # of one tensor: libraries have no fast kernels for offsets beyond 32 bits
# Bytes that autograd is taken to keep for each position of an image in float32, where there is no
# memory plan: DenseNet-121 and Inception-ResNet-v2 keep 2 to 3 kB.
UNPLANNED = 4096
ITERATES = 4  # tensors of the images' size: iterate, velocity, δ, the network's input


class MemoryPlanner(Protocol):
    """What says how much memory a step needs: `sign_ext.engine.backends.Engines`."""

    def memory(self, problem: Problem, images: Tensor) -> MemoryPlan | None:
        """The compiled step's memory plan, or None where no compiled step will run."""


@dataclass(frozen=True)
class Need:
    """What one image of a batch needs.

    Attributes:
        positions: H·W, or D·H·W.
        bytes: memory while a step runs.
        tensor: its share of the largest tensor in bytes, or 0 where that is not known.
    """

    positions: int
    bytes: int
    tensor: int = 0


def need_of(images: Tensor, iterate: torch.dtype, plan: MemoryPlan | None) -> Need:
    """What an image needs: by the memory plan, or where there is none by its size.

    Args:
        images: (N, C, H, W) or (N, C, D, H, W).
        iterate: dtype of p*.
        plan: the compiled step's, or None.
    """
    positions = max(1, math.prod(images.shape[2:]))
    size = torch.empty((), dtype=iterate).element_size()
    own = ITERATES * math.prod(images.shape[1:]) * size
    if plan is None:
        return Need(positions, own + UNPLANNED // 4 * size * positions)
    return Need(positions, own + plan.peak, plan.largest)


def images_at_once(processors: int, memory: int, need: Need) -> int:
    """The rule: for each multiprocessor the largest power of two that is useful and fits.

    A power of two is divided evenly among the 1, 2, 4 or 8 blocks that share a multiprocessor.
    Where memory holds less than one image for each multiprocessor, it is as many as it holds.

    Args:
        processors: the device's multiprocessors.
        memory: bytes that a batch may take.
        need: what one image needs.

    Returns:
        At least 1.

    Example:
        >>> images_at_once(132, 35 << 30, Need(positions=32 * 32, bytes=1 << 20))
        4224
    """
    fit = memory // max(1, need.bytes)
    if need.tensor:
        fit = min(fit, TENSOR_BYTES // need.tensor)
    useful = min(MOST_A_PROCESSOR, max(1, POSITIONS // need.positions))
    each = min(useful, fit // processors)
    if each < 1:
        return max(1, fit)
    return processors << (each.bit_length() - 1)


def batch_by_rule(device: torch.device, need: Need) -> int:
    """The rule's number for a CUDA device.

    Args:
        device: a CUDA device.
        need: what one image needs.
    """
    chip = torch.cuda.get_device_properties(device)
    return images_at_once(chip.multi_processor_count, chip.total_memory // SHARE, need)


def batch_that_fits(batch: int, need: Need, processors: int, free: int) -> int:
    """The rule's batch, or a smaller one where less memory is free than the rule assumes.

    Args:
        batch: images.
        need: what one image needs.
        processors: the device's multiprocessors.
        free: bytes that can still be allocated.
    """
    if batch * need.bytes <= free:
        return batch
    return min(batch, images_at_once(processors, free, need))


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate: the device's, and what PyTorch keeps unused.

    Args:
        device: a CUDA device.
    """
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


class Batches:
    """The batch sizes of one transform, each decided once for a kind of image."""

    def __init__(self, planner: MemoryPlanner, asked: int | None) -> None:
        """`asked` is the caller's number, or None for the rule."""
        self._planner = planner
        self._asked = asked
        self._rules: dict[Hashable, tuple[int, Need]] = {}
        self._sizes: dict[Hashable, int] = {}

    def rule(self, problem: Problem, images: Tensor) -> int:
        """How many images like these to work on at a time, if there are so many.

        Args:
            problem: the call's.
            images: (N, ...).
        """
        if self._asked is not None:
            return self._asked
        if images.device.type != "cuda":
            return DEFAULT_BATCH
        return self._rule(problem, images)[0]

    def _rule(self, problem: Problem, images: Tensor, *, keep: bool = False) -> tuple[int, Need]:
        """The rule's number and the need that it follows from; kept only where a call is to run."""
        key = (images.shape[1:], images.device, problem.model_dtype)
        if key in self._rules:
            return self._rules[key]
        plan = self._planner.memory(problem, images)
        need = need_of(images, iterate_dtype(problem.model_dtype), plan)
        found = (batch_by_rule(images.device, need), need)
        if keep:
            self._rules[key] = found
        return found

    def size(self, problem: Problem, images: Tensor) -> int:
        """How many of these images to work on at a time; warns where memory is short.

        Args:
            problem: the call's.
            images: all of the call's, (N, ...), N ≥ 1.
        """
        if self._asked is not None or images.device.type != "cuda":
            return min(self.rule(problem, images), len(images))
        by_rule, need = self._rule(problem, images, keep=True)
        size = min(by_rule, len(images))
        # Decided once: in the next call the memory that the recorded step holds is not free.
        key = (size, images.shape[1:], images.device, problem.model_dtype)
        if key not in self._sizes:
            self._sizes[key] = self._fitting(size, need, images.device)
        return self._sizes[key]

    def _fitting(self, size: int, need: Need, device: torch.device) -> int:
        free = free_memory(device)
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        fits = batch_that_fits(size, need, processors, free)
        if fits < size:
            warnings.warn(
                f"{size:,} images at a time need about {bytes_in_words(size * need.bytes)}, and "
                f"{bytes_in_words(free)} are free on {device}: using {fits:,} at a time. The last "
                "bits may differ from a call with more memory. Pass batch_size to fix the number",
                RuntimeWarning,
                stacklevel=level_of_the_caller(),
            )
        return fits
