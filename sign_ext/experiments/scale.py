"""How large the experiments are: a YAML file for each scale in sign_ext/configs, none in code."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from sign_ext.experiments.names import DESCRIBING, EXPERIMENTS
from sign_ext.formatting import ADDED
from sign_ext.training import TrainSettings

SCALES = ("smoke", "small", "medium", "gpu", "paper")


@dataclass(frozen=True)
class Task:
    """Images to learn from.

    Attributes:
        data: a name for `load_data`.
        batch_size: images in a gradient step.
        train_size, validation_size, test_size: None takes all images.
        image_size: height and width in pixels; None takes the data set's own.
        flips: whether a mirrored image still belongs to its class.
        baseline: the method that trains Φ, a key of `planner.METHODS` (the paper: classical
            augmentation, and none for ISIC).
        select: what selects a network's best checkpoint, see `TrainSettings`.
        stand_in: what it replaces, where it is not the paper's data; "" otherwise.
    """

    data: str
    batch_size: int = 128
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    flips: bool = True
    baseline: str = "classical"
    select: str = field(default="accuracy", metadata=ADDED)
    stand_in: str = ""


@dataclass(frozen=True)
class NetworkSettings:
    """A network and how it is trained, the same for every method.

    Attributes:
        label: its name in tables.
        model: its name for `build_model`.
        options: of the model.
        task: the name of the task that it is trained on.
        epochs: passes over the training set (the paper: 100, BasicCNN 200).
        learning_rates: of which the best by validation is taken instead of learning_rate, found
            once by training as Φ is trained, with a seed that no table has; then the same for
            every method. Empty takes learning_rate.
        phi_epochs: of Φ; None takes epochs. The paper's Φ is "well-trained", which takes longer
            than the networks that are compared can be given at a small scale.
        learning_rate, optimizer, weight_decay, schedule, precision: see `TrainSettings`.
        note: what the paper leaves open, or where this is not the paper's network; "" otherwise.
    """

    label: str
    model: str
    epochs: int
    task: str = "cifar10"
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    weight_decay: float = 0.0
    schedule: str = "constant"
    precision: str = "float32"
    note: str = ""
    learning_rates: tuple[float, ...] = field(default=(), metadata=ADDED)
    phi_epochs: int | None = field(default=None, metadata=ADDED)

    def train_settings(self, batch_size: int, seed: int, **changes: Any) -> TrainSettings:
        """The settings of a training run."""
        names = ("epochs", "learning_rate", "optimizer", "weight_decay", "schedule", "precision")
        own = {name: getattr(self, name) for name in names}
        return TrainSettings(**{**own, "batch_size": batch_size, "seed": seed, **changes})


@dataclass(frozen=True)
class SignSettings:
    """SIGN's settings in the recipes.

    Attributes:
        snapshots: K of the versions that join the training set (the paper: 50 and 100).
        target_share: rms change over 255 to calibrate the step size to; the paper has no step
            size.
        target_shares: of which the best by validation accuracy is chosen instead, once for each
            network, with a seed of its own; empty takes target_share.
        calibration_images: validation images to calibrate on.
        precision: of the transform's arithmetic.
        require_learnt: refuse a Φ that is not better than guessing on validation images: the
            gradient of such a network says nothing, and no step size makes it say more.
    """

    snapshots: tuple[int, ...] = (50, 100)
    target_share: float = 0.02
    target_shares: tuple[float, ...] = field(default=(), metadata=ADDED)
    calibration_images: int = 256
    precision: str = "float32"
    require_learnt: bool = field(default=False, metadata=ADDED)


@dataclass(frozen=True)
class SearchSettings:
    """DeepAugment's search.

    Attributes:
        trials: policies to try.
        child_images: training images of the small child networks.
        epochs: of a child.
        top: policies to keep.
    """

    trials: int
    child_images: int
    epochs: int
    top: int = 3


@dataclass(frozen=True)
class Margins:
    """The smallest differences that matter, within which two methods count as equal.

    Where one is None, no difference is too small to matter, and none is called equal.

    Attributes:
        accuracy: of accuracies.
        auc: of areas under ROC curves.
        low: of the share of right answers that are given with p ≤ 0.5.
    """

    accuracy: float | None = None
    auc: float | None = None
    low: float | None = None


@dataclass(frozen=True)
class Scale:
    """All settings of all experiments.

    Attributes:
        name: one of SCALES, or a file's name.
        about: one sentence for reports.
        seeds: how many by default.
        draws: how often each corruption is drawn.
        pixels: how many are turned off in an image.
        sigma: of the noise, grey levels.
        samples: T of Eq. 10, in training and in evaluation.
        ood: name and options for `load_ood`.
        ood_stand_in: as `Task.stand_in`.
        tasks, networks: by name.
        sign, search: see `SignSettings`, `SearchSettings`.
        experiments: an experiment's name → its own options.
        protocol: 1 is that of the first results, which a scale without this setting has: Φ starts
            from the weights of the networks that are trained on its images, all seeds have the same
            training images, and each epoch is validated. 2: see docs/reproduce.md.
        primary: the network of the primary comparison, SIGN against noise at equal gradient steps;
            "" for none.
        margins: see `Margins`.
        only: the experiments that the scale is made for, in which it keeps its families of
            comparisons; empty for all that there are. See `accepted`.
    """

    name: str
    about: str
    seeds: int
    draws: int
    samples: int
    tasks: dict[str, Task]
    networks: dict[str, NetworkSettings]
    sign: SignSettings
    search: SearchSettings
    ood: dict[str, Any]
    ood_stand_in: str = ""
    pixels: int = 50
    sigma: float = 10.0
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    protocol: int = field(default=1, metadata=ADDED)
    primary: str = field(default="", metadata=ADDED)
    margins: Margins = field(default_factory=Margins, metadata=ADDED)
    only: tuple[str, ...] = field(default=(), metadata=ADDED)

    @property
    def accepted(self) -> tuple[str, ...]:
        """The experiments that can be run at this scale, in the paper's order."""
        wanted = (*self.only, *DESCRIBING) if self.only else EXPERIMENTS
        return tuple(name for name in EXPERIMENTS if name in wanted)


def load_scale(name: str) -> Scale:
    """Read the settings of a scale.

    Args:
        name: one of SCALES, or the path of a YAML file of the same form.

    Raises:
        FileNotFoundError: it is neither.
        ValueError: the file has an unknown key or an invalid value; the message names it.

    Example:
        >>> load_scale("paper").sign.snapshots
        (50, 100)
    """
    import yaml

    if name in SCALES:
        text = (files("sign_ext") / "configs" / f"{name}.yaml").read_text("utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text("utf-8")
    else:
        raise FileNotFoundError(
            f"scale {name!r} is neither one of {', '.join(SCALES)} nor an existing YAML file"
        )
    try:
        record = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error
    if not isinstance(record, Mapping):
        raise ValueError(f"{name} must hold a mapping of settings, as configs/small.yaml does")
    return scale_from(name, record)


def scale_from(name: str, record: Mapping[str, Any]) -> Scale:
    """Build a scale from plain values; unknown and missing settings are errors."""
    parts: dict[str, Any] = dict(record)
    for key, kind in (("tasks", Task), ("networks", NetworkSettings)):
        entries = _mapping(f"{name}: {key}", parts.get(key))
        parts[key] = {n: _build(kind, v, f"{name}: {key}.{n}") for n, v in entries.items()}
    parts["sign"] = _build(SignSettings, parts.get("sign") or {}, f"{name}: sign")
    parts["margins"] = _build(Margins, parts.get("margins") or {}, f"{name}: margins")
    parts["search"] = _build(SearchSettings, parts.get("search"), f"{name}: search")
    scale: Scale = _build(Scale, {"name": Path(name).stem, **parts}, name)
    if len(scale.sign.target_shares) == 1:
        raise ValueError(
            f"{name}: sign.target_shares is {scale.sign.target_shares}; accepted: two or more to "
            "choose among, or none, and the one as sign.target_share"
        )
    if scale.protocol not in (1, 2):
        raise ValueError(f"{name}: protocol is {scale.protocol!r}; accepted: 1, 2")
    if scale.primary and scale.primary not in scale.networks:
        raise ValueError(
            f"{name}: primary is {scale.primary!r}; accepted: {', '.join(scale.networks)}"
        )
    if unknown := [each for each in scale.only if each not in EXPERIMENTS]:
        raise ValueError(f"{name}: only names {unknown[0]!r}; accepted: {', '.join(EXPERIMENTS)}")
    for key, network in scale.networks.items():
        if network.phi_epochs is not None and network.phi_epochs < 1:
            raise ValueError(
                f"{name}: networks.{key}.phi_epochs is {network.phi_epochs}; accepted: 1 or more, "
                "or none to take epochs"
            )
        if network.task not in scale.tasks:
            raise ValueError(
                f"{name}: networks.{key}.task is {network.task!r}; accepted: "
                f"{', '.join(scale.tasks)}"
            )
        task = scale.tasks[network.task]
        if len(network.learning_rates) == 1:
            raise ValueError(
                f"{name}: networks.{key}.learning_rates is {network.learning_rates}; accepted: two "
                "or more to choose among, or none, and the one as learning_rate"
            )
        for rate in (network.learning_rate, *network.learning_rates):
            # Raises if a value is out of range.
            network.train_settings(task.batch_size, 0, select=task.select, learning_rate=rate)
    return scale


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping; got {value!r}")
    return value


def _build(kind: type[Any], value: Any, where: str) -> Any:
    """Make a dataclass from a mapping, lists to tuples; errors name unknown and missing keys."""
    values = _mapping(where, value)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{where} has no setting {key!r}{hint}; accepted: {', '.join(fields)}")
    required = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [n for n in required if n not in values]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
