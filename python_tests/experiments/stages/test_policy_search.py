"""The policy search on sixty digits: its scores, its best policies, and resuming it."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_ext.augment import DeepAugment, NoAugment, load_policies, save_policies
from sign_ext.data import ImageSet, load_data
from sign_ext.experiments.stages import policy_search
from sign_ext.experiments.stages.policy_search import SearchResult, policy_of, search_policies
from sign_ext.models import build_model
from sign_ext.training import TrainSettings, train
from sign_ext.training.epoch import TrainingDivergedError

TRIALS = 4


@pytest.fixture(scope="module")
def sets() -> tuple[ImageSet, ImageSet]:
    splits = load_data("digits", train_size=60, image_size=16)
    return splits.train, splits.validation.subset(list(range(60)))


def search(sets: tuple[ImageSet, ImageSet], **changes: Any) -> SearchResult:
    """Two random trials, then the Gaussian process."""
    options: dict[str, Any] = {
        "trials": TRIALS,
        "epochs": 1,
        "batch_size": 20,
        "flips": False,
        "random_trials": 2,
        "seed": 5,
    }
    return search_policies(*sets, **{**options, **changes})


@pytest.fixture(scope="module")
def whole(sets: tuple[ImageSet, ImageSet], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search that nothing interrupted, and its storage."""
    storage = tmp_path_factory.mktemp("search") / "study.sqlite3"
    return search(sets, storage=storage), storage


def test_scores_are_those_of_children_trained_with_the_policies(sets: Any, whole: Any) -> None:
    found, _ = whole
    for policy, score in [*zip(found.policies, found.scores, strict=True), (None, found.baseline)]:
        torch.manual_seed(5)
        child = build_model("basic_cnn", num_classes=10, image_shape=(3, 16, 16))
        augment = NoAugment() if policy is None else DeepAugment((policy,))
        settings = TrainSettings(epochs=1, batch_size=20, seed=5)
        assert train(child, *sets, settings, augment=augment).best_validation_accuracy == score


def test_the_best_are_kept_best_first(whole: Any) -> None:
    found, _ = whole
    assert len(found.history) == TRIALS
    assert found.scores == tuple(sorted(found.history, reverse=True)[:3])
    assert len(found.policies) == len(set(found.policies)) == 3
    names = {op.name for p in found.policies for s in p.sub_policies for op in (s.first, s.second)}
    assert len(names) > 3
    assert not {name for name in names if "flip" in name}


def test_found_policies_can_be_kept(whole: Any, tmp_path: Path) -> None:
    save_policies(tmp_path / "policies.yaml", whole[0].policies)
    assert load_policies(tmp_path / "policies.yaml") == whole[0].policies


def tried(storage: Path) -> list[dict[str, Any]]:
    """The parameters of every trial with a score."""
    import optuna

    study = optuna.load_study(study_name=None, storage=f"sqlite:///{storage}")
    trials = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return [trial.params for trial in trials]


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", [1, 3, 5])
def test_a_killed_search_ends_as_it_would_have(
    killed_in: int, sets: Any, whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Child 1 is the baseline's, 3 the second of random trials, 5 the second of proposed ones."""
    calls = []

    def dies(*args: Any, **options: Any) -> Any:
        calls.append(options)
        if len(calls) == killed_in:
            raise KeyboardInterrupt
        return train(*args, **options)

    monkeypatch.setattr(policy_search, "train", dies)
    storage = tmp_path / "a folder" / "study.sqlite3"
    with pytest.raises(KeyboardInterrupt):
        search(sets, storage=storage)
    torch.manual_seed(killed_in)  # the caller's randomness plays no part
    assert search(sets, storage=storage) == whole[0]
    assert tried(storage) == tried(whole[1])
    assert len(calls) == 1 + TRIALS + 1  # only the child that was cut off is trained twice


def test_a_complete_search_trains_nothing_and_more_trials_continue_it(
    sets: Any, whole: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, storage = whole
    content = storage.read_bytes()
    monkeypatch.setattr(policy_search, "train", lambda *_, **__: pytest.fail("trained a child"))
    assert search(sets, storage=storage) == found
    fewer = search(sets, storage=storage, trials=2, top=1)
    assert fewer.history == found.history[:2]
    assert fewer.scores == (max(found.history[:2]),)
    assert storage.read_bytes() == content
    with pytest.raises(pytest.fail.Exception):
        search(sets, storage=storage, trials=TRIALS + 1)


def test_other_settings_are_refused_with_the_difference(sets: Any, whole: Any) -> None:
    _, storage = whole
    with pytest.raises(ValueError, match=r"epochs: 1 in the study, 2 now") as caught:
        search(sets, storage=storage, epochs=2, seed=6)
    assert "seed: 5 in the study, 6 now" in str(caught.value)
    assert "batch_size" not in str(caught.value)
    with pytest.raises(ValueError, match=r"operations: shear_x.*horizontal_flip"):
        search(sets, storage=storage, flips=True)
    with pytest.raises(ValueError, match=r"child_options: \{\} in the study, \{\"dropout\": 0"):
        search(sets, storage=storage, child_options={"dropout": 0.0})
    fewer = sets[0].subset(list(range(50)))
    with pytest.raises(ValueError, match="train_set: "):
        search((fewer, sets[1]), storage=storage)


def test_a_file_that_is_no_study_is_refused(sets: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, by any means" * 100)
    with pytest.raises(ValueError, match=r"notes.txt is not a study's SQLite file"):
        search(sets, storage=tmp_path / "notes.txt")


def test_a_policy_that_diverges_scores_0_and_a_diverging_baseline_stops(
    sets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_policies(*args: Any, augment: Any, **options: Any) -> Any:
        if isinstance(augment, DeepAugment):
            raise TrainingDivergedError("The loss", 1, 1)
        return train(*args, augment=augment, **options)

    def always(*args: Any, **options: Any) -> Any:
        raise TrainingDivergedError("The loss", 1, 1)

    monkeypatch.setattr(policy_search, "train", with_policies)
    found = search(sets, trials=2, top=1)
    assert found.history == (0.0, 0.0)
    assert found.baseline > 0
    monkeypatch.setattr(policy_search, "train", always)
    with pytest.raises(TrainingDivergedError):
        search(sets, trials=2, top=1)


def test_nothing_of_the_callers_is_changed(sets: Any, caplog: pytest.LogCaptureFixture) -> None:
    import optuna

    state, verbosity = torch.random.get_rng_state(), optuna.logging.get_verbosity()
    reports: list[tuple[int, int]] = []
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        search(sets, trials=2, top=2, progress=lambda done, total: reports.append((done, total)))
    assert reports == [(0, 2), (1, 2), (2, 2)]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert optuna.logging.get_verbosity() == verbosity
    assert not [record for record in caplog.records if record.levelno < logging.WARNING]


def test_a_trials_parameters_are_its_policy() -> None:
    params = {
        f"{i}.{place}.{key}": ("noise" if place == "first" else "rotate")
        if key == "name"
        else i / 10
        for i in range(5)
        for place in ("first", "second")
        for key in ("name", "magnitude")
    }
    policy = policy_of(params)
    assert [sub.first.name for sub in policy.sub_policies] == ["noise"] * 5
    assert [sub.second.magnitude for sub in policy.sub_policies] == [0.0, 0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trials": 0}, "trials must be an integer of at least 1; got 0"),
        ({"trials": 2, "top": 3}, "top=3 is more than trials=2"),
        ({"random_trials": 1.5}, "random_trials.*1.5"),
        ({"epochs": 0}, "epochs"),
        ({"child": "basic-cnn"}, "basic_cnn"),
    ],
)
def test_what_makes_no_sense_is_named(changes: dict[str, Any], says: str, sets: Any) -> None:
    with pytest.raises(ValueError, match=says):
        search(sets, **changes)
