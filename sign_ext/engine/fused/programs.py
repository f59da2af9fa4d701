"""Compiled programs: recorded, checked against autograd, and kept while they hold.

A program is kept for the calls that follow, and the network may change between two calls in ways
that nothing can watch: a global variable, a number that a forward pass read from a tensor. So each
call compares the program's δ with autograd's on one random image, which costs as much as one image
of one step. A program that is further off than rounding ever was is recorded anew.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.build import build
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.trace import trace
from sign_ext.engine.agreement import check_gradient, distance_from_autograd
from sign_ext.engine.trajectory import Problem
from sign_ext.errors import UnsupportedOperation
from sign_ext.eval_state import same_bits
from sign_ext.network_state import StructureWatch, constants_of, weights_digest
from sign_ext.probe import ImageStatistics, random_images, statistics_of
from sign_ext.source_layer import Phi

PROGRAMS_KEPT = 4  # image shapes at a time
SUPPORTED = (torch.float32, torch.float64, torch.bfloat16)  # dtypes of networks
RANDOM_IMAGES = 3  # at which a new program is checked, beside the caller's first
# A kept program is looked at again where it is further from autograd than this, and than this many
# times what rounding was before. To look again costs a recording, so that the bound may be tight.
LEAST_ERROR = 1e-4
MARGIN = 3.0


@dataclass
class _Compiled:
    graph: GraphModule
    constants: list[Tensor]  # what the graph reads that is neither parameter nor buffer
    digest: Hashable
    program: Program
    rounding: float  # the largest distance from autograd that was found to be rounding


class ProgramCache:
    """The compiled programs of one network, kept while they are what the network computes."""

    def __init__(self, network: nn.Module, structure: StructureWatch | None = None) -> None:
        """Keep programs of `network`.

        Args:
            network: the network.
            structure: its watch; None makes one.
        """
        self._network = network
        self._structure = structure if structure is not None else StructureWatch(network)
        self._kept: BoundedCache[Hashable, _Compiled] = BoundedCache(PROGRAMS_KEPT)
        self._drawn = 0  # random images so far: each call has fresh ones

    def get(self, problem: Problem, images: Tensor) -> Program:
        """The program of Φ for images of this shape, as the network is now.

        Args:
            problem: the call's, its network frozen and in evaluation mode.
            images: (N, C, H, W), N ≥ 1.

        Raises:
            UnsupportedOperation: the network has an operation that the compiler does not know, or
                its gradient is not that of its operations.
        """
        dtype, phi = problem.model_dtype, problem.phi
        assert isinstance(phi, Phi)
        if dtype not in SUPPORTED:
            raise UnsupportedOperation(f"networks in {str(dtype).removeprefix('torch.')}")
        like = problem.like or statistics_of(images)
        image_kind = (images.shape[1:], dtype, images.device)

        def key() -> Hashable:
            return (image_kind, phi.source, self._structure.key(problem))

        fresh: list[_Compiled] = []

        def make() -> _Compiled:
            random = self._random(like, images, RANDOM_IMAGES).to(dtype)
            fresh.append(self._compile(phi, images[:1].to(dtype), random))
            return fresh[0]

        before = key()
        kept = self._kept.get_or_make(before, make)
        if fresh:
            # The recording may have shown what the forward pass itself writes.
            if (after := key()) != before:
                self._kept.get_or_make(after, lambda: kept)
        else:
            self._renew(kept, phi, images, like)
        return kept.program

    def _random(self, like: ImageStatistics, images: Tensor, count: int) -> Tensor:
        """Random images shaped as these; other ones each time."""
        self._drawn += 1
        return random_images(like, images.shape[1:], count, self._drawn)

    def _compile(self, phi: Phi, image: Tensor, random: Tensor) -> _Compiled:
        """Record, build and check a program.

        Args:
            phi: Φ.
            image: the caller's first, (1, C, H, W).
            random: others, at which the gradient is checked too.
        """
        with self._structure.running():
            graph = trace(phi, image)
        constants = constants_of(graph, self._network)
        digest = weights_digest(self._network, constants)
        program = build(graph, image.dtype, str(phi.source))
        try:
            rounding = check_gradient(program, phi, torch.cat([image, random]))
        except UnsupportedOperation:
            raise
        except Exception:  # a network may check what it is given, and refuse a random image
            rounding = check_gradient(program, phi, image)
        return _Compiled(graph, constants, digest, program, rounding)

    def _renew(self, kept: _Compiled, phi: Phi, images: Tensor, like: ImageStatistics) -> None:
        """Bring a kept program up to date with the network."""
        dtype = kept.program.seed.dtype
        digest = weights_digest(self._network, kept.constants)
        if kept.digest != digest:
            # The same structure with other weights: the recorded graph still holds.
            kept.program = build(kept.graph, dtype, str(phi.source))
            kept.digest = digest
        random = self._random(like, images, 1).to(dtype)
        try:
            error = distance_from_autograd(kept.program, phi, random)
        except Exception:  # as in `_compile`
            return
        if error <= max(LEAST_ERROR, MARGIN * kept.rounding):
            return
        try:
            new = self._compile(phi, images[:1].to(dtype), random)
        except UnsupportedOperation:
            self._kept.drop(lambda entry: entry is kept)
            raise
        with torch.no_grad():
            old, now = (p.pullback_of_ones(random) for p in (kept.program, new.program))
        kept.rounding = max(new.rounding, kept.rounding if same_bits(old, now) else 0.0)
        if not same_bits(old, now):  # the network has changed; or else it was rounding
            kept.graph, kept.constants = new.graph, new.constants
            kept.digest, kept.program = new.digest, new.program
