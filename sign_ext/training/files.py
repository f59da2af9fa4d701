"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


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
    _replace(path, lambda temporary: save_file(plain, temporary, metadata=dict(metadata)))


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN and Inf are refused."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    _replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, flush to disk, and rename over it."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
