"""Names on the command line, of networks and data sets, checked before anything is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sign_ext.commands.console import UsageError
from sign_ext.data.names import DATA_NAMES, OOD_NAMES, is_path
from sign_ext.formatting import closest, did_you_mean
from sign_ext.models.network_name import MODEL_NAMES, NetworkName, parse_network_name


def check_name(argument: str, given: str, accepted: Sequence[str]) -> None:
    """Raise UsageError, suggesting the closest name, unless `given` is one of `accepted`.

    Args:
        argument: what is named, as in the help, "--model" for example.
        given: the name on the command line.
        accepted: the names there are.
    """
    if given not in accepted:
        hint = did_you_mean(given, accepted) or ";"
        raise UsageError(f"{argument} is {given!r}{hint} accepted: {', '.join(accepted)}")


def check_model_name(name: str) -> None:
    """Raise UsageError unless `name` is one of sign_ext's own networks."""
    check_name("--model", name, MODEL_NAMES)


def parse_name(name: str) -> NetworkName:
    """Return --model as a `NetworkName`.

    Raises:
        UsageError: it names no network.
    """
    try:
        return parse_network_name(name)
    except ValueError as error:
        raise UsageError(f"--model: {error}") from error


def check_network_name(name: str) -> None:
    """Raise UsageError unless `name` has the form of a network's name, ours or others'."""
    parse_name(name)


def check_data_name(name: str) -> None:
    """Raise UsageError unless `name` is a data set, an existing folder, or a tar file's path."""
    known = ", ".join(DATA_NAMES)
    if name in OOD_NAMES:
        raise UsageError(
            f"--data is {name!r}, a test set for `sign-ext reproduce table3`, not a training set; "
            f"accepted: {known}, or an existing folder or tar"
        )
    if name not in DATA_NAMES and not is_path(name):
        close = closest(name, [*DATA_NAMES, *_folders_near(name)])
        hint = ";" if close is None else f", did you mean {close!r}?"
        raise UsageError(
            f"--data is {name!r}{hint} accepted: {known}, or an existing folder or tar"
        )


def _folders_near(name: str) -> list[str]:
    """Return the folders and tars beside the one that is named, written as it is."""
    path = Path(name)
    try:
        found = sorted(path.parent.iterdir())
        return [str(path.with_name(each.name)) for each in found if is_path(str(each))]
    except (OSError, ValueError):
        return []
