"""nn.Module → Program: trace, lower, simplify, fold the head into the cotangent."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import GraphModule

import sign_ext.compiler.rules  # noqa: F401  # importing registers the rules
from sign_ext.compiler.fold import drop_dead, simplify
from sign_ext.compiler.ir.op import Op
from sign_ext.compiler.ir.program import Program, renumber
from sign_ext.compiler.islands import lower_with_islands
from sign_ext.compiler.lower import lower
from sign_ext.compiler.recordings import SECOND_IMAGES
from sign_ext.compiler.trace import trace
from sign_ext.errors import UnsupportedOperation
from sign_ext.source_layer import Phi


def compile_phi(phi: Phi, image: Tensor, *, strict: bool = False) -> Program:
    """The program of Φ for images of one shape.

    Args:
        phi: Φ, its network frozen and in evaluation mode.
        image: (1, C, H, W), of the network's dtype and device.
        strict: whether to refuse what the compiler has no rule for, instead of making islands.

    Raises:
        UnsupportedOperation: the forward pass does what the compiler does not know; the message
            names it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from sign_ext.source_layer import Phi, SourceLayer
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> phi = Phi(net.requires_grad_(False), SourceLayer("3", "input", "Linear 36 → 2"))
        >>> program = compile_phi(phi, torch.rand(1, 3, 5, 5))
        >>> [str(op) for op in program.ops]
        ['convolution 3×3 + relu']
    """
    return build(
        trace(phi, image),
        image.dtype,
        str(phi.source),
        again=recording_again(phi, image),
        strict=strict,
        by_objective=phi.source.by_objective,
    )


def recording_again(phi: Phi, image: Tensor) -> Callable[[], GraphModule]:
    """Records the same for another number of images, which `build` may need.

    Args:
        phi: Φ, its network frozen and in evaluation mode.
        image: (1, C, H, W), of the network's dtype and device.
    """
    return lambda: trace(phi, image, SECOND_IMAGES)


def build(
    graph: GraphModule,
    dtype: torch.dtype,
    source: str = "",
    *,
    again: Callable[[], GraphModule] | None = None,
    strict: bool = False,
    by_objective: bool = False,
) -> Program:
    """The program of a recorded graph, with the weights' values as they are now.

    Args:
        graph: from `trace`. Where it needs islands it is rewritten, once.
        dtype: of the network.
        source: a description of where Φ is read.
        again: records the same for another number of images (`recording_again`), which islands
            and images that are merged with something else need. None refuses both.
        strict: whether to refuse what has no rule, instead of making islands.
        by_objective: whether the program is to have the whole output, of which an objective makes
            the cotangent, instead of the cotangent of ones before the linear operations at the end.

    Raises:
        UnsupportedOperation: the forward pass does what the compiler does not know.
    """
    with torch.no_grad():
        try:
            ops, output, image_shape = lower(graph, again)
        except UnsupportedOperation:
            if again is None or strict:
                raise
            ops, output, image_shape = lower_with_islands(graph, again)
        ops, output = simplify(ops, output)
        if not _reaches_the_image(ops, output):
            raise UnsupportedOperation("Φ does not depend on the images")
        fold = _ones_at_output if by_objective else _fold_head
        ops, output, seed, folded = fold(ops, output)
        ops, _ = renumber(ops, output)
        return Program(
            image_shape=image_shape,
            ops=tuple(op.with_constants(lambda c: c.to(dtype)) for op in ops),
            seed=seed.to(dtype).contiguous(),
            folded=folded,
            source=source,
            by_objective=by_objective,
        )


def _reaches_the_image(ops: list[Op], output: int) -> bool:
    return output == 0 or any(0 in op.inputs for op in ops)


def _ones_at_output(ops: list[Op], output: int) -> tuple[list[Op], int, Tensor, tuple[str, ...]]:
    """The whole network, and a cotangent of ones at its output, by which it can be checked."""
    last = next(op for op in ops if op.output == output) if output else None
    device = next((t.device for op in ops for t in op.constants()), torch.device("cpu"))
    seed = torch.ones(() if last is None else last.shape, dtype=torch.float64, device=device)
    return drop_dead(ops, output), output, seed, ()


def _fold_head(ops: list[Op], output: int) -> tuple[list[Op], int, Tensor, tuple[str, ...]]:
    """Fold the linear operations at the end into the cotangent of ones: a constant vjp of each.

    The sum, the mean, global average pooling, a last linear or convolution.
    """
    tensors = [t for op in ops for t in op.constants()]
    device = tensors[0].device if tensors else torch.device("cpu")
    made_by = {op.output: op for op in ops}
    shape = made_by[output].shape if output else ()
    seed = torch.ones((1, *shape), dtype=torch.float64, device=device)
    folded: list[str] = []
    while (op := made_by.get(output)) is not None and op.is_linear and len(op.inputs) == 1:
        exact = op.with_constants(Tensor.double)
        (seed,) = exact.linear_vjp(seed, None)
        folded.append(str(op))
        output = op.inputs[0]
    return drop_dead(ops, output), output, seed[0], tuple(folded)
