"""The objective of a run: cross-entropy, or the aleatoric loss of Section 3.2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from sign_ext.models import AleatoricOutput, aleatoric_loss


@runtime_checkable
class Objective(Protocol):
    """A loss of a model's outputs, and the logits among them.

    An implementation is a frozen dataclass whose fields are its options: a run's state file stores
    them, and a resumed run checks that they are unchanged.
    """

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute the mean loss of a batch.

        Args:
            outputs: of the model, a tensor or a named tuple of tensors.
            targets: int64 (N,), or float (N, classes) with the probability of each class.

        Returns:
            A scalar. Random numbers, if any, come from torch's global generators, which are seeded
            for each epoch.
        """
        ...

    def logits(self, outputs: Any) -> Tensor:
        """Return the logits (N, classes); the largest is the prediction.

        Raises:
            ValueError: the objective is for another kind of outputs.
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of a model that returns logits.

    Example:
        >>> import torch
        >>> CrossEntropy().loss(torch.zeros(1, 2), torch.tensor([1]))
        tensor(0.6931)
    """

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Compute −mean Σ_c y_c log softmax_c."""
        return F.cross_entropy(outputs, targets)

    def logits(self, outputs: Any) -> Tensor:
        """Return the outputs themselves."""
        if not isinstance(outputs, Tensor):
            aleatoric = isinstance(outputs, AleatoricOutput)
            advice = "Use objective=Aleatoric()." if aleatoric else "Return only those."
            raise ValueError(
                f"model returns {type(outputs).__name__}; CrossEntropy accepts logits (N, classes) "
                f"in one tensor. {advice}"
            )
        return outputs


@dataclass(frozen=True)
class Aleatoric:
    """The negative of Eq. 10, of a model that returns an `AleatoricOutput`.

    Predictions, and thus the selection of an epoch, use the largest f, not drawn logits.

    Args:
        samples: T, the number of draws of the logits (Eq. 11); the paper does not state it.

    Raises:
        ValueError: `samples` is below 1.

    Example:
        >>> import torch
        >>> sure = AleatoricOutput(torch.zeros(1, 2), torch.zeros(1, 2))
        >>> Aleatoric(samples=5).loss(sure, torch.tensor([1]))
        tensor(0.6931)
    """

    samples: int = 100

    def __post_init__(self) -> None:
        """Check the number of samples before any data is read."""
        if isinstance(self.samples, bool) or not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be an integer of at least 1; got {self.samples!r}.")

    def loss(self, outputs: Any, targets: Tensor) -> Tensor:
        """Draw the logits and compute the loss: see `sign_ext.models.aleatoric_loss`."""
        return aleatoric_loss(outputs, targets, self.samples)

    def logits(self, outputs: Any) -> Tensor:
        """Return f."""
        if not isinstance(outputs, AleatoricOutput):
            raise ValueError(
                f"model returns {type(outputs).__name__}; Aleatoric accepts an AleatoricOutput. "
                "Build the model with build_model(..., aleatoric=True)."
            )
        return outputs.logits


def as_dtype(outputs: Any, dtype: torch.dtype) -> Any:
    """Convert a model's outputs to the dtype in which the loss is computed.

    Args:
        outputs: a tensor or a named tuple of tensors; the structure is kept.
        dtype: of the result.
    """
    if isinstance(outputs, Tensor):
        return outputs.to(dtype)
    return type(outputs)(*(part.to(dtype) for part in outputs))
