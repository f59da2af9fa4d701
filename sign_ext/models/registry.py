"""sign_ext's own models by name."""

from __future__ import annotations

import difflib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from sign_ext.models.aleatoric import AleatoricHead
from sign_ext.models.basic_cnn import basic_cnn
from sign_ext.models.inception_resnet_v2 import inception_resnet_v2
from sign_ext.models.mobilenet_v2 import mobilenet_v2
from sign_ext.models.nasnet_mobile import nasnet_mobile
from sign_ext.models.network_name import MODEL_NAMES
from sign_ext.models.normalize import Normalize

# A builder takes (num_classes, image_shape) and, as keyword arguments with defaults, its options.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "basic_cnn": basic_cnn,
    "mobilenet_v2": mobilenet_v2,
    "inception_resnet_v2": inception_resnet_v2,
    "nasnet_mobile": nasnet_mobile,
}


def build_model(
    name: str,
    *,
    num_classes: int = 10,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    aleatoric: bool = False,
    **options: Any,
) -> nn.Module:
    """Build a model with new weights drawn from torch's global generator.

    Args:
        name: one of `MODEL_NAMES`.
        num_classes: number of logits.
        image_shape: (3, H, W) of the images.
        aleatoric: also learn the standard deviation of each logit (Section 3.2): the network gets
            twice as many outputs, followed by an `AleatoricHead`.
        **options: see `model_options`.

    Returns:
        A Sequential of ``normalize`` and ``network`` that takes float32 images (N, 3, H, W) in
        pixel units 0–255 and returns logits (N, num_classes); with ``aleatoric`` a third module,
        ``head``, and an `AleatoricOutput` of logits and their standard deviations.

    Raises:
        ValueError: an unknown name or option, or a value out of range.

    Example:
        >>> import torch
        >>> build_model("basic_cnn", num_classes=7)(torch.rand(2, 3, 32, 32) * 255).shape
        torch.Size([2, 7])
    """
    defaults = model_options(name)
    for option in options:
        if option not in defaults:
            raise ValueError(_unknown(f"an option of {name}", option, defaults))
    if num_classes < 1:
        raise ValueError(f"num_classes={num_classes}; accepted: 1 or more.")
    shape = tuple(image_shape)
    if len(shape) != 3 or shape[0] != 3 or min(shape) < 1:
        raise ValueError(f"image_shape={shape}; accepted: (3, height, width).")
    dropout = options.get("dropout", 0.0)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout!r}; accepted: 0 ≤ p < 1.")
    network = BUILDERS[name](num_classes * (2 if aleatoric else 1), shape, **options)
    modules = OrderedDict[str, nn.Module](normalize=Normalize(), network=network)
    if aleatoric:
        modules["head"] = AleatoricHead()
    return nn.Sequential(modules)


def model_options(name: str) -> dict[str, Any]:
    """Return a model's options with their defaults.

    Args:
        name: one of `MODEL_NAMES`.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> model_options("basic_cnn")
        {'dropout': 0.3, 'padding': 'same'}
    """
    if name not in BUILDERS:
        raise ValueError(_unknown("a model", name, MODEL_NAMES))
    parameters = inspect.signature(BUILDERS[name]).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def _unknown(kind: str, name: str, accepted: Collection[str]) -> str:
    """Return an error message about an unknown name, with the most similar one."""
    close = difflib.get_close_matches(name, accepted, n=1)
    return f"{name!r} is not {kind}; accepted: {', '.join(accepted)}." + (
        f" Did you mean {close[0]!r}?" if close else ""
    )
