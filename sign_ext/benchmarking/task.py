"""The work of a race: a network, images, steps and a precision, the same for every contender."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sign_ext.benchmarking.loops import features_of
from sign_ext.engine.batch import DEFAULT_BATCH, batch_by_rule, need_of
from sign_ext.eval_state import unwrap
from sign_ext.pushforward import pullback_of_ones
from sign_ext.sign import SignTransform

if TYPE_CHECKING:
    from sign_ext.source_layer import SourceLayer

# How far a first step moves images, rms, as a share of the pixel range. Times do not depend on it;
# larger steps through an untrained network let rounding grow until no two contenders agree.
MOVE = 0.01 / 255
# Pixels a call on a CPU, so that a step takes about a second at most where nobody says how many
# images.
PIXELS = 128 * 64 * 64


@dataclass(frozen=True)
class Task:
    """The work of a race: the same for every contender.

    Attributes:
        model: the network in evaluation mode, on the device.
        images: (N, C, H, W).
        steps: K.
        step_size: factor of each step.
        precision: "float32", "tf32" or "bfloat16".
        layer: whose output Φ is; None finds the last classifier and takes its input.
        tuned: let cuDNN time its algorithms for contenders whose writers would.
    """

    model: nn.Module
    images: Tensor
    steps: int
    step_size: float
    precision: str = "float32"
    layer: str | None = None
    tuned: bool = True

    @cached_property
    def source(self) -> SourceLayer:
        """Where Φ is read; SourceLayerError if that cannot be found."""
        source = SignTransform(self.model, layer=self.layer).source_layer(self.images[:1])
        assert source is not None  # images were given
        return source

    def phi(self) -> nn.Module:
        """A copy of Φ of its own for a contender."""
        return features_of(unwrap(self.model), self.source, self.images[:1])

    def one_step(self) -> Task:
        """The same with K = 1 and nothing tuned: for memory, which more steps do not change."""
        return replace(self, steps=1, tuned=False)


def images_for(shape: Sequence[int], device: torch.device) -> int:
    """How many images a call works on, all contenders' the same.

    On CUDA it is what `SignTransform` takes for a network without a memory plan, for plain PyTorch
    has to hold them too; on a CPU its own number, fewer where images are large.

    Args:
        shape: (C, H, W) of an image.
        device: where.

    Example:
        >>> cpu = torch.device("cpu")
        >>> images_for((3, 32, 32), cpu), images_for((3, 224, 224), cpu)
        (128, 10)
    """
    if device.type == "cuda":
        image = torch.empty(1, *shape, device="meta")
        return batch_by_rule(device, need_of(image, torch.float32, None))
    return max(1, min(DEFAULT_BATCH, PIXELS // math.prod(shape[1:])))


def random_images(
    count: int, shape: Sequence[int], pixel_range: float, device: torch.device, seed: int = 0
) -> Tensor:
    """Noise (count, C, H, W), uniform in 0 to `pixel_range`: times do not depend on the motif."""
    generator = torch.Generator().manual_seed(seed)
    return pixel_range * torch.rand(count, *shape, generator=generator).to(device)


def step_size_for(
    model: nn.Module, images: Tensor, move: float, *, layer: str | None = None
) -> float:
    """A step size with which a first step moves images by `move`, rms.

    Args:
        model: the network, on the images' device.
        images: (N, C, H, W); a few are looked at.
        move: in the images' units.
        layer: as in `Task`.

    Raises:
        ValueError: δ is zero, or not finite.
    """
    size = float(pullback_of_ones(model, images[:32], layer=layer).double().square().mean().sqrt())
    if not 0 < size < math.inf:
        raise ValueError(
            f"δ, the gradient that SIGN adds, has the rms {size:g} on images of noise up to "
            f"{float(images.amax()):.3g}: name another layer, or another range of pixels"
        )
    return move / size
