"""A run's files: tensors as safetensors and settings as JSON, each whole or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sign_ext.files import replacing, write_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and text metadata as one safetensors file, atomically.

    Args:
        path: the file; whatever was there is replaced in one step.
        tensors: name → tensor on any device, in any memory format. Names may share storage: each
            is written out in full.
        metadata: name → text, kept in the file's header.
    """
    from safetensors.torch import save_file

    # clone() also parts tied weights, which safetensors refuses to write twice.
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata=dict(metadata))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and Inf are refused."""
    write_whole(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
