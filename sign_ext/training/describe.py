"""A run in plain values: what it is made from, and the configuration its checkpoint carries."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import sign_ext
from sign_ext.augment import Augment
from sign_ext.data import ImageSet, fingerprint
from sign_ext.training.objective import Objective
from sign_ext.training.result import TrainResult
from sign_ext.training.settings import TrainSettings


def describe_part(part: Augment | Objective) -> dict[str, Any]:
    """Name an augmentation or objective, with its options, and so its parts, if a dataclass."""
    described = _plain(part)
    if isinstance(described, dict):
        return described
    return {"class": type(part).__qualname__}


def _plain(value: Any) -> Any:
    """Turn dataclasses, however deep in tuples, into dicts that name their class.

    Tuples of dataclasses become dicts by position, so that a difference names the entry.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__qualname__, **fields}
    if isinstance(value, tuple | list):
        items = [_plain(item) for item in value]
        if items and all(isinstance(item, dict) for item in items):
            return {str(i): item for i, item in enumerate(items)}
        return items
    return value


def run_identity(
    model: nn.Module,
    train_set: ImageSet,
    validation: ImageSet,
    settings: TrainSettings,
    augment: Augment,
    objective: Objective,
) -> dict[str, Any]:
    """What a run is made from, besides its initial weights, for telling whether it changed."""
    layers = {
        name or "whole": f"{type(m).__name__}({' '.join(m.extra_repr().split())})"
        for name, m in model.named_modules()
    }
    sets = {"train_set": train_set, "validation": validation}
    return {
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        **{
            key: {"name": s.name, "images": len(s), "sha256": fingerprint(s)}
            for key, s in sets.items()
        },
        "model": {"parameters": sum(p.numel() for p in model.parameters()), "layers": layers},
    }


def full_config(
    config: Mapping[str, Any] | None,
    train_set: ImageSet,
    settings: TrainSettings,
    augment: Augment,
    objective: Objective,
    result: TrainResult,
) -> dict[str, Any]:
    """Fill in what the caller's configuration does not say."""
    described = {
        "settings": settings.to_dict(),
        "augment": describe_part(augment),
        "objective": describe_part(objective),
        "train_set": train_set.name,
        "best_epoch": result.best_epoch,
        "best_validation_accuracy": result.best_validation_accuracy,
        "steps": result.steps,
    }
    defaults: dict[str, Any] = {
        "train": described,
        "class_names": list(train_set.class_names),
        "versions": {
            "sign_ext": sign_ext.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    return {**defaults, **(config or {})}
