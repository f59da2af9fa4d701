"""The aleatoric model of Section 3.2: logits with learned standard deviations, and its loss."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AleatoricOutput(NamedTuple):
    """The output of an aleatoric model: a normal distribution of each logit.

    Attributes:
        logits: float (N, C), the means f (the paper's unaries).
        sigma: float (N, C), the standard deviations σ, 0 or more.
    """

    logits: Tensor
    sigma: Tensor


class AleatoricHead(nn.Module):
    """Splits a network's 2·C outputs into C logits and C standard deviations.

    The network's final linear layer with 2·C outputs amounts to two linear heads on the same
    features, one for f and one for σ (Section 3.2), so SIGN's Φ ends at its input, as in the plain
    model. The paper does not say how σ is kept non-negative: here by a softplus.

    Example:
        >>> AleatoricHead()(torch.tensor([[1.0, 2.0, 0.0, -200.0]]))
        AleatoricOutput(logits=tensor([[1., 2.]]), sigma=tensor([[0.6931, 0.0000]]))
    """

    def forward(self, outputs: Tensor) -> AleatoricOutput:
        """Split the outputs.

        Args:
            outputs: float (N, 2·C).

        Returns:
            The first C as logits, the softplus of the last C as σ.

        Raises:
            ValueError: an odd number of outputs.
        """
        if outputs.ndim != 2 or outputs.shape[1] % 2:
            raise ValueError(
                f"outputs has shape {tuple(outputs.shape)}; accepted: (N, 2·C). Build the network "
                "with twice as many outputs as classes, or use build_model(..., aleatoric=True)."
            )
        logits, raw_sigma = outputs.chunk(2, dim=1)
        return AleatoricOutput(logits, F.softplus(raw_sigma))


def sample_logits(
    output: AleatoricOutput, samples: int, generator: torch.Generator | None = None
) -> Tensor:
    """Draw logits by Eq. 11: x̂_t = f + σ·ε_t with ε_t ~ N(0, I).

    Args:
        output: of the aleatoric model, N images and C classes.
        samples: T, 1 or more.
        generator: draws the noise, on its own device; None for the global generator of the
            output's device.

    Returns:
        (T, N, C) of the output's dtype, differentiable in both logits and σ.

    Raises:
        ValueError: fewer than one sample.

    Example:
        >>> output = AleatoricOutput(torch.zeros(2, 3), torch.ones(2, 3))
        >>> sample_logits(output, 5).shape
        torch.Size([5, 2, 3])
    """
    if samples < 1:
        raise ValueError(f"samples={samples}; accepted: 1 or more (the paper's T).")
    logits, sigma = output
    device = logits.device if generator is None else generator.device
    noise = torch.randn(
        samples, *logits.shape, generator=generator, device=device, dtype=logits.dtype
    )
    return torch.addcmul(logits, sigma, noise.to(logits.device))


def aleatoric_loss(output: AleatoricOutput, targets: Tensor, samples: int = 100) -> Tensor:
    """Compute the negative of Eq. 10, averaged over the images.

    For an image of class c it is −log 1/T Σ_t softmax_c(x̂_t), where :func:`sample_logits` draws
    the x̂_t from torch's global generator. Probabilities y instead of classes (mixup) give
    −Σ_c y_c log 1/T Σ_t softmax_c(x̂_t). Everything is computed in logarithms, so no probability
    underflows.

    Args:
        output: of the aleatoric model, N images and C classes.
        targets: int64 (N,), or float (N, C) with each class's probability.
        samples: T, 1 or more; the paper does not state it.

    Returns:
        A scalar of the output's dtype. With a finite T its mean is slightly above the loss of the
        exact expectation (Jensen's inequality).

    Raises:
        ValueError: fewer than one sample, or targets of another shape.

    Example:
        >>> sure = AleatoricOutput(torch.tensor([[0.0, 0.0]]), torch.zeros(1, 2))
        >>> aleatoric_loss(sure, torch.tensor([1]))
        tensor(0.6931)
    """
    count, classes = output.logits.shape
    if targets.shape not in ((count,), (count, classes)):
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}; accepted: {(count,)} for class indices or "
            f"{(count, classes)} for probabilities."
        )
    drawn = F.log_softmax(sample_logits(output, samples), dim=2)
    log_mean = torch.logsumexp(drawn, dim=0) - math.log(samples)
    if targets.ndim == 1:
        return F.nll_loss(log_mean, targets)
    return -(targets.to(log_mean.dtype) * log_mean).sum(dim=1).mean()
