"""What an iteration climbs: an objective of the network's output, and its gradient there.

SIGN's objective is the sum over Φ, whose gradient is a cotangent of ones. Any other begins the
backward pass with d objective / d output, which is made here for each image from its output and
its label. A step on any backend calls `cotangent_of` between its forward and its backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.settings import Objective, StepRule

Rows = slice | Sequence[int]
Cotangent = Callable[[Tensor], Tensor]  # from outputs (N, ...) to the cotangent there


@dataclass(frozen=True)
class Target:
    """What belongs to the images of a call, or to some of them, beside the images.

    Attributes:
        labels: (N, ...), or None where the objective needs none.
        origin: what a projection is around, (N, ...); None: the images at the start.
    """

    labels: Tensor | None = None
    origin: Tensor | None = None

    def __getitem__(self, rows: Rows) -> Target:
        """Those of some images.

        Args:
            rows: which images.
        """
        labels, origin = self.labels, self.origin
        return Target(
            None if labels is None else labels[rows], None if origin is None else origin[rows]
        )

    @property
    def kind(self) -> Hashable:
        """What a recorded step depends on: it reads labels from a buffer of its own."""
        return None if self.labels is None else (self.labels.shape[1:], self.labels.dtype)


NO_TARGET = Target()


def cross_entropy_cotangent(output: Tensor, labels: Tensor) -> Tensor:
    """d/dz of −log softmax(z)_y: softmax(z) − onehot(y).

    Args:
        output: logits z, (N, classes), float32 or float64.
        labels: y, (N,) int64.

    Example:
        >>> cross_entropy_cotangent(torch.zeros(1, 2), torch.tensor([0]))
        tensor([[-0.5000,  0.5000]])
    """
    return torch.softmax(output, 1).sub_(logit_cotangent(output, labels))


def logit_cotangent(output: Tensor, labels: Tensor) -> Tensor:
    """d/dz of z_y: onehot(y); arguments as for the cross-entropy."""
    return torch.zeros_like(output).scatter_(1, labels[:, None], 1.0)


def margin_cotangent(output: Tensor, labels: Tensor) -> Tensor:
    """d/dz of max_{i≠y} z_i − z_y: onehot(the first largest wrong one) − onehot(y).

    Args:
        output: logits z, (N, classes), 2 classes or more.
        labels: y, (N,) int64.

    Example:
        >>> margin_cotangent(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([[-1.,  0.,  1.]])
    """
    y = labels[:, None]
    wrong = output.scatter(1, y, -torch.inf).argmax(1, keepdim=True)
    return torch.zeros_like(output).scatter_(1, y, -1.0).scatter_(1, wrong, 1.0)


_COTANGENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy_cotangent,
    "logit": logit_cotangent,
    "margin": margin_cotangent,
}


def values_of(objective: Objective, output: Tensor, labels: Tensor | None) -> Tensor:
    """The objective of each image, (N,); a function's value is checked.

    Args:
        objective: a name other than "features", or a function.
        output: of the network, (N, ...), with a graph or without.
        labels: of the images, or None.

    Raises:
        ValueError, TypeError: a function does not return one floating number an image.
    """
    if not isinstance(objective, str):
        return _checked(objective(output) if labels is None else objective(output, labels), output)
    assert labels is not None
    z = _at_least_float32(output)
    own = z.gather(1, labels[:, None])[:, 0]
    if objective == "logit":
        return own
    if objective == "cross_entropy":
        return F.cross_entropy(z, labels, reduction="none")
    return z.scatter(1, labels[:, None], -torch.inf).amax(1) - own


def cotangent_of(rule: StepRule, labels: Tensor | None) -> Cotangent:
    """The function from outputs to the cotangent there.

    Args:
        rule: with an objective of the network's output.
        labels: of the images, a buffer that is read whenever the function is called; or None.
    """
    objective = rule.objective
    if isinstance(objective, str):
        known = _COTANGENTS[objective]
        assert labels is not None

        def named(output: Tensor) -> Tensor:
            return known(_at_least_float32(output), labels).to(output.dtype)

        return named

    def of_function(output: Tensor) -> Tensor:
        with torch.enable_grad():
            z = _at_least_float32(output.detach()).requires_grad_()
            values = values_of(objective, z, labels)
            try:
                (g,) = torch.autograd.grad(values.sum(), z)
            except RuntimeError as error:
                raise ValueError(
                    f"{rule.objective_name} has no gradient to the network's output "
                    f"({str(error).strip().splitlines()[0]}): its values must depend on the output "
                    "by differentiable operations"
                ) from error
        return g.to(output.dtype)

    return of_function


def check_function(rule: StepRule, output: Tensor, labels: Tensor | None) -> None:
    """Refuse a function of which an image's gradient depends on the images beside it.

    Args:
        rule: with a function as its objective.
        output: of one image of the call, (1, ...).
        labels: its label, or None.

    Raises:
        ValueError, TypeError: so it is, or what `values_of` raises.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(output.shape, generator=generator).to(output)
    others = output + (output.abs().max() + 1) * noise
    pair = torch.cat([output, others.to(output.dtype)])
    both = None if labels is None else torch.cat([labels, labels])
    alone = cotangent_of(rule, labels)(output).double()
    together = cotangent_of(rule, both)(pair)[:1].double()
    size = float(alone.norm())
    if not float((alone - together).norm()) <= 1e-3 * max(size, 1e-30) and size == size:
        raise ValueError(
            f"{rule.objective_name} mixes the images of a batch: the gradient of an image changes "
            "with the image beside it. Return one number an image that depends on that image's "
            "row alone, without dividing by the number of images"
        )


def check_labels(labels: Any, images: Tensor, rule: StepRule) -> Tensor | None:
    """Labels as the objective takes them.

    Args:
        labels: the caller's, or None.
        images: (N, ...).
        rule: what needs labels, or takes them, or has no use for them.

    Returns:
        (N,) int64 for a named objective; a function's as they are.

    Raises:
        TypeError, ValueError: missing, not wanted, or of another type, shape, device.
    """
    if labels is None:
        if rule.needs_labels:
            raise ValueError(
                f"objective={rule.objective!r} needs labels, (N,) integers: a class of each image"
            )
        return None
    if not rule.reads_output:
        raise ValueError(
            'labels have no use with objective="features", which is the sum over Φ: leave them '
            'out, or pass objective="cross_entropy"'
        )
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels must be a tensor with a row for each image, got {type(labels).__name__}: pass "
            "torch.as_tensor(labels)"
        )
    if labels.device != images.device:
        raise ValueError(
            f"labels are on {labels.device}, images on {images.device}: pass "
            f"labels.to({str(images.device)!r})"
        )
    if labels.is_inference():
        labels = labels.clone()
    if not rule.needs_labels:
        if labels.dim() == 0 or len(labels) != len(images):
            raise ValueError(
                f"labels must have a row for each of the {len(images)} images, got shape "
                f"{tuple(labels.shape)}"
            )
        return labels.detach()
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, the classes' numbers; got {labels.dtype}")
    if labels.shape != images.shape[:1]:
        hint = ": pass labels.argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else ""
        raise ValueError(
            f"labels must be ({len(images)},), one for each image, got {tuple(labels.shape)}{hint}"
        )
    return labels.long()


def check_output(rule: StepRule, output: Tensor, labels: Tensor | None, images: int) -> None:
    """Refuse an output of the network for which an objective is not defined.

    Args:
        rule: with an objective of the output.
        output: of one image.
        labels: all of the call's, (N,) int64 for named objectives; or None.
        images: how many the output is of.

    Raises:
        ValueError: a wrong shape, or labels beyond the classes.
    """
    shape = tuple(output.shape)
    if output.dim() == 0 or len(output) != images:
        raise ValueError(
            f"the network's output has shape {shape} for {images} image{'s' * (images != 1)}: it "
            "must have a row for each image"
        )
    if not rule.needs_labels:
        return
    if output.dim() != 2:
        raise ValueError(
            f"objective={rule.objective!r} needs logits (N, classes), and the network's output is "
            f"{shape} for one image: pass layer=NAME of a module with such an output, or a "
            "function of the output as the objective"
        )
    classes = shape[1]
    if rule.objective == "margin" and classes < 2:
        raise ValueError(
            f'objective="margin" needs two classes or more, and the network\'s output is {shape}'
        )
    if labels is not None and len(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            bad = low if low < 0 else high
            raise ValueError(
                f"labels must be classes 0 to {classes - 1} of this network, got {bad} for image "
                f"{int((labels == bad).nonzero()[0])}"
            )


def _checked(values: Any, output: Tensor) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(
            f"the objective returned a {type(values).__name__}; it must return a tensor with one "
            "number an image, (N,)"
        )
    if values.shape != output.shape[:1] or not values.is_floating_point():
        hint = ", such as F.cross_entropy(..., reduction='none')" if values.dim() == 0 else ""
        raise ValueError(
            f"the objective returned {values.dtype} of shape {tuple(values.shape)} for "
            f"{len(output)} images; it must return one floating number an image, "
            f"({len(output)},){hint}"
        )
    return values


def _at_least_float32(output: Tensor) -> Tensor:
    return output if output.dtype in (torch.float32, torch.float64) else output.float()
