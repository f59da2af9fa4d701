"""The state of a run after each epoch, in one file from which an interrupted run continues.

last.safetensors holds the model, the optimiser's tensors and the best weights so far. History,
settings and the run's identity are JSON in its header. It is a single file and replaced
atomically, so a run killed at any point leaves its last complete epoch. Nothing is unpickled.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_ext.data.guessing import doubt_of_accuracy, doubt_of_area
from sign_ext.files import open_tensors, parse_json, require_schema
from sign_ext.training.checkpoints import require_tensors, write_tensors
from sign_ext.training.processes import ONE_PROCESS, Processes

STATE_NAME = "last.safetensors"
_KEY = "sign_ext.run"


@dataclass(frozen=True)
class TrainResult:
    """The history of a training run and its selected epoch.

    Attributes:
        history: one dict per epoch (or checkpoint, see `TrainSettings.checkpoints`) with the keys
            epoch (from 1), train_loss and train_accuracy (averages over the epoch's augmented
            batches, while the weights were changing), validation_loss and validation_accuracy
            (after the epoch; with select="auc" also validation_auc), and steps (gradient steps so
            far). An epoch that max_steps cut short has a row too.
        best_epoch: the epoch with the highest validation accuracy (or area under the ROC curve,
            see `TrainSettings.select`), the first of equals.
        best_validation_accuracy: of that epoch, in 0–1.
        steps: gradient steps taken.
        seconds: wall-clock time of training and validation, over all resumed parts.
        doubt_of_learning: why the selected epoch does not show that the network learnt anything,
            see `doubt_of_training`; "" where it does.
    """

    history: list[dict[str, float | int]]
    best_epoch: int
    best_validation_accuracy: float
    steps: int
    seconds: float
    doubt_of_learning: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return dataclasses.asdict(self)


@dataclass
class RunState:
    """A run after a complete epoch.

    Attributes:
        epoch: epochs done.
        steps: gradient steps done.
        seconds: spent so far.
        history: as in TrainResult.
        best_epoch: 0 before the first epoch.
        best_accuracy: on the validation set, after best_epoch.
        best_weights: the state_dict after best_epoch, contiguous, on the training device.
    """

    epoch: int = 0
    steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, float | int]] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def add_epoch(
        self, row: dict[str, float | int], model: nn.Module, select: str = "accuracy"
    ) -> None:
        """Add an epoch's row, and copy the model's weights if it is the best so far."""
        measure = f"validation_{select}"
        best = max((each[measure] for each in self.history), default=-1.0)
        self.epoch, self.steps = int(row["epoch"]), int(row["steps"])
        self.history.append(row)
        # Strictly greater: the first of equal epochs is kept.
        if row[measure] > best:
            self.best_epoch, self.best_accuracy = self.epoch, float(row["validation_accuracy"])
            self.best_weights = {
                name: t.detach().clone(memory_format=torch.contiguous_format)
                for name, t in model.state_dict().items()
            }

    def result(self, select: str, labels: Tensor) -> TrainResult:
        """Return what `train` returns.

        Args:
            select: what selected the best epoch.
            labels: (N,) of all validation images.
        """
        doubt = doubt_of_training(self.history, select, labels)
        return TrainResult(
            self.history, self.best_epoch, self.best_accuracy, self.steps, self.seconds, doubt
        )


def doubt_of_training(
    history: Sequence[Mapping[str, float | int]], select: str, labels: Tensor
) -> str:
    """Say why a run's best epoch does not show that the network learnt anything, or "".

    The best validation accuracy must exceed what always answering the most common class gives, by
    an exact binomial test; selected by the area under the ROC curve, the best area must exceed
    0.5, by Mann and Whitney's. A network that guesses passes in at most 5% of the runs, however
    many epochs it has to choose from (`sign_ext.data.guessing`).

    Args:
        history: as in `TrainResult`.
        select: what selected the best epoch, "accuracy" or "auc".
        labels: int64 (N,), of all validation images.

    Example:
        >>> row = {"validation_accuracy": 0.25}
        >>> doubt_of_training([row], "accuracy", torch.arange(40) % 5)
        'its best validation accuracy, 25.0% on 40 images, is what guessing gives (20.0% of the \
most common class)'
        >>> doubt_of_training([{"validation_accuracy": 0.5}], "accuracy", torch.arange(40) % 5)
        ''
    """
    if not history:
        return ""
    counts = torch.bincount(labels.cpu()).tolist()
    images, tries = len(labels), len(history)
    best = max(float(row[f"validation_{select}"]) for row in history)
    if select == "auc":
        negatives, positives = counts
        return doubt_of_area(best, positives, negatives, of="best validation AUC", tries=tries)
    return doubt_of_accuracy(
        best,
        images,
        max(counts) / images,
        of="best validation accuracy",
        guess="of the most common class",
        tries=tries,
    )


_SCALARS = ("epoch", "steps", "seconds", "history", "best_epoch", "best_accuracy")


def save_state(
    folder: Path,
    state: RunState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    processes: int = 1,
) -> None:
    """Write last.safetensors, replacing that of the previous epoch.

    Args:
        folder: of the run.
        state: after the epoch.
        model: after the epoch.
        optimizer: after the epoch.
        identity: of the run, which :func:`load_state` compares.
        processes: number of processes that train the model.
    """
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in state.best_weights.items()}
    for i, parameter in enumerate(_parameters(optimizer)):
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{i}.{key}"] = value
    run = {
        "identity": identity,
        "environment": _environment(model, processes),
        **{name: getattr(state, name) for name in _SCALARS},
    }
    write_tensors(folder / STATE_NAME, tensors, {_KEY: json.dumps(run, allow_nan=False)})


def load_state(
    folder: Path | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    identity: Mapping[str, Any],
    processes: Processes = ONE_PROCESS,
) -> RunState:
    """Restore a run's model and optimiser, and return the rest of its state.

    Args:
        folder: with last.safetensors; None on all processes but the first, which reads it.
        model: of the run's architecture; its weights are replaced.
        optimizer: fresh, over the model's parameters.
        identity: of the run that is requested now.
        processes: that train the model; all call this and get the same state.

    Returns:
        The state, its tensors on the model's device.

    Raises:
        ValueError: the file is damaged, or belongs to a run with another identity; the message
            lists the differences.
    """

    def read() -> tuple[dict[str, Tensor], dict[str, Any]]:
        assert folder is not None
        tensors, run = _read(folder / STATE_NAME)
        _check_identity(folder, run["identity"], identity)
        # Files from before runs could span processes do not record their number.
        before = {"processes": 1, **run["environment"]}
        _warn_about_environment(before, _environment(model, processes.count))
        return tensors, run

    def read_and_check() -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, run = read()
        assert folder is not None
        _check_tensors(folder / STATE_NAME, tensors, model, optimizer)
        return tensors, run

    tensors, run = processes.call_on_first(read_and_check)
    model.load_state_dict(_with_prefix(tensors, "model."))
    for i, parameter in enumerate(_parameters(optimizer)):
        for key, value in _with_prefix(tensors, f"optimizer.{i}.").items():
            # In the parameter's layout, because the fused step goes through both in memory order.
            same_shape = value.shape == parameter.shape
            target = torch.empty_like(
                parameter if same_shape else value, device=parameter.device, dtype=value.dtype
            )
            optimizer.state[parameter][key] = target.detach().copy_(value)
    state = RunState(**{name: run[name] for name in _SCALARS})
    device = next(model.parameters()).device
    state.best_weights = {name: t.to(device) for name, t in _with_prefix(tensors, "best.").items()}
    return state


def _check_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Raise ValueError unless a state's tensors fit the model and its optimiser."""
    for prefix, what in (("model.", "weights"), ("best.", "best weights")):
        problem = f"The {what} in {path} do not match the model"
        require_tensors(problem, model.state_dict(), _with_prefix(tensors, prefix), infinite=True)
    parameters = _parameters(optimizer)
    moments: dict[int, set[str]] = {}
    for name, value in _with_prefix(tensors, "optimizer.").items():
        number, _, key = name.partition(".")
        place = int(number) if number.isdecimal() and len(number) < 9 else len(parameters)
        if place >= len(parameters):
            raise ValueError(f"{path}: optimizer.{name} belongs to no parameter of the model.")
        shape = parameters[place].shape
        if value.numel() != 1 and value.shape != shape:
            raise ValueError(
                f"{path}: optimizer.{name} is {tuple(value.shape)}, its parameter {tuple(shape)}."
            )
        if not bool(torch.isfinite(value.float()).all()):
            raise ValueError(f"{path}: optimizer.{name} has values that are not finite.")
        moments.setdefault(place, set()).add(key)
    # Parameters that never had a gradient have none; the others have the same.
    every = set().union(*moments.values())
    for place, keys in moments.items():
        if missing := sorted(every - keys):
            raise ValueError(f"{path}: optimizer.{place}.{missing[0]} is missing.")


def peek(folder: Path) -> tuple[int, int]:
    """Return the epochs and steps done by the run in a folder."""
    _, run = _read(folder / STATE_NAME, tensors=False)
    return run["epoch"], run["steps"]


def _check_identity(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    now = _as_json(now)
    if "class_names" not in before:  # files of early versions do not record them
        now = {key: value for key, value in now.items() if key != "class_names"}
    if "network" not in before or "network" not in now:  # nor the network's name
        before, now = (
            {key: value for key, value in each.items() if key != "network"}
            for each in (before, now)
        )
    differences = describe_differences(before, now)
    if differences:
        shown = differences[:8] + [f"and {len(differences) - 8} more"] * (len(differences) > 8)
        raise ValueError(
            f"The run in {folder} cannot be resumed, because this call differs from the one that "
            "started it:\n  "
            + ";\n  ".join(shown)
            + ".\nUse the original arguments, another folder, or overwrite the run (--overwrite)."
        )


def describe_differences(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    places: tuple[str, str] = ("in the folder", "now"),
) -> list[str]:
    """List the differences between two nested dicts, one line each with both values.

    Example:
        >>> describe_differences({"settings": {"epochs": 2}}, {"settings": {"epochs": 3}})
        ['settings.epochs: 2 in the folder, 3 now']
    """
    old, new = _flat(before), _flat(now)
    return [
        f"{key}: {old.get(key, 'nothing')} {places[0]}, {new.get(key, 'nothing')} {places[1]}"
        for key in list(dict.fromkeys([*old, *new]))
        if key not in old or key not in new or old[key] != new[key]
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = item
    return flat


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError

    from sign_ext.training.schema import RunPart

    try:
        with open_tensors(path) as file:
            metadata = file.metadata() or {}
            names = list(file.keys()) if tensors else []
            values = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}): remove it, or give another folder."
        ) from error
    if _KEY not in metadata:
        raise ValueError(f"{path} is not the state of a training run: give another folder.")
    where = f"the run's state in {path}"
    run = parse_json(metadata[_KEY], where)
    require_schema(RunPart, run, where)
    return values, run


def _environment(model: nn.Module, processes: int) -> dict[str, Any]:
    """Return what affects only the rounding of a result and the numbers that dropout draws."""
    return {
        "torch": torch.__version__,
        "device": next(model.parameters()).device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
    }


def _warn_about_environment(before: dict[str, Any], now: dict[str, Any]) -> None:
    differences = describe_differences(before, now)
    if differences:
        warnings.warn(
            "The resumed run continues, but will not be bit-identical to an uninterrupted one: "
            + "; ".join(differences),
            stacklevel=6,
        )
