"""What both finding and checking Φ refuse: reentrant checkpoints, images without a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sign_ext.source_layer.phi import in_this_thread

REENTRANT = (
    "{} uses torch.utils.checkpoint with use_reentrant=True, through which torch.autograd.grad "
    "cannot pass: use use_reentrant=False, or switch checkpointing off for SIGN, which does not "
    "need it (model.gradient_checkpointing_disable() in transformers)"
)


@contextmanager
def batched(model: nn.Module, images: Tensor) -> Iterator[None]:
    """Refuse, while the block runs the network, a convolution that takes the batch for channels.

    PyTorch's convolutions accept one sample without a batch dimension, so that an image (C, H, W)
    among networks for (N, C, H, W) would be taken for a batch of C rows.

    Raises:
        ValueError: images lack the batch dimension.
    """

    @in_this_thread
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        given = args[0] if args else None
        if isinstance(given, Tensor) and given.dim() == images.dim():
            wanted = "(N, C, H, W)" if spatial is nn.Conv2d else "(N, C, D, H, W)"
            raise ValueError(
                f"images of {images.dim()} dimensions do not fit the {type(module).__name__} layers"
                f" of this network, which take {wanted}; for one image add the batch dimension: "
                "images[None]"
            )

    # The convolution of one rank more than the images have.
    spatial = {3: nn.Conv2d, 4: nn.Conv3d}.get(images.dim())
    found = [m for m in model.modules() if isinstance(m, spatial)] if spatial else []
    handles = [module.register_forward_pre_hook(hook) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
