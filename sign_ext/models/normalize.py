"""A network's own preprocessing as its first module, so that images stay in pixel units 0–255."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.errors import PixelRangeWarning
from sign_ext.models.network_name import NetworkName
from sign_ext.models.records import record_of

Constants = tuple[tuple[float, ...], tuple[float, ...]]

PIXEL_RANGE = 255.0
IMAGENET: Constants = (
    (0.485 * PIXEL_RANGE, 0.456 * PIXEL_RANGE, 0.406 * PIXEL_RANGE),
    (0.229 * PIXEL_RANGE, 0.224 * PIXEL_RANGE, 0.225 * PIXEL_RANGE),
)
# What training scripts call a mapping that has the mean and std of their images.
_RECORDS = (
    *("pretrained_cfg", "default_cfg", "data_config", "normalization", "normalize"),
    *("preprocessing", "transform", "config", "cfg", "args", "hyper_parameters", "hparams"),
)
_CHANNELS = 16  # at most, of images


class Normalize(nn.Module):
    """Compute (x − mean) / std for each channel, so that a model's input stays in pixel units.

    With the default, x / 255, a network sees 0–1, while SIGN's δ, the noise and the clamp are all
    in grey levels (0–255).

    Args:
        mean: one value a channel, in pixel units.
        std: one value a channel, in pixel units, none of them zero.

    Raises:
        ValueError: different lengths, a zero, or a value that is not finite.

    Example:
        >>> Normalize()(torch.full((1, 3, 1, 1), 51.0)).flatten().tolist()
        [0.20000000298023224, 0.20000000298023224, 0.20000000298023224]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (255.0, 255.0, 255.0),
    ) -> None:
        """Store both as buffers, shaped to broadcast over (N, C, H, W)."""
        super().__init__()
        mean_values = torch.tensor(list(mean), dtype=torch.float32)
        std_values = torch.tensor(list(std), dtype=torch.float32)
        if mean_values.shape != std_values.shape or not len(mean_values):
            raise ValueError(
                f"mean has {len(mean_values)} values and std {len(std_values)}; accepted: one a "
                "channel in each."
            )
        # With NumPy, because the tensors have no values inside `with torch.device("meta")`.
        constants = np.array([[*mean], [*std]], dtype=np.float32)
        if not np.isfinite(constants).all() or not constants[1].all():
            raise ValueError(f"mean={tuple(mean)}, std={tuple(std)}; accepted: finite, std not 0.")
        self.register_buffer("mean", mean_values.view(-1, 1, 1))
        self.register_buffer("std", std_values.view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images.

        Args:
            images: float tensor (N, C, H, W) in pixel units 0–255.

        Returns:
            The same shape and dtype.
        """
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        """Show the constants when the module is printed."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def with_normalization(
    network: nn.Module,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    value_range: Literal[1, 255] | None = None,
) -> nn.Sequential:
    """Put a network's preprocessing in front of it, so that it takes images in pixel units 0–255.

    SIGN's step size, its clamp and everything else here are in grey levels. A network that was
    trained on normalised images becomes one that normalises them itself: nothing else about it
    changes, and the compiler folds the constants into its first layer.

    Args:
        network: takes normalised images (N, C, H, W). It becomes the module ``network`` of the
            result, so a layer called ``layer4`` is now ``network.layer4`` (as in ``layer=NAME``),
            and a weight ``network.fc.weight``. Its weights are shared, not copied.
        mean: of each channel, or one for all of three channels.
        std: likewise.
        value_range: 1 or 255: the largest pixel value of the images that mean and std were computed
            on. By default their size tells.

    Returns:
        A Sequential of ``normalize``, a `Normalize` with constants in pixel units, and ``network``;
        in the network's training mode, on its device, with its ``class_names`` if it has any.

    Raises:
        ValueError: mean and std could be in either unit (0 and 1, for example), or in none; of
            different lengths; a std of 0.

    Warns:
        PixelRangeWarning: the network begins with a normalisation of its own, which would get
            images that are normalised already.

    Example:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, 2))
        >>> model = with_normalization(network, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        >>> model.normalize
        Normalize(mean=[127.5, 127.5, 127.5], std=[63.75, 63.75, 63.75])
        >>> model(torch.full((5, 3, 1, 1), 255.0)).shape
        torch.Size([5, 2])
    """
    constants = in_pixel_units(mean, std, value_range=value_range)
    if twice := normalised_twice(network, constants):
        warnings.warn(
            f"{twice}: images would be normalised twice. Leave with_normalization out"
            + ("" if in_own_units(network) else ", or pass mean=0, std=255 (x / 255)"),
            PixelRangeWarning,
            stacklevel=2,
        )
    return put_first(network, Normalize(*constants))


def normalised_twice(network: nn.Module, constants: Constants) -> str:
    """Say which normalisation a network begins with, if it would get normalised images; else "".

    Args:
        network: without what is to come before it.
        constants: mean and std of that, in pixel units.

    Example:
        >>> network = nn.Sequential(Normalize(*IMAGENET), nn.Flatten())
        >>> normalised_twice(network, IMAGENET)[:62]
        'the network begins with a normalisation of its own, mean 123.7'
        >>> normalised_twice(nn.Flatten(), IMAGENET)
        ''
    """
    own = own_normalization(network)
    if own is None:
        return ""
    mean, std = constants_of(own)
    if all(each == 0 for each in mean) and all(each == 1 for each in std):
        return ""
    # The values that it is for, between which it would get those of 0 and 255.
    high = PIXEL_RANGE if in_own_units(network) else 1.0
    largest = max((PIXEL_RANGE - m) / s for m, s in zip(*constants, strict=True))
    least = min(-m / s for m, s in zip(*constants, strict=True))
    if 0.9 * high <= largest <= 1.1 * high and least >= -0.1 * high:
        return ""
    shown = ", ".join(f"{each:.4g}" for each in mean)
    spread = ", ".join(f"{each:.4g}" for each in std)
    return f"the network begins with a normalisation of its own, mean {shown} and std {spread}"


def in_own_units(network: nn.Module) -> bool:
    """Whether the normalisation that a network begins with is for pixel units 0–255."""
    own = own_normalization(network)
    if own is None or isinstance(own, Normalize):
        return own is not None
    try:
        return understood_range(*constants_of(own)) == PIXEL_RANGE
    except ValueError:
        return False


def put_first(network: nn.Module, first: nn.Module) -> nn.Sequential:
    """Return Sequential(normalize=first, network=network), in the network's mode and place."""
    own = next((each for each in network.parameters()), None)
    if own is not None:
        first = first.to(own.device)
    model = nn.Sequential(OrderedDict[str, nn.Module](normalize=first, network=network))
    model.training = first.training = network.training
    if hasattr(network, "class_names"):
        model.class_names = network.class_names
    return model


def in_pixel_units(
    mean: float | Sequence[float],
    std: float | Sequence[float],
    *,
    value_range: Literal[1, 255] | None = None,
) -> Constants:
    """Return mean and std in pixel units 0–255, however they were given.

    Args:
        mean: one value a channel, or one for three channels.
        std: likewise.
        value_range: 1 or 255, of the images they were computed on; None if their size is to tell.

    Raises:
        ValueError: the size does not tell, or the two disagree.

    Example:
        >>> in_pixel_units(0.5, 0.5)
        ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
    """
    means, stds = _channels(mean, std)
    if value_range not in (None, 1, 255):
        raise ValueError(f"value_range={value_range!r}; accepted: 1, 255 or None.")
    if (value_range or understood_range(means, stds)) == 1:
        means, stds = (tuple(PIXEL_RANGE * each for each in values) for values in (means, stds))
    return means, stds


def understood_range(mean: Sequence[float], std: Sequence[float]) -> Literal[1, 255]:
    """Tell from their size whether constants belong to images of 0–1 or of 0–255.

    Raises:
        ValueError: they could belong to both, or to neither.
    """
    largest_mean, largest_std = max(map(abs, mean)), max(map(abs, std))
    given = f"mean={tuple(mean)}, std={tuple(std)}"
    if largest_mean == 0 and all(each == 1 for each in std):
        raise ValueError(
            f"{given} is x/255 for images of 0–1 and changes nothing for images of 0–255: state "
            "value_range=1 or 255 (on the command line: --normalize 0,0,0 255,255,255 for x/255, "
            "--normalize none for no change)."
        )
    if largest_mean <= 1 and largest_std <= 1:
        return 1
    # A network of Caffe's time subtracts the mean and divides by 1.
    if (largest_mean > 1 or largest_mean == 0) and (
        largest_std > 1 or (largest_mean > 1 and all(each == 1 for each in std))
    ):
        return 255
    raise ValueError(
        f"{given}: one of the two looks like units of 0–1 and the other like 0–255; accepted: both "
        "in the same units."
    )


def recorded_normalization(network: nn.Module | NetworkName) -> Constants | None:
    """Return the mean and std that a library has recorded for a network.

    Args:
        network: a network that timm made, which carries its record, or the name of one, of
            torchvision's or of a folder of transformers (`parse_network_name`).

    Returns:
        The mean and the std of each channel in pixel units 0–255, ready for `with_normalization`;
        None if there is no record. timm's and torchvision's are those of the published weights.

    Raises:
        ValueError: no such network.
        ModuleNotFoundError: the library is not installed.

    Example:
        >>> from sign_ext.models import parse_network_name
        >>> mean, std = recorded_normalization(parse_network_name("torchvision:resnet18"))
        >>> [round(value, 1) for value in mean]
        [123.7, 116.3, 103.5]
    """
    return record_of(network).constants


def constants_beside(content: Any, unwrapped: Sequence[str]) -> tuple[Constants | None, str, str]:
    """Return the mean and std that a training script saved next to its weights.

    Args:
        content: of the file.
        unwrapped: the keys that lead to the weights, from the outside.

    Returns:
        Mean and std in pixel units, and the name of the mapping that they are in; or None, "", and
        why they are not understood, if there are any.

    Example:
        >>> saved = {"state_dict": {}, "config": {"mean": [0.5], "std": [0.25]}}
        >>> constants_beside(saved, ("state_dict",))
        (((127.5,), (63.75,)), 'config', '')
    """
    for wrapper in unwrapped:
        named = [(key, content[key]) for key in _RECORDS if isinstance(content.get(key), Mapping)]
        inner = [
            (f"{key}.{name}", value[name])
            for key, value in named
            for name in _RECORDS
            if isinstance(value.get(name), Mapping)
        ]
        for name, mapping in (("mean and std", content), *named, *inner):
            mean, std = _numbers(mapping.get("mean")), _numbers(mapping.get("std"))
            if not (mean and std and len(mean) == len(std)):
                continue
            try:
                return in_pixel_units(mean, std), name, ""
            except ValueError as error:
                return None, "", f"{name}: {error}"
        content = content[wrapper]
    return None, "", ""


def _numbers(value: Any) -> list[float] | None:
    """Return a value of each channel, or None if that is not what it is."""
    if isinstance(value, Tensor):
        value = value.flatten().tolist()
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _CHANNELS:
        return None
    return None if any(not isinstance(x, int | float) for x in value) else [float(x) for x in value]


def own_normalization(network: nn.Module) -> nn.Module | None:
    """Return the normalisation that a network begins with, None if it begins with another module.

    It is recognised by its name, Normalize, and its mean and std: this package's, torchvision's
    and kornia's.
    """
    module = network
    while not _normalizes(module):
        child = next(module.children(), None)
        if child is None:
            return None
        module = child
    return module


def constants_of(module: nn.Module) -> Constants:
    """Return the mean and std of a normalisation, in its own units."""
    mean, std = (
        tuple(torch.as_tensor(getattr(module, name)).double().flatten().tolist())
        for name in ("mean", "std")
    )
    return mean, std


def in_words(constants: Constants) -> str:
    """Put a mean and std in pixel units into words.

    Example:
        >>> in_words(IMAGENET)
        'mean 123.7, 116.3, 103.5 and std 58.4, 57.12, 57.38 (grey levels, 0–255)'
    """
    mean, std = (", ".join(f"{each:.4g}" for each in values) for values in constants)
    return f"mean {mean} and std {std} (grey levels, 0–255)"


def _normalizes(module: nn.Module) -> bool:
    return type(module).__name__ == "Normalize" and all(
        isinstance(getattr(module, name, None), Tensor | list | tuple) for name in ("mean", "std")
    )


def _channels(
    mean: float | Sequence[float], std: float | Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return both as one value a channel."""
    given = []
    for name, values in (("mean", mean), ("std", std)):
        try:
            found = np.atleast_1d(np.asarray(values, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name}={values!r}; accepted: a number for each channel.") from error
        if found.ndim != 1 or not found.size or not np.isfinite(found).all():
            raise ValueError(f"{name}={values!r}; accepted: a finite number for each channel.")
        given.append(found)
    count = max(map(len, given))
    count = 3 if count == 1 and np.isscalar(mean) and np.isscalar(std) else count
    means, stds = (np.resize(each, count) if len(each) == 1 else each for each in given)
    if len(means) != len(stds) or not stds.all():
        raise ValueError(
            f"mean={mean!r}, std={std!r}; accepted: as many values in each, one a channel, and no "
            "std of 0."
        )
    return tuple(means.tolist()), tuple(stds.tolist())
