"""AdvProp: adversarial examples beside clean images, with batch normalisation of their own.

Xie et al., Adversarial examples improve image recognition, CVPR 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_ext.augment.adversarial import Adversarial


class AuxiliaryBatchNorm(nn.Module):
    """Two batch normalisations: `main` of clean images, `auxiliary` of adversarial ones.

    In training the first half of a batch is clean and the second adversarial; in evaluation mode
    all images are taken for clean, but while `AdvProp` makes adversarial ones.

    Args:
        main: a batch normalisation, of which `auxiliary` begins as a copy.

    Attributes:
        attacked: whether images in evaluation mode are adversarial.
    """

    def __init__(self, main: nn.Module) -> None:
        """Copy the layer."""
        super().__init__()
        self.main = main
        self.auxiliary = copy.deepcopy(main)
        self.attacked = False

    def forward(self, images: Tensor) -> Tensor:
        """Normalise each half, or all in evaluation mode.

        Args:
            images: (2N, C, …) in training, the clean ones first; (N, C, …) in evaluation mode.

        Raises:
            ValueError: a training batch of an odd number of images.
        """
        if not self.training:
            layer = self.auxiliary if self.attacked else self.main
            normalised: Tensor = layer(images)
            return normalised
        if len(images) % 2:
            raise ValueError(
                f"a training batch of {len(images)} has no clean and adversarial half: use the "
                "augmentation AdvProp, alone or last"
            )
        clean, adversarial = images.chunk(2)
        return torch.cat((self.main(clean), self.auxiliary(adversarial)))


@contextmanager
def auxiliary_batch_norm(model: nn.Module) -> Iterator[None]:
    """Give every batch normalisation of a network an auxiliary one, for training by `AdvProp`.

    Afterwards the network has its own layers again, with what they have learnt from clean images;
    the auxiliary ones are dropped.

    Args:
        model: changed in place.

    Raises:
        ValueError: it has no batch normalisation.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        >>> with auxiliary_batch_norm(model):
        ...     print(type(model[1]).__name__)
        AuxiliaryBatchNorm
        >>> type(model[1]).__name__
        'BatchNorm2d'
    """
    places = [
        (parent, name, child)
        for parent in list(model.modules())
        for name, child in parent._modules.items()
        if isinstance(child, _BatchNorm)
    ]
    if not places:
        raise ValueError(
            f"{type(model).__name__} has no batch normalisation, which AdvProp gives adversarial "
            "images one of their own; use the augmentation Adversarial"
        )
    # One pair for each layer, also for one that the network uses in several places.
    pairs: dict[nn.Module, nn.Module] = {}
    try:
        for parent, name, child in places:
            parent._modules[name] = pairs.setdefault(child, AuxiliaryBatchNorm(child))
        yield
    finally:
        for parent, name, child in places:
            parent._modules[name] = child


class AdvProp:
    """Join a batch with adversarial examples of it, for a network in training.

    The network must be inside of `auxiliary_batch_norm`. It is attacked in evaluation mode, with
    its auxiliary layers, and left as it was. `sign_ext.training.train` then minimises the loss of
    the clean images plus that of the adversarial ones, each through layers of its own. Validation
    uses the main layers. It comes last where several augmentations are composed.

    Args:
        model: the network in training, with the weights that it has at each call.
        epsilon: radius of the L∞ ball, grey levels, above 0.
        steps: of the attack, see `Adversarial`.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        >>> with auxiliary_batch_norm(model):
        ...     images, labels = torch.rand(5, 3, 3, 3) * 255, torch.arange(5) % 4
        ...     both, targets = AdvProp(model)(images, labels, torch.Generator())
        >>> both.shape, targets.tolist()
        (torch.Size([10, 3, 3, 3]), [0, 1, 2, 3, 0, 0, 1, 2, 3, 0])
    """

    def __init__(self, model: nn.Module, *, epsilon: float = 4.0, steps: int = 1) -> None:
        """Check the numbers."""
        self.adversarial = Adversarial(model, epsilon=epsilon, steps=steps)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch and, after it, its adversarial examples.

        Args:
            images: float32 (N, C, H, W), 0–255; never modified. Adversarial ones are clipped.
            labels: int64 (N,).
            generator: on the CPU; the random starts are drawn from it.

        Returns:
            images (2N, C, H, W) and labels (2N,).

        Raises:
            ValueError: the network is not inside of `auxiliary_batch_norm`, or it is trained by
                several processes, which would each get another part of the batch.
        """
        layers = [
            each
            for each in self.adversarial.model.modules()
            if isinstance(each, AuxiliaryBatchNorm)
        ]
        if not layers:
            raise ValueError("train by AdvProp inside of `with auxiliary_batch_norm(model):`")
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            raise ValueError("AdvProp trains in one process, and there is a group of processes")
        try:
            for each in layers:
                each.attacked = True
            attacked, _ = self.adversarial(images, labels, generator)
        finally:
            for each in layers:
                each.attacked = False
        return torch.cat((images, attacked)), torch.cat((labels, labels))

    def describe(self) -> dict[str, Any]:
        """The options, as plain data, for records of runs."""
        return self.adversarial.describe()
