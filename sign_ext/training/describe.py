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
from sign_ext.training.result import TrainResult
from sign_ext.training.settings import TrainSettings


def describe_augment(augment: Augment) -> dict[str, Any]:
    """Name an augmentation, with its options if it is a dataclass."""
    options: dict[str, Any] = {}
    if dataclasses.is_dataclass(augment):
        options = dataclasses.asdict(augment)
    return {"class": type(augment).__qualname__, **options}


def run_identity(
    model: nn.Module,
    train_set: ImageSet,
    validation: ImageSet,
    settings: TrainSettings,
    augment: Augment,
) -> dict[str, Any]:
    """What a run is made from, besides its initial weights, for telling whether it changed."""
    layers = {
        name or "whole": f"{type(m).__name__}({' '.join(m.extra_repr().split())})"
        for name, m in model.named_modules()
    }
    sets = {"train_set": train_set, "validation": validation}
    return {
        "settings": settings.to_dict(),
        "augment": describe_augment(augment),
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
    result: TrainResult,
) -> dict[str, Any]:
    """Fill in what the caller's configuration does not say."""
    described = {
        "settings": settings.to_dict(),
        "augment": describe_augment(augment),
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
