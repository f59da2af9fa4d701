"""Augmentations by name, for configurations and the command line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

from sign_ext.augment.base import Augment, NoAugment
from sign_ext.augment.classical import Classical

_BUILDERS: dict[str, Callable[..., Augment]] = {"none": NoAugment, "classical": Classical}

AUGMENT_NAMES: tuple[str, ...] = tuple(_BUILDERS)


def build_augment(name: str, **options: Any) -> Augment:
    """Build the augmentation called `name`.

    Args:
        name: one of AUGMENT_NAMES.
        **options: the fields of its class, e.g. max_shift=0.05 for "classical".

    Returns:
        The augmentation.

    Raises:
        ValueError: an unknown name or option; the message gives the closest one and all there are.

    Example:
        >>> build_augment("classical", max_rotation=5.0)
        Classical(horizontal_flip=True, vertical_flip=True, max_shift=0.1, max_rotation=5.0)
    """
    if name not in _BUILDERS:
        raise ValueError(_unknown("augmentation", name, AUGMENT_NAMES))
    builder = _BUILDERS[name]
    accepted = tuple(f.name for f in dataclasses.fields(builder))  # type: ignore[arg-type]
    for option in options:
        if option not in accepted:
            raise ValueError(_unknown(f"option of augmentation {name!r}", option, accepted))
    return builder(**options)


def _unknown(what: str, given: str, accepted: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(given), accepted, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    there_are = f"There are: {', '.join(accepted)}." if accepted else "It has none."
    return f"Unknown {what}: {given!r}.{hint} {there_are}"
