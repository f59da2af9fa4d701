"""The search for DeepAugment's policies: Bayesian optimisation with a small child network.

`search_policies` searches; its study is an SQLite file, from which a killed search continues. The
stage `SearchPolicies` does it for an experiment.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from sign_ext.augment import (
    SUB_POLICIES,
    Augment,
    DeepAugment,
    NoAugment,
    Operation,
    Policy,
    SubPolicy,
    operation_names,
    save_policies,
)
from sign_ext.data import ImageSet, fingerprint
from sign_ext.data.splits import stratified_choice
from sign_ext.experiments.stages.cost import TRAINING, flops_per_image
from sign_ext.experiments.stages.sources import Source
from sign_ext.experiments.stages.stage import RunContext, Stage
from sign_ext.models import build_model
from sign_ext.progress import Progress, reporting
from sign_ext.training import TrainSettings, train
from sign_ext.training.epoch import TrainingDivergedError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STUDY_NAME = "policies"


@dataclass(frozen=True)
class SearchResult:
    """The best policies of a search.

    Attributes:
        policies: best first; ties go to the earlier trial.
        scores: the best validation accuracy of each one's child, 0–1.
        baseline: that of a child trained without augmentation.
        history: the score of every trial, in order.
    """

    policies: tuple[Policy, ...]
    scores: tuple[float, ...]
    baseline: float
    history: tuple[float, ...]


def search_policies(
    train_set: ImageSet,
    validation: ImageSet,
    *,
    trials: int,
    child: str = "basic_cnn",
    child_options: Mapping[str, Any] | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    top: int = 3,
    flips: bool = True,
    random_trials: int = 10,
    seed: int = 0,
    storage: str | Path | None = None,
    device: str | torch.device = "cpu",
    progress: Progress = False,
) -> SearchResult:
    """Search augmentation policies by the validation accuracy of children trained with them.

    A Gaussian process over five sub-policies of two operations (their names, and magnitudes in
    [0, 1]) proposes the policy of the next trial by expected improvement (Optuna's GPSampler). All
    children start from the same weights and see the same batches, so their scores differ by the
    policy. A child whose training diverges scores 0.

    On a CPU with the same number of threads the result is a function of the arguments: each
    trial's random state is derived from the seed and the trial's number, so a search that was
    killed and is called again gives the same result. Only one process at a time may use a storage.

    Args:
        train_set: trains the children; a subset of a few thousand images keeps trials short.
        validation: measures them; never the test set.
        trials: policies to try; a higher number continues a stored search.
        child: a name for `build_model`.
        child_options: the network's own options.
        epochs: of each child.
        batch_size: of each child.
        learning_rate: of each child's Adam.
        top: policies to return, at most `trials`.
        flips: False excludes flips, for images whose mirror image means something else.
        random_trials: how many first trials are drawn at random.
        seed: of the search and of the children.
        storage: SQLite file of the study, created if it does not exist; None keeps it in memory.
        device: where children are trained.
        progress: True for a bar on stderr, or a callable(done, total) in trials.

    Returns:
        The best policies, their scores, and the baseline.

    Raises:
        ValueError: a number out of range, or a storage that is not a study or was made with other
            settings (the message lists them).
        TrainingDivergedError: the child without augmentation diverged.

    Example:
        >>> from sign_ext.data import load_data
        >>> data = load_data("digits", train_size=60, image_size=16)
        >>> result = search_policies(
        ...     data.train, data.validation, trials=2, epochs=1, top=1, flips=False
        ... )
        >>> len(result.policies), len(result.history)
        (1, 2)
    """
    _check_counts(trials=trials, top=top, random_trials=random_trials)
    settings = TrainSettings(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed
    )
    names = operation_names(flips=flips)
    children = _Children(
        train_set, validation, child, dict(child_options or {}), settings, torch.device(device)
    )
    identity = {
        **children.identity(),
        "operations": ", ".join(names),
        "random_trials": random_trials,
    }
    with (
        _quiet_optuna(),
        _opened_study(storage, identity) as study,
        reporting(progress, trials, "policy search") as report,
    ):
        baseline = study.user_attrs.get("baseline")
        if baseline is None:
            baseline = children.score(NoAugment())
            study.set_user_attr("baseline", baseline)
        while (done := len(_completed(study))) < trials:
            if report:
                report(done)
            study.sampler = _sampler(seed, done, random_trials)
            trial = study.ask(_search_space(names))
            study.tell(trial, children.score_or_zero(DeepAugment((policy_of(trial.params),))))
        if report:
            report(trials)
        tried = _completed(study)[:trials]
    history = tuple(float(trial.value or 0.0) for trial in tried)
    best = sorted(range(trials), key=lambda i: (-history[i], i))[:top]
    return SearchResult(
        policies=tuple(policy_of(tried[i].params) for i in best),
        scores=tuple(history[i] for i in best),
        baseline=float(baseline),
        history=history,
    )


def policy_of(params: Mapping[str, Any]) -> Policy:
    """Build the policy that a trial's parameters describe.

    Args:
        params: the keys of the search space, e.g. "3.first.name" and "3.first.magnitude".
    """
    return Policy(
        tuple(
            SubPolicy(
                *(
                    Operation(params[f"{i}.{place}.name"], params[f"{i}.{place}.magnitude"])
                    for place in ("first", "second")
                )
            )
            for i in range(SUB_POLICIES)
        )
    )


@dataclass(frozen=True, eq=False)
class SearchPolicies(Stage):
    """Search augmentation policies with a small child network (the paper's reference [18]).

    Policies are learned on the original images alone; the paper applies them to those and to
    SIGN's.

    Attributes:
        source: the images.
        child_images: training images of a child, a stratified subset.
        trials: policies that are tried.
        epochs: of a child.
        batch_size: of a child.
        top: how many of the best policies are kept.
        flips: whether an image may be mirrored.
        seed: of the search and the children.
    """

    kind: ClassVar[str] = "search"
    version: ClassVar[int] = 1
    FILE: ClassVar[str] = "policies.yaml"

    source: Source
    child_images: int
    trials: int
    epochs: int
    batch_size: int
    top: int
    flips: bool
    seed: int

    def title(self) -> str:
        """Name the seed."""
        return f"search augmentation policies, {self.trials} trials, seed {self.seed}"

    def flops(self) -> float:
        """The children's training."""
        size = self.source.image_size or 32
        per_image = flops_per_image("basic_cnn", {}, (3, size, size))
        return per_image * TRAINING * self.child_images * self.epochs * (self.trials + 1)

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Search, continuing the study of a killed attempt."""
        splits = context.data(self.source)
        chosen = stratified_choice(splits.train.labels.numpy(), self.child_images, seed=0)
        result = search_policies(
            splits.train.subset(chosen.tolist()),
            splits.validation,
            trials=self.trials,
            epochs=self.epochs,
            batch_size=self.batch_size,
            top=self.top,
            flips=self.flips,
            seed=self.seed,
            storage=folder / "study.sqlite3",
            device=context.device,
            progress=context.report,
        )
        save_policies(folder / self.FILE, result.policies)
        return {"scores": list(result.scores), "baseline": result.baseline}


def _check_counts(*, trials: int, top: int, random_trials: int) -> None:
    for name, number in (("trials", trials), ("top", top), ("random_trials", random_trials)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be an integer of at least 1; got {number!r}.")
    if top > trials:
        raise ValueError(f"top={top} is more than trials={trials}: lower top.")


def _search_space(names: tuple[str, ...]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    space: dict[str, BaseDistribution] = {}
    for i in range(SUB_POLICIES):
        for place in ("first", "second"):
            space[f"{i}.{place}.name"] = CategoricalDistribution(names)
            space[f"{i}.{place}.magnitude"] = FloatDistribution(0.0, 1.0)
    return space


def _sampler(seed: int, trial: int, random_trials: int) -> Any:
    """Make a new sampler for each trial, so that all state it has is in the study's file."""
    from optuna.samplers import GPSampler

    derived = int(np.random.SeedSequence([seed, trial]).generate_state(1, np.uint32)[0])
    return GPSampler(seed=derived, n_startup_trials=random_trials)


@dataclass(frozen=True, eq=False)
class _Children:
    """Builds, trains and measures child networks."""

    train_set: ImageSet
    validation: ImageSet
    network: str
    options: dict[str, Any]
    settings: TrainSettings
    device: torch.device

    def identity(self) -> dict[str, Any]:
        """Everything scores depend on besides the policy, as a flat mapping of plain values."""
        return {
            "train_set": fingerprint(self.train_set),
            "validation": fingerprint(self.validation),
            "child": self.network,
            "child_options": json.dumps(self.options, sort_keys=True),
            **self.settings.to_dict(),
        }

    def score(self, augment: Augment) -> float:
        """Train a child and return its best validation accuracy."""
        channels, height, width = self.train_set.images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed the CUDA generators, which are not restored here.
            torch.default_generator.manual_seed(self.settings.seed)
            model = build_model(
                self.network,
                num_classes=len(self.train_set.class_names),
                image_shape=(channels, height, width),
                **self.options,
            )
        result = train(
            model,
            self.train_set,
            self.validation,
            self.settings,
            augment=augment,
            device=self.device,
        )
        return result.best_validation_accuracy

    def score_or_zero(self, augment: Augment) -> float:
        """As `score`, but 0 if training diverges."""
        try:
            return self.score(augment)
        except TrainingDivergedError:
            return 0.0


def _completed(study: Study) -> list[FrozenTrial]:
    """List the trials that have a score, in order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna below warnings, and its warning that GPSampler is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def _opened_study(storage: str | Path | None, identity: Mapping[str, Any]) -> Iterator[Study]:
    """Open or create the study, check that it was made with these settings, and close it.

    Args:
        storage: its SQLite file; None keeps it in memory.
        identity: what its scores depend on, as a flat mapping of plain values.

    Raises:
        ValueError: the file is not a study, or was made with other settings.
    """
    import optuna
    from optuna.trial import TrialState

    if storage is None:
        study = optuna.create_study(direction="maximize", study_name=STUDY_NAME)
        yield study
        return
    opened = _open_storage(Path(storage))
    try:
        study = optuna.create_study(
            storage=opened, study_name=STUDY_NAME, direction="maximize", load_if_exists=True
        )
        _check_settings(Path(storage), study, identity)
        # A killed process leaves a running trial, and the sampler takes those into account.
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        yield study
    finally:
        opened.remove_session()
        opened.engine.dispose()


def _open_storage(path: Path) -> Any:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL
    from sqlalchemy.exc import DatabaseError

    path.parent.mkdir(parents=True, exist_ok=True)
    url = URL.create("sqlite", database=str(path)).render_as_string()
    try:
        return RDBStorage(url)
    except DatabaseError as error:
        raise ValueError(
            f"storage={path} is not a study's SQLite file ({error.orig}): remove it, or give "
            "another path."
        ) from error


def _check_settings(storage: Path, study: Study, identity: Mapping[str, Any]) -> None:
    """Record the settings of a new study; compare those of an existing one."""
    before = study.user_attrs.get("settings")
    if before is None:
        study.set_user_attr("settings", dict(identity))
        return
    differences = [
        f"{key}: {before.get(key, 'nothing')} in the study, {identity.get(key, 'nothing')} now"
        for key in dict.fromkeys([*before, *identity])
        if before.get(key) != identity.get(key)
    ]
    if differences:
        raise ValueError(
            f"The search in {storage} cannot be continued, because it was started with other "
            "settings:\n  " + "\n  ".join(differences) + "\nUse the settings it was started with, "
            "or another storage."
        )
