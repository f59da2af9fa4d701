"""Record a network up to its source layer as a graph of ATen operations.

The network runs once, in evaluation mode. The graph holds what ran: the branches that were taken,
what hooks did, and nothing after the source layer. `network_state` says later whether the graph,
and the constants folded from it, still hold.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.fx import GraphModule

from sign_ext.compiler.record import record
from sign_ext.errors import UnsupportedOperation

TRACED_IMAGES = 2  # a batch of one would hide operations that mix images


def trace(
    phi: Callable[[Tensor], Tensor], image: Tensor, images: int = TRACED_IMAGES
) -> GraphModule:
    """Record Φ on one image, repeated to a batch.

    Args:
        phi: Φ, its network frozen and in evaluation mode.
        image: (1, C, H, W), of the network's dtype and device.
        images: how often.

    Returns:
        A graph with one placeholder and one output; weights are the network's own tensors, whose
        names in the network are "weight" in the meta of the nodes that read them.

    Raises:
        UnsupportedOperation: the forward pass reads values back, or cannot be recorded.
    """
    batch = image.repeat(images, *[1] * (image.dim() - 1))
    try:
        graph = record(phi, batch)
    except UnsupportedOperation:
        raise
    except Exception as error:  # whatever user code raises below autograd
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnsupportedOperation(
            f"the forward pass cannot be recorded as a graph: {reason}"
        ) from error
    model = getattr(phi, "model", None)
    if isinstance(model, nn.Module):
        tensors = (*model.named_parameters(), *model.named_buffers())
        names = {id(tensor): name for name, tensor in tensors}
        for node in graph.graph.nodes:
            if node.op == "get_attr":
                node.meta["weight"] = names.get(id(getattr(graph, str(node.target))), "")
    return graph
