"""The `autograd` backend, and the layout in which a network's own forward pass runs.

2-d convolutions are faster in channels_last, and most networks do not notice. Some do: `.view` of
an activation raises, and strides written by hand silently take other pixels. So both layouts run
once, on one image, and channels_last is taken where convolutions ran and δ is the same.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.bounded_cache import BoundedCache
from sign_ext.engine.agreement import TOLERANCE, relative_distance
from sign_ext.engine.objective import NO_TARGET, Target
from sign_ext.engine.trajectory import Problem, Trajectory
from sign_ext.errors import first_line
from sign_ext.network_state import StructureWatch

LAYOUTS_KEPT = 8  # kinds of images at a time


@dataclass(frozen=True)
class Layout:
    """The layout of an iterate.

    Attributes:
        format: channels_last, or the images' own.
        why: why it is the images' own although convolutions run; "" otherwise.
    """

    format: torch.memory_format
    why: str = ""


class EagerLayouts:
    """Decides the layouts, once for each kind of images; several threads may use it."""

    def __init__(self, structure: StructureWatch | None = None) -> None:
        """Nothing is decided yet.

        Args:
            structure: the network's watch; None decides anew for each Φ.
        """
        self._structure = structure
        self._free = threading.RLock()
        self._kept: BoundedCache[Hashable, Layout] = BoundedCache(LAYOUTS_KEPT)

    def clear(self) -> None:
        """Decide anew."""
        with self._free:
            self._kept = BoundedCache(LAYOUTS_KEPT)

    def choose(self, problem: Problem, images: Tensor) -> Layout:
        """The layout for images like these.

        Args:
            problem: the call's.
            images: (N, ...), N ≥ 1.

        Raises:
            Exception: what the network raises where it runs in neither layout.
        """
        key = self._key(problem, images)
        with self._free:
            return self._kept.get_or_make(key, lambda: _choose(problem, images))

    def rule_out(self, problem: Problem, images: Tensor, why: str) -> bool:
        """Take the images' own layout from now on; False if that is what was taken already.

        Args:
            problem: the call's.
            images: whose steps failed.
            why: the failure.
        """
        own = own_layout(images)
        key = self._key(problem, images)
        with self._free:
            if self.choose(problem, images).format == own:
                return False
            self._kept.drop_key(key)
            self._kept.get_or_make(key, lambda: Layout(own, why))
        return True

    def _key(self, problem: Problem, images: Tensor) -> Hashable:
        phi = problem.phi
        network = id(phi) if self._structure is None else self._structure.key(problem)
        source = getattr(phi, "source", None)
        kind = (images.shape[1:], own_layout(images), images.device)
        precision, inputs = problem.settings.precision, problem.inputs.key
        return (kind, problem.model_dtype, precision, network, source, inputs)


def own_layout(images: Tensor) -> torch.memory_format:
    """The images' own layout: channels_last where they are that and not contiguous."""
    if not images.is_contiguous():
        for layout, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
            if images.dim() == dims and images.is_contiguous(memory_format=layout):
                return layout
    return torch.contiguous_format


def _choose(problem: Problem, images: Tensor) -> Layout:
    own = own_layout(images)
    if images.dim() != 4 or own == torch.channels_last:
        return Layout(own)
    few = images[:1].detach().to(problem.model_dtype)
    try:
        expected, value = _run(problem, few, own)
    except Exception:  # whatever the network's code raises
        # One image may be too few, as for an exported network whose batch size is fixed.
        few = images.detach().to(problem.model_dtype)
        try:
            expected, value = _run(problem, few, own)
        except Exception as error:
            return _only_channels_last(problem, few, error)
    if not _has_convolution(value):
        return Layout(own)
    del value
    try:
        got, _ = _run(problem, few, torch.channels_last)
    except Exception as error:
        return Layout(own, f"channels_last fails: {first_line(error)}")
    distance = relative_distance(got, expected)
    if distance > TOLERANCE.get(problem.model_dtype, 0.3):
        return Layout(own, f"δ differs by {distance:.0%} in channels_last")
    return Layout(torch.channels_last)


def _only_channels_last(problem: Problem, images: Tensor, error: Exception) -> Layout:
    """channels_last, if Φ runs in that although the images' own layout raised `error`."""
    try:
        _run(problem, images, torch.channels_last)
    except Exception:
        raise error from None
    return Layout(torch.channels_last)


def _run(problem: Problem, images: Tensor, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    """δ and Φ in a layout, with the same random numbers in each."""
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        # A copy in that layout also where one channel makes the layouts look the same.
        return problem.pullback_of_ones(
            torch.empty_like(images, memory_format=layout).copy_(images)
        )


def _has_convolution(value: Tensor) -> bool:
    """Whether a convolution is in a value's graph."""
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if "Convolution" in node.name():
            return True
        seen.add(node)
        todo.extend(parent for parent, _ in node.next_functions)
    return False


class AutogradEngine:
    """Starts eager trajectories."""

    name = "autograd"

    def __init__(self, layouts: EagerLayouts | None = None) -> None:
        """`layouts` decides how the iterate is laid out."""
        self._layouts = layouts or EagerLayouts()

    def start(self, problem: Problem, images: Tensor, target: Target = NO_TARGET) -> Trajectory:
        """A trajectory at p*_0 = `images` (N, ...), which are copied, towards a target."""
        layout = self._layouts.choose(problem, images).format
        trajectory = Trajectory(problem, images, layout, target)
        trajectory.start(images, target)
        return trajectory
