"""Adversarial training: each batch is attacked with the network that is being trained."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor, nn


class Adversarial:
    """Replace a batch by adversarial examples for a network, usually the one in training.

    One step from a random start is "fast" adversarial training (Wong, Rice and Kolter, ICLR 2020),
    with their step of 1.25 ε; several are PGD adversarial training (Madry et al., ICLR 2018), with
    steps of ε / 2. The network is attacked in evaluation mode and left as it was, so that neither
    dropout nor the attack's images reach its BatchNorm statistics. See `sign_ext.pgd`.

    Args:
        model: that is attacked, with the weights that it has at each call.
        epsilon: radius of the L∞ ball, grey levels, above 0.
        steps: of the attack, 1 or more.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
        >>> images, labels = torch.rand(5, 3, 2, 2) * 255, torch.arange(5) % 4
        >>> attacked, same = Adversarial(model, epsilon=4.0)(images, labels, Generator())
        >>> bool((attacked - images).abs().max() <= 4.001), same is labels
        (True, True)
    """

    def __init__(self, model: nn.Module, *, epsilon: float = 4.0, steps: int = 1) -> None:
        """Check the numbers."""
        if not 0 < epsilon < float("inf"):
            raise ValueError(f"epsilon={epsilon!r}; accepted: a finite number above 0.")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r}; accepted: an integer of 1 or more.")
        self.model = model
        self.epsilon = float(epsilon)
        self.steps = steps

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the attacked batch, and labels.

        Args:
            images: float32 (N, C, H, W), 0–255; never modified. Values beyond are clipped first.
            labels: int64 (N,), returned unchanged.
            generator: on the CPU; the random starts are drawn from it.
        """
        from sign_ext.attacks import pgd

        attacked = pgd(
            self.model,
            images.clamp(0.0, 255.0),
            labels,
            epsilon=self.epsilon,
            step_size=self.epsilon * (1.25 if self.steps == 1 else 0.5),
            steps=self.steps,
            generator=generator,
            # The weights change with each batch, and what is compiled would have to follow.
            backend="autograd",
        )
        return attacked, labels

    def describe(self) -> dict[str, Any]:
        """The options, as plain data, for records of runs."""
        return {"epsilon": self.epsilon, "steps": self.steps}
