"""SIGN's options: names, types, defaults, accepted values, help texts and checks, without torch.

`iterative_sign`, `SignTransform`, the command line and a store's manifest take them from here. The
function and the class write their signatures out, so that `help()` and editors show them; a test
compares the two with `Settings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

LinearizeAt = Literal["iterate", "input"]
Precision = Literal["float32", "tf32", "bfloat16"]
LINEARIZE_AT: tuple[str, ...] = get_args(LinearizeAt)
PRECISIONS: tuple[str, ...] = get_args(Precision)
BACKENDS = ("auto", "autograd", "graphed", "fused", "onchip")
OBJECTIVES = ("features", "cross_entropy", "logit", "margin")
UPDATES = ("gradient", "sign", "l2")
NORMS = ("linf", "l2")
Objective = str | Callable[..., Any]


@dataclass(frozen=True)
class Option:
    """One option of SIGN, as the command line needs it.

    Attributes:
        name: its keyword.
        default: its value where none is given.
        help: one sentence or two for `--help`.
        accepted: the values it can take; () where they are not a list of names.
    """

    name: str
    default: Any
    help: str
    accepted: tuple[str, ...] = ()


def _option(default: Any, help: str, accepted: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "accepted": accepted})


@dataclass(frozen=True)
class StepRule:
    """What one step climbs, and how far: SIGN's own by default.

    Attributes:
        objective: "features", the sum over Φ; or a name or function of the network's output.
        update: "gradient", "sign" or "l2"; "none" leaves the images, and the gradient is kept.
        project: (norm, radius) of the ball around the originals, or None.
    """

    objective: Objective = "features"
    update: str = "gradient"
    project: tuple[str, float] | None = None

    @property
    def reads_output(self) -> bool:
        """Whether the cotangent is made from the network's output in each step, not of ones."""
        return self.objective != "features"

    @property
    def needs_labels(self) -> bool:
        """Whether the objective is defined by a class of each image."""
        return self.objective in ("cross_entropy", "logit", "margin")

    @property
    def needs_delta(self) -> bool:
        """Whether a step needs the whole gradient in memory before it moves an image."""
        return self.update != "gradient" or self.project is not None

    @property
    def objective_name(self) -> str:
        """The objective in words."""
        if isinstance(self.objective, str):
            return self.objective.replace("_", " ")
        function = self.objective
        return f"the function {getattr(function, '__name__', type(function).__name__)!r}"

    def __str__(self) -> str:
        """One phrase: objective, update, projection."""
        steps = {
            "gradient": "steps along its gradient",
            "sign": "steps along its gradient's sign",
            "l2": "steps along its gradient, divided by each image's L2 norm",
            "none": "its gradient alone",
        }
        text = f"{self.objective_name}; {steps[self.update]}"
        if self.project is not None:
            norm, radius = self.project
            text += f", projected to the {norm} ball of {radius:g} around the images"
        return text


SIGN = StepRule()


@dataclass(frozen=True)
class Settings:
    """Every option that decides the result of SIGN, checked; `SignTransform` says what each means.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of its range.
    """

    steps: int = _option(50, "K: how often the gradient δ is added.")
    layer: str | None = _option(
        None,
        "Module whose outputs are summed, Φ. Default: the input of the final classifier layer.",
    )
    step_size: float = _option(1.0, "Factor of the gradient δ; `sign-ext calibrate` proposes one.")
    momentum: float = _option(0.0, "μ of v ← μv + δ, p ← p + step·v; 0 is the paper's Algorithm 1.")
    linearize_at: LinearizeAt = _option(  # noqa: RUF009 (a field, as all of these are)
        "iterate",
        "Where δ is taken: at each iterate, or once at the original image.",
        LINEARIZE_AT,
    )
    clamp: tuple[float | None, float | None] | None = _option(
        None,
        "Keep pixels in this range (grey levels; -inf or inf: no bound). Default: no clamp.",
    )
    snapshots: Sequence[int] | None = _option(
        None, "Keep the images after each of these step counts. Default: only after --steps."
    )
    batch_size: int | None = _option(
        None,
        "Images worked on at once; does not change the result. Default: 128 on a CPU, on a GPU "
        "what fills it and fits by the memory plan.",
    )
    backend: str = _option(
        "auto",
        "What runs the steps; `sign-ext info` says which backends can run here.",
        BACKENDS,
    )
    precision: str = _option("float32", "Arithmetic of a float32 network.", PRECISIONS)

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
        keep(self, "clamp", _clamp(self.clamp))
        keep(self, "snapshots", _snapshots(self.snapshots, self.steps))
        if self.batch_size is not None:
            keep(self, "batch_size", _integer("batch_size", self.batch_size))
        for option in OPTIONS.values():
            if option.accepted:
                _check_accepted(option, getattr(self, option.name))

    @property
    def rule(self) -> StepRule:
        """What a step climbs, and how: in SIGN, the sum over Φ along its gradient."""
        return SIGN

    @property
    def stops(self) -> tuple[int, ...]:
        """The steps whose iterates are returned, in order; nothing is computed beyond the last."""
        return tuple(sorted(self.snapshots)) if self.snapshots is not None else (self.steps,)

    def with_steps(self, steps: int) -> Settings:
        """Return the same options for another K, whose last iterate alone is returned.

        Args:
            steps: K.

        Raises:
            TypeError, ValueError: as for the option.
        """
        return replace(self, steps=steps, snapshots=None)

    @property
    def of_a_step(self) -> Settings:
        """What a compiled or recorded step depends on: every option but how many there are."""
        return self.with_steps(1)


@dataclass(frozen=True)
class IterationSettings(Settings):
    """SIGN's options and those of any objective, update and projection; `iterate_inputs` has them.

    Raises:
        TypeError: an option is of the wrong type.
        ValueError: an option is out of its range.
    """

    objective: Objective = "features"
    update: str = "gradient"
    project: tuple[str, float] | None = None

    def __post_init__(self) -> None:
        """Check each option and keep it in its plain form."""
        super().__post_init__()
        if isinstance(self.objective, str):
            _check_named("objective", self.objective, OBJECTIVES, ", or a function")
        elif not callable(self.objective):
            raise TypeError(
                f"objective must be one of {', '.join(OBJECTIVES)}, or a function from the "
                f"network's output to one number an image; got {self.objective!r}"
            )
        _check_named("update", self.update, UPDATES)
        object.__setattr__(self, "project", _ball(self.project))

    @property
    def rule(self) -> StepRule:
        """The three options that SIGN does not have."""
        return StepRule(self.objective, self.update, self.project)


@dataclass(frozen=True)
class GradientSettings(IterationSettings):
    """The same for the gradient alone: one step that moves nothing."""

    @property
    def rule(self) -> StepRule:
        """The objective's gradient is kept, and the images stay."""
        return StepRule(self.objective, "none")


OPTIONS: Mapping[str, Option] = {
    each.name: Option(each.name, each.default, **each.metadata) for each in fields(Settings)
}


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


def _check_accepted(option: Option, value: Any) -> None:
    if value not in option.accepted:
        raise ValueError(
            f"{option.name} must be one of {', '.join(option.accepted)}; got {value!r}"
        )


def _check_named(name: str, value: Any, accepted: tuple[str, ...], more: str = "") -> None:
    if value not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(accepted)}{more}; got {value!r}")


def _ball(project: Any) -> tuple[str, float] | None:
    if project is None:
        return None
    if isinstance(project, str) or not isinstance(project, Sequence) or len(project) != 2:
        raise TypeError(
            f'project must be a pair (norm, radius) such as ("linf", 8) or None, got {project!r}'
        )
    norm, radius = project
    _check_named("project's norm", norm, NORMS)
    radius = _number("project's radius", radius)
    if radius <= 0:
        raise ValueError(f"project's radius must be above 0, in the images' units; got {radius:g}")
    return norm, radius


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
