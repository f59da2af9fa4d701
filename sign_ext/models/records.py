"""What timm, torchvision and transformers record about a network: preprocessing, sizes, classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from sign_ext.models import hugging_face
from sign_ext.models.network_name import NetworkName, closest

Constants = tuple[tuple[float, ...], tuple[float, ...]]

_RANGE = 255.0


@dataclass(frozen=True)
class Record:
    """What a library knows about a network beside its layers.

    Attributes:
        origin: whose record it is, in words.
        constants: mean and std of each channel, in pixel units 0–255.
        image_shape: (C, H, W) of the images that its published weights are for.
        num_classes: that they have.
    """

    origin: str = ""
    constants: Constants | None = None
    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None


def record_of(network: nn.Module | NetworkName) -> Record:
    """Return the record of a network, an empty one if there is none.

    Args:
        network: a network, which carries its record if timm made it, or the name of one.

    Raises:
        ValueError: the library has no such network.
        ModuleNotFoundError: the library is not installed.
    """
    if isinstance(network, nn.Module):
        config = getattr(network, "pretrained_cfg", None)
        return _timm(config, f"timm's record of this {type(network).__name__}")
    check_listed(network)
    if network.kind == "timm":
        import timm

        found = timm.get_pretrained_cfg(network.name, allow_unregistered=True)
        return _timm(None if found is None else found.to_dict(), f"timm's record of {network.name}")
    if network.kind == "torchvision":
        return _torchvision(network.name)
    if network.kind == "hf":
        return _hugging_face(network.name)
    return Record()


def check_listed(name: NetworkName) -> None:
    """Raise ValueError unless timm or torchvision lists a network, if it is of one of these.

    Raises:
        ValueError: it does not; the message suggests the closest.
        ModuleNotFoundError: the library is not installed.
    """
    if name.kind == "timm":
        known, names, where = _listed_by_timm(name.name)
    elif name.kind == "torchvision":
        from torchvision import models

        names = list(models.list_models(module=models))
        known = name.name in names
        where = "torchvision.models.list_models(module=torchvision.models)"
    else:
        return
    if not known:
        raise ValueError(
            f"{name.kind} has no network {name.name!r}{closest(name.name, names)}; accepted: the "
            f"{len(names):,} names of {where}"
        )


def _listed_by_timm(name: str) -> tuple[bool, list[str], str]:
    """Whether timm has a network, or a tag of one; the names that it has, and where they are."""
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        return False, timm.list_models(), "timm.list_models()"
    names = timm.list_pretrained(f"{base}.*")
    return not tag or name in names, names, f"timm.list_pretrained('{base}.*')"


def _timm(config: Any, origin: str) -> Record:
    """Read timm's pretrained_cfg."""
    if not isinstance(config, Mapping):
        return Record()
    mean, std = config.get("mean"), config.get("std")
    constants = _pixel_units(mean, std) if mean and std else None
    shape = config.get("input_size")
    return Record(
        origin,
        constants,
        tuple(shape) if shape and len(shape) == 3 else None,
        config.get("num_classes") or None,
    )


def _torchvision(name: str) -> Record:
    """Read the transforms of torchvision's default weights."""
    from torchvision import models

    try:
        weights = models.get_model_weights(name).DEFAULT
        transforms = weights.transforms()
    except (AttributeError, ValueError, RuntimeError):
        return Record()
    size = int(transforms.crop_size[0])
    return Record(
        f"torchvision's transforms of {weights}",
        _pixel_units(transforms.mean, transforms.std),
        (3, size, size),
        len(weights.meta["categories"]),
    )


def _hugging_face(name: str) -> Record:
    """Read the preprocessor_config.json and config.json of a folder."""
    folder = hugging_face.folder_of(name)
    config = hugging_face.read_config(folder)
    found = hugging_face.read_preprocessor(folder)
    side = hugging_face.image_side(found, config)
    channels = int(config.get("num_channels", 3))
    return Record(
        f"the preprocessor_config.json of {name}",
        hugging_face.normalization(found, channels),
        None if side is None else (channels, *side),
        hugging_face.count_classes(config),
    )


def _pixel_units(mean: Sequence[float], std: Sequence[float]) -> Constants:
    means, stds = (tuple(round(_RANGE * each, 6) for each in values) for values in (mean, std))
    return means, stds  # without the digits that float64 adds to 0.224 × 255
