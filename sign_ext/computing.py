"""The state in which Φ is computed, whatever state the caller is in, entered and left as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from sign_ext.eval_state import frozen
from sign_ext.precision import arithmetic


@contextmanager
def computing(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """Network frozen, arithmetic as asked for, no inference mode; all as before afterwards.

    A caller's autocast is switched off by the trajectory, for the images' device.
    """
    with torch.inference_mode(False), frozen(model), arithmetic(precision):
        yield
