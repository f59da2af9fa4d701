"""The work of a race: a network, images, steps and a precision, the same for every contender."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sign_ext.benchmarking.loops import extract_phi
from sign_ext.engine.batch import DEFAULT_BATCH, batch_by_rule, need_of
from sign_ext.eval_state import unwrap
from sign_ext.pushforward import pullback_of_ones
from sign_ext.sign import SignTransform

if TYPE_CHECKING:
    from sign_ext.source_layer import SourceLayer

# How far the first step moves images, rms, as a share of the pixel range. Times do not depend on
# it, but with larger steps through an untrained network rounding errors grow until no two
# contenders agree.
MOVE = 0.01 / 255
# Pixels per call on a CPU by default, so that a step takes about a second at most.
CPU_PIXELS = 128 * 64 * 64


@dataclass(frozen=True)
class Task:
    """The work of a race: the same for every contender.

    Attributes:
        model: the network in evaluation mode, on the device.
        images: (N, C, H, W).
        steps: K.
        step_size: factor of each step.
        precision: "float32", "tf32" or "bfloat16".
        layer: the module whose output is Φ; None takes the input of the final classifier.
        tuned: let cuDNN benchmark its algorithms for contenders whose users would.
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
        """Where Φ is read; raises SourceLayerError if it cannot be found."""
        source = SignTransform(self.model, layer=self.layer).source_layer(self.images[:1])
        assert source is not None  # images were given
        return source

    def phi(self) -> nn.Module:
        """Return a copy of Φ that a contender may modify."""
        return extract_phi(unwrap(self.model), self.source, self.images[:1])

    def one_step(self) -> Task:
        """Return the task with K = 1, untuned, to measure memory: more steps do not change it."""
        return replace(self, steps=1, tuned=False)


def images_for(shape: Sequence[int], device: torch.device) -> int:
    """Return the default number of images per call, the same for all contenders.

    On CUDA it is the batch of `SignTransform` for a network without a memory plan, because plain
    PyTorch must fit too. On a CPU it is the default batch, or fewer if images are large.

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
    return max(1, min(DEFAULT_BATCH, CPU_PIXELS // math.prod(shape[1:])))


def random_images(
    count: int, shape: Sequence[int], pixel_range: float, device: torch.device, seed: int = 0
) -> Tensor:
    """Return noise (count, C, H, W), uniform in 0 to `pixel_range`: any content takes as long."""
    generator = torch.Generator().manual_seed(seed)
    return pixel_range * torch.rand(count, *shape, generator=generator).to(device)


def vary_norms(model: nn.Module, seed: int = 0) -> int:
    """Multiply the weights of fresh normalisation layers by random numbers, in place.

    A LayerNorm as it is built gives the same sum for every image, so where one feeds the
    classifier, δ of a network without training is nothing but rounding. Time does not depend on the
    weights' values.

    Args:
        model: the network; only norms whose weights are all equal are changed.
        seed: of the numbers, uniform in 0.5 to 1.5.

    Returns:
        How many layers were changed.
    """
    generator = torch.Generator().manual_seed(seed)
    changed = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if "Norm" not in type(module).__name__ or not isinstance(weight, nn.Parameter):
            continue
        if weight.dim() == 1 and bool((weight == weight[0]).all()):
            factors = 0.5 + torch.rand(len(weight), generator=generator)
            with torch.no_grad():
                weight.mul_(factors.to(weight))
            changed += 1
    return changed


def step_size_for(
    model: nn.Module, images: Tensor, move: float, *, layer: str | None = None
) -> float:
    """Return the step size with which the first step moves images by `move`, rms.

    Args:
        model: the network, on the images' device.
        images: (N, C, H, W); the first 32 are used.
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
