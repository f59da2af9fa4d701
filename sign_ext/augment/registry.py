"""Augmentations by name, for configuration files and the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sign_ext.augment.base import Augment, NoAugment
from sign_ext.augment.classical import Classical
from sign_ext.augment.field import AugMix, CutMix, RandAugment, TrivialAugment
from sign_ext.augment.mixup import Mixup
from sign_ext.augment.policy import DeepAugment, load_policies

_BUILDERS: dict[str, Callable[..., Augment]] = {
    "none": NoAugment,
    "classical": Classical,
    "mixup": Mixup,
    "deepaugment": DeepAugment,
    "trivialaugment": TrivialAugment,
    "randaugment": RandAugment,
    "augmix": AugMix,
    "cutmix": CutMix,
}

AUGMENT_NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build_augment(name: str, **options: Any) -> Augment:
    """Build the augmentation called `name`; `Compose` joins several.

    Args:
        name: one of AUGMENT_NAMES.
        **options: the fields of its class, e.g. max_shift=0.05 for "classical". "mixup" and
            "cutmix" need num_classes, and "deepaugment" policies: Policy objects, or the path of a
            file for `load_policies`.

    Returns:
        The augmentation.

    Raises:
        ValueError: an unknown name or option (the message lists all, and the most similar one), a
            missing option, or a value out of range.

    Example:
        >>> build_augment("classical", max_rotation=5.0)
        Classical(horizontal_flip=True, vertical_flip=True, max_shift=0.1, max_rotation=5.0)
    """
    if name not in _BUILDERS:
        raise ValueError(_unknown("an augmentation", name, AUGMENT_NAMES))
    builder = _BUILDERS[name]
    fields = dataclasses.fields(builder)  # type: ignore[arg-type]
    accepted = tuple(field.name for field in fields)
    for option in options:
        if option not in accepted:
            raise ValueError(_unknown(f"an option of {name}", option, accepted))
    for field in fields:
        if field.default is dataclasses.MISSING and field.name not in options:
            raise ValueError(
                f"The augmentation {name!r} needs the option {field.name}: "
                f"build_augment({name!r}, {field.name}=…)."
            )
    if isinstance(options.get("policies"), str | Path):
        options["policies"] = load_policies(options["policies"])
    return builder(**options)


def _unknown(kind: str, name: str, accepted: tuple[str, ...]) -> str:
    """Return an error message about an unknown name, with the most similar one."""
    close = difflib.get_close_matches(str(name), accepted, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{name!r} is not {kind}; accepted: {', '.join(accepted) or 'no options'}.{hint}"
