"""The study behind a policy search, in an SQLite file that a killed search continues from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STUDY_NAME = "policies"


def completed(study: Study) -> list[FrozenTrial]:
    """List the trials that have a score, in order."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Let Optuna speak of warnings only, and not of its Gaussian process being experimental."""
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
def opened_study(storage: str | Path | None, identity: Mapping[str, Any]) -> Iterator[Study]:
    """Open or begin the study, see that it was made with these settings, and close it.

    Args:
        storage: its SQLite file; None keeps it in memory.
        identity: what its scores depend on, in one level of plain values.

    Raises:
        ValueError: the file is no study, or holds one made with other settings.
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
        # Trials that a killed process left open would count as evidence for the next ones.
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
    """Write the settings into a new study; compare them with those of an old one."""
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
            f"The search in {storage} cannot be continued, because it was made with other "
            "settings:\n  " + "\n  ".join(differences) + "\nGive what it was started with, or "
            "another storage."
        )
