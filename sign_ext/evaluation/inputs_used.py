"""How many inputs a network uses for an image: its zero pre-activations, and its gradient's spread.

The paper says that a variable which SIGN makes negative is "discarded by a model with ReLU
non-linearity", so that the model "focuses on fewer input variables". A negative input is not
itself discarded: the first layer multiplies it by weights of both signs. What the sentence says of
a network can be measured at its ReLUs and at its input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sign_ext.evaluation.accuracy import _eval_mode, placement

# ATen operations that set negative values to 0 → the place of the argument that must be 0 for it.
RECTIFIERS: Mapping[str, int | None] = {
    "relu": None,
    "relu_": None,
    "relu6": None,
    "relu6_": None,
    "hardtanh": 1,
    "hardtanh_": 1,
    "clamp_min": 1,
    "clamp_min_": 1,
}


class _ZerosOfRectifiers(TorchDispatchMode):
    """Counts, for each image, the values at or below 0 that reach each ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: list[tuple[Tensor, int]] = []  # share of each image, and values of an image

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in RECTIFIERS and _cuts_at_zero(name, args):
            values = args[0].flatten(1)  # before the call, which may work in place
            zeros = (values <= 0).double().mean(dim=1)
            self.shares.append((zeros.cpu(), values.shape[1]))
        return func(*args, **(kwargs or {}))


def _cuts_at_zero(name: str, args: Sequence[Any]) -> bool:
    place = RECTIFIERS[name]
    return place is None or (len(args) > place and args[place] == 0)


def zero_preactivations(
    model: nn.Module, images: Tensor, *, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Measure, for each image, the share of pre-activations that a network's ReLUs set to 0.

    ReLU, ReLU6 and clamps at 0 are counted, as modules and as functions.

    Args:
        model: float images (n, C, H, W) → logits; its training flags are restored.
        images: uint8 or float tensor (N, C, H, W), in the model's units (pixels 0–255).
        batch_size: images at once.

    Returns:
        float64 (N,) each: at the first ReLU that runs, and over all of them.

    Raises:
        ValueError: no images, or a network without such activations.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(4, 2))
        >>> first, every = zero_preactivations(model, torch.tensor([[[[1.0, -2.0], [0.0, 3.0]]]]))
        >>> first.tolist(), every.tolist()
        ([0.5], [0.5])
    """
    _check(images)
    device, dtype = placement(model)
    first, every = [], []
    with _eval_mode(model), torch.no_grad():
        for batch in images.split(batch_size):
            with _ZerosOfRectifiers() as counter:
                model(batch.to(device=device, dtype=dtype))
            if not counter.shares:
                raise ValueError(
                    f"no ReLU ran in {type(model).__name__}; accepted: a network with ReLU or "
                    "ReLU6 activations."
                )
            sizes = torch.tensor([size for _, size in counter.shares], dtype=torch.float64)
            shares = torch.stack([share for share, _ in counter.shares], dim=1)
            first.append(shares[:, 0])
            every.append(shares @ (sizes / sizes.sum()))
    return torch.cat(first), torch.cat(every)


def effective_inputs(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Measure, for each image, how many input variables the predicted class's logit depends on.

    With m_i = |∂ logit / ∂x_i| / Σ_j |∂ logit / ∂x_j| the gradient's mass at variable i, it is
    1 / Σ m_i², the inverse participation ratio: n if the mass is spread evenly over n variables,
    1 if one variable has it all, and 0 where the gradient is 0.

    Args:
        model: float images (n, C, H, W) → logits; left as it is.
        images: uint8 or float tensor (N, C, H, W), in the model's units (pixels 0–255).
        batch_size: images at once.

    Returns:
        float64 (N,), between 0 and C·H·W.

    Raises:
        ValueError: no images.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[2.0, 0.0, -2.0, 0.0]]))
        >>> effective_inputs(model, torch.zeros(1, 1, 2, 2)).tolist()
        [2.0]
    """
    _check(images)
    device, dtype = placement(model)
    found = []
    with _eval_mode(model), torch.enable_grad():
        for batch in images.split(batch_size):
            inputs = batch.to(device=device, dtype=dtype).detach().clone().requires_grad_()
            # Samples do not interact in evaluation mode, so the sum has each image's own gradient.
            total = model(inputs).max(dim=1).values.sum()
            (gradient,) = torch.autograd.grad(total, inputs)
            mass = gradient.flatten(1).double().abs().cpu()
            squares = mass.square().sum(dim=1)
            found.append(
                torch.where(squares > 0, mass.sum(dim=1).square() / squares.clamp_min(1e-300), 0.0)
            )
    return torch.cat(found)


def _check(images: Tensor) -> None:
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image.")
