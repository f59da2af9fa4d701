"""The compiled programs of one network, kept while its structure and its weights stay the same."""

from __future__ import annotations

import copy
import gc
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.bounded_cache import BoundedCache
from sign_ext.compiler.build import build
from sign_ext.compiler.ir.program import Program
from sign_ext.compiler.trace import structure_key, trace, weights_digest
from sign_ext.engine.agreement import relative_distance
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi

PROGRAMS_KEPT = 4  # image shapes at a time
SUPPORTED = (torch.float32, torch.float64, torch.bfloat16)
# A compiled δ further than this from autograd's is another function, not rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2, torch.bfloat16: 0.3}


@dataclass
class _Kept:
    graph: GraphModule
    digest: Hashable
    program: Program


class Programs:
    """Compiles on the first use of an image shape and when something has changed."""

    def __init__(self, network: nn.Module) -> None:
        """Keep programs of `network`."""
        self._network = network
        self._kept: BoundedCache[Hashable, _Kept] = BoundedCache(PROGRAMS_KEPT)

    def get(self, phi: Phi, images: Tensor) -> Program:
        """The program of Φ for images of this shape, with the weights as they are now.

        Args:
            phi: Φ, its network frozen and in evaluation mode.
            images: (N, C, H, W), N ≥ 1, of the network's dtype.

        Raises:
            UnsupportedOperation: the network has an operation that the compiler does not know, or
                its gradient is not that of its operations.
        """
        if images.dtype not in SUPPORTED:
            raise UnsupportedOperation(f"networks in {str(images.dtype).removeprefix('torch.')}")
        where = (images.shape[1:], images.dtype, images.device)
        key = (where, phi.source, structure_key(self._network))
        digest = weights_digest(self._network)
        kept = self._kept.get_or_make(key, lambda: _compile(phi, images[:1], digest))
        if kept.digest != digest:
            kept.program = build(kept.graph, images.dtype, str(phi.source))
            kept.digest = digest
        return kept.program


def _compile(phi: Phi, image: Tensor, digest: Hashable) -> _Kept:
    graph = trace(phi, image)
    program = build(graph, image.dtype, str(phi.source))
    check_gradient(program, phi, image)
    return _Kept(graph, digest, program)


def check_gradient(program: Program, phi: Phi, image: Tensor) -> None:
    """Compare the program's δ with autograd's on one image.

    They differ where a network's backward pass is not that of its forward pass: custom autograd
    functions, hooks on gradients. In a deep network rounding alone can differ by percents, where
    it decides the sign of a pre-activation; float64 then tells the two apart.

    Args:
        program: compiled from Φ.
        phi: Φ.
        image: (1, C, H, W), of the network's dtype.

    Raises:
        UnsupportedOperation: they differ by more than rounding.
    """
    error = distance(program, phi, image)
    if error > TOLERANCE[image.dtype] and image.dtype != torch.float64:
        exact = Phi(copy.deepcopy(phi.model).double(), phi.source, phi.kwargs)
        image = image.double()
        graph = trace(exact, image)
        error = distance(build(graph, image.dtype), exact, image)
        del exact, graph
        gc.collect()  # a graph refers to itself: the copy of the weights would stay for a while
    if error > TOLERANCE[image.dtype]:
        raise UnsupportedOperation(
            f"its gradient is not that of its operations (they differ by {error:.0%} on the first "
            "image): a custom autograd function or a hook on gradients changes it"
        )


def distance(program: Program, phi: Phi, image: Tensor) -> float:
    """Relative L2 distance of the program's δ from autograd's; 0 where that is not finite.

    Args:
        program: compiled from Φ.
        phi: Φ.
        image: (1, C, H, W), of the program's dtype.
    """
    with torch.enable_grad():
        x = image.detach().clone().requires_grad_()
        value = phi(x)
        (expected,) = torch.autograd.grad(value, x, torch.ones_like(value))
    with torch.no_grad():
        got = program.pullback_of_ones(image)
    return relative_distance(got, expected)
