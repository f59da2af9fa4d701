"""DeepAugment: learned policies of operations, applied image by image in batches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sign_ext.augment.operations import UNIFORMS, Operation

SUB_POLICIES = 5  # in a policy, as in AutoAugment and DeepAugment


@dataclass(frozen=True)
class SubPolicy:
    """Two operations, one after the other.

    Args:
        first: applied to the image.
        second: applied to what the first returns.
    """

    first: Operation
    second: Operation

    def __post_init__(self) -> None:
        """Check that both are operations."""
        for name in ("first", "second"):
            if not isinstance(getattr(self, name), Operation):
                raise TypeError(f"{name} must be an Operation; got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class Policy:
    """Five sub-policies, of which each image gets one.

    Args:
        sub_policies: exactly five.

    Raises:
        TypeError: one of them is no SubPolicy.
        ValueError: there are not five.
    """

    sub_policies: tuple[SubPolicy, ...]

    def __post_init__(self) -> None:
        """Check their number and kind."""
        object.__setattr__(self, "sub_policies", tuple(self.sub_policies))
        for i, each in enumerate(self.sub_policies):
            if not isinstance(each, SubPolicy):
                raise TypeError(f"sub_policies[{i}] must be a SubPolicy; got {each!r}.")
        if len(self.sub_policies) != SUB_POLICIES:
            raise ValueError(
                f"sub_policies holds {len(self.sub_policies)}; accepted: exactly {SUB_POLICIES}."
            )


@dataclass(frozen=True)
class DeepAugment:
    """Apply learned policies: each image gets one sub-policy of all, drawn at random.

    The paper's reference [18], a Bayesian version of AutoAugment. Images that drew the same
    sub-policy are worked on together, on their device.

    Args:
        policies: one or more, as `search_policies` finds and `load_policies` reads them.

    Raises:
        TypeError: one of them is no Policy.
        ValueError: there is none.

    Example:
        >>> pair = SubPolicy(Operation("rotate", 0.4), Operation("cutout", 0.5))
        >>> augment = DeepAugment((Policy((pair,) * 5),))
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> augment(images, labels, torch.Generator().manual_seed(0))[0].shape
        torch.Size([4, 3, 8, 8])
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        """Check that there are policies."""
        object.__setattr__(self, "policies", tuple(self.policies))
        for i, each in enumerate(self.policies):
            if not isinstance(each, Policy):
                raise TypeError(f"policies[{i}] must be a Policy; got {each!r}.")
        if not self.policies:
            raise ValueError("policies is empty: give at least one Policy.")

    @property
    def sub_policies(self) -> tuple[SubPolicy, ...]:
        """All sub-policies, of which an image draws one."""
        return tuple(sub for policy in self.policies for sub in policy.sub_policies)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with each image changed by its own sub-policy.

        Args:
            images: float32 (N, 3, H, W), pixel units 0–255 or beyond; never modified.
            labels: (N,) or (N, classes), returned as they are.
            generator: on the CPU or on the images' device. The same generator state gives the same
                draws whichever device the images are on.

        Returns:
            A new float32 (N, 3, H, W) tensor, and labels.
        """
        drawn, uniform = self.draw(len(images), generator)
        uniform = uniform.to(images.device)
        changed = images.clone()
        for i in drawn.unique().tolist():
            members = (drawn == i).nonzero()[:, 0].to(images.device)
            sub, numbers = self.sub_policies[i], uniform[members]
            group = sub.first(images[members], numbers[:, :UNIFORMS], generator)
            changed[members] = sub.second(group, numbers[:, UNIFORMS:], generator)
        return changed, labels

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw the sub-policies of `count` images, and the numbers for their operations.

        As many numbers are drawn whatever the operations are; only noise draws more, afterwards.

        Returns:
            int64 (N,) on the CPU, positions in `sub_policies`; float32 (N, 2·UNIFORMS) in [0, 1)
            on the generator's device.
        """
        place = generator.device
        total = len(self.sub_policies)
        drawn = torch.randint(total, (count,), generator=generator, device=place)
        uniform = torch.rand(count, 2 * UNIFORMS, generator=generator, device=place)
        return drawn.cpu(), uniform
