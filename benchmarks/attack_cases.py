"""What `attack_parity.py` and `test_attacks.py` compare: five networks, torchattacks and captum.

torchattacks works on images in 0–1 and sign_ext in the units that the network takes, 0–255: the
same network is given to torchattacks behind a multiplication by 255, with ε and step divided by it.
captum has no units: it is given the network as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

RANGE = 255.0
CLASSES = 10
SIDE = 32


def resnet18() -> nn.Module:
    """ResNet-18 as torchvision has it, on images of 0–255."""
    from torchvision.models import resnet18 as build

    return behind_normalization(build(num_classes=CLASSES))


def resnet18_small_stem() -> nn.Module:
    """ResNet-18 as it is used on CIFAR: a 3×3 convolution first, and no pooling after it.

    So its largest feature maps have 32×32 positions, those of `resnet18` 8×8.
    """
    from torchvision.models import resnet18 as build

    network = build(num_classes=CLASSES)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return behind_normalization(network)


def vit_tiny() -> nn.Module:
    """ViT-tiny of timm on 32×32 pixels, in 64 patches of 4×4."""
    import timm

    options = {"img_size": SIDE, "patch_size": 4, "num_classes": CLASSES}
    return behind_normalization(timm.create_model("vit_tiny_patch16_224", **options))


def behind_normalization(network: nn.Module) -> nn.Module:
    """The network behind ImageNet's mean and standard deviation."""
    from sign_ext.models import with_normalization

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return with_normalization(
        network, [RANGE * each for each in mean], [RANGE * each for each in std]
    )


def ours(name: str) -> Callable[[], nn.Module]:
    """A network of sign_ext."""

    def build() -> nn.Module:
        from sign_ext.models import build_model

        return build_model(name, num_classes=CLASSES, image_shape=(3, SIDE, SIDE))

    return build


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "BasicCNN": ours("basic_cnn"),
    "ResNet-18": resnet18,
    "ResNet-18, 3×3 stem": resnet18_small_stem,
    "MobileNetV2": ours("mobilenet_v2"),
    "ViT-tiny": vit_tiny,
}


@dataclass(frozen=True, eq=False)
class Work:
    """A network in evaluation mode with images and labels to attack or explain.

    Attributes:
        model: takes images of 0–255.
        images: (N, 3, 32, 32), 0–255.
        labels: int64 (N,).
    """

    model: nn.Module
    images: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls, network: str, images: int, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> Work:
        """Fresh weights, whose BatchNorms have seen some images, and random images and labels."""
        torch.manual_seed(seed)
        model = NETWORKS[network]()
        pixels = torch.randint(0, 256, (images, 3, SIDE, SIDE)).float()
        labels = torch.randint(0, CLASSES, (images,))
        with torch.no_grad():  # without this, the signal dies out in a deep network
            model.train()
            for _ in range(10):
                model(torch.randint(0, 256, (32, 3, SIDE, SIDE)).float())
            # An attack on fresh weights soon makes logits so large that the softmax is 0 and 1 up
            # to float32's rounding, and nothing is left to compare.
            [*(each for each in model.modules() if isinstance(each, nn.Linear))][-1].weight.div_(20)
        return cls(model.eval().to(dtype), pixels.to(dtype), labels)


class InUnitRange(nn.Module):
    """A network of images in 0–255 as one of images in 0–1, as torchattacks wants it.

    Attributes:
        visited: the images that it was given, where `note` is true.
    """

    def __init__(self, model: nn.Module, *, note: bool) -> None:
        """Wrap a network."""
        super().__init__()
        self.model = model
        self.note = note
        self.visited: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        if self.note:
            self.visited.append(images.detach().clone())
        logits: Tensor = self.model(images * RANGE)
        return logits


@dataclass(frozen=True)
class Attack:
    """An attack of both libraries, in grey levels."""

    norm: str = "linf"
    epsilon: float = 8.0
    step_size: float = 2.0
    steps: int = 10
    targeted: bool = False

    @property
    def label(self) -> str:
        """For a table."""
        kind = "ℓ∞" if self.norm == "linf" else "ℓ2"
        return f"PGD {kind}{', targeted' if self.targeted else ''}"

    def theirs(self, work: Work, *, random_start: bool, note: bool = False) -> Any:
        """torchattacks' object for this attack; with `note`, its model lists what it was given."""
        import torchattacks

        kind, options = torchattacks.PGD, {}
        if self.norm == "l2":  # by default 1e-10 is added to norms, which are small here
            kind, options = torchattacks.PGDL2, {"eps_for_division": 1e-30}
        attack = kind(
            InUnitRange(work.model, note=note),
            eps=self.epsilon / RANGE,
            alpha=self.step_size / RANGE,
            steps=self.steps,
            random_start=random_start,
            **options,
        )
        if self.targeted:
            attack.set_mode_targeted_by_label(quiet=True)
        return attack

    def start(self, images01: Tensor, seed: int) -> Tensor:
        """The start that torchattacks draws after `torch.manual_seed(seed)`, in 0–1."""
        torch.manual_seed(seed)
        eps = self.epsilon / RANGE
        if self.norm == "linf":
            return (images01 + torch.empty_like(images01).uniform_(-eps, eps)).clamp(0, 1)
        delta = torch.empty_like(images01).normal_()
        sizes = delta.flatten(1).norm(p=2, dim=1).view(-1, 1, 1, 1)
        share = torch.zeros_like(sizes).uniform_(0, 1)
        delta *= share / sizes * eps
        return (images01 + delta).clamp(0, 1)
