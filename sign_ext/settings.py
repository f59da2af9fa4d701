"""The options of SIGN, checked once, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

from sign_ext.precision import PRECISIONS

LinearizeAt = Literal["iterate", "input"]
BACKENDS = ("auto", "autograd", "graphed", "fused", "onchip")


def _integer(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def _one_of(name: str, value: Any, accepted: Sequence[str]) -> str:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}; got {value!r}")
    return str(value)


def _clamp(clamp: Any) -> tuple[float | None, float | None] | None:
    if clamp is None:
        return None
    if isinstance(clamp, str) or not isinstance(clamp, Sequence) or len(clamp) != 2:
        raise TypeError(f"clamp must be a pair (lowest, highest) or None, got {clamp!r}")
    low, high = (None if bound is None else _number("clamp", bound) for bound in clamp)
    if low is None and high is None:
        return None
    if low is not None and high is not None and low > high:
        raise ValueError(f"clamp is reversed: lowest {low:g} is above highest {high:g}")
    return low, high


def _snapshots(snapshots: Any, steps: int) -> tuple[int, ...] | None:
    if snapshots is None:
        return None
    if isinstance(snapshots, str) or not isinstance(snapshots, Sequence):
        raise TypeError(f"snapshots must be steps such as (50, 100), got {snapshots!r}")
    if not snapshots:
        raise ValueError("snapshots is empty: name at least one step, or pass None for p*_K alone")
    kept = tuple(_integer("a snapshot", k, least=-(2**62)) for k in snapshots)
    for k in kept:
        if not 1 <= k <= steps:
            raise ValueError(
                f"snapshot {k} is outside 1…steps = 1…{steps}: raise steps or leave it out"
            )
    if len(set(kept)) != len(kept):
        raise ValueError(f"snapshots names a step twice: {kept}")
    return kept


@dataclass(frozen=True)
class Settings:
    """Everything that `iterative_sign` can be asked for; see there for the meanings.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of its range.
    """

    steps: int = 50
    layer: str | None = None
    step_size: float = 1.0
    momentum: float = 0.0
    linearize_at: LinearizeAt = "iterate"
    clamp: tuple[float | None, float | None] | None = None
    snapshots: Sequence[int] | None = None
    batch_size: int | None = None
    backend: str = "auto"
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check each option and keep it in its plain form."""
        keep = object.__setattr__
        keep(self, "steps", _integer("steps", self.steps))
        if self.layer is not None and not isinstance(self.layer, str):
            raise TypeError(
                f"layer must be a module's name as in model.named_modules(), got {self.layer!r}"
            )
        keep(self, "step_size", _number("step_size", self.step_size))
        keep(self, "momentum", _number("momentum", self.momentum))
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum:g}")
        _one_of("linearize_at", self.linearize_at, get_args(LinearizeAt))
        keep(self, "clamp", _clamp(self.clamp))
        keep(self, "snapshots", _snapshots(self.snapshots, self.steps))
        if self.batch_size is not None:
            keep(self, "batch_size", _integer("batch_size", self.batch_size))
        _one_of("backend", self.backend, BACKENDS)
        _one_of("precision", self.precision, PRECISIONS)

    @property
    def stops(self) -> tuple[int, ...]:
        """The steps whose iterates are returned, in order; nothing is computed beyond the last."""
        return tuple(sorted(self.snapshots)) if self.snapshots is not None else (self.steps,)
