"""Policies as YAML files that a person can read and change."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sign_ext.augment.operations import Operation
from sign_ext.augment.policy import Policy, SubPolicy
from sign_ext.files import write_whole

_HEADER = """\
# DeepAugment policies: each image draws one of all sub-policies and gets its two operations.
# Magnitudes are in [0, 1]; sign_ext/augment/operations.py says what each operation does at 1.
"""


def save_policies(path: str | Path, policies: Iterable[Policy]) -> None:
    """Write policies to a YAML file, which appears whole or not at all.

    Args:
        path: of the file; one that is there is replaced. Its folder is made if need be.
        policies: one or more, best first.

    Raises:
        ValueError: there is none.

    Example:
        >>> pair = SubPolicy(Operation("rotate", 0.4), Operation("cutout", 0.5))
        >>> save_policies("policies.yaml", [Policy((pair,) * 5)])
    """
    import yaml

    described = [
        {"sub_policies": [dataclasses.asdict(sub) for sub in policy.sub_policies]}
        for policy in policies
    ]
    if not described:
        raise ValueError("policies is empty: give at least one Policy.")
    text = yaml.safe_dump({"policies": described}, sort_keys=False, default_flow_style=None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _HEADER + text)


def load_policies(path: str | Path) -> tuple[Policy, ...]:
    """Read policies from a YAML file.

    Args:
        path: of a file that `save_policies` wrote, or one written by hand in the same form.

    Returns:
        The policies, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: what it holds are no policies; the message names the entry.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path} is not a YAML file: {said}") from error
    try:
        (policies,) = _mapping("the file", content, ("policies",))
        return _sequence("policies", policies, _policy)
    except ValueError as error:
        raise ValueError(f"{path} holds no policies: {error}") from error


def _policy(where: str, value: Any) -> Policy:
    (given,) = _mapping(where, value, ("sub_policies",))
    subs = _sequence(f"{where}.sub_policies", given, _sub_policy)
    return _make(where, Policy, subs)


def _sub_policy(where: str, value: Any) -> SubPolicy:
    first, second = _mapping(where, value, ("first", "second"))
    return SubPolicy(
        _operation(f"{where}.first", first),
        _operation(f"{where}.second", second),
    )


def _operation(where: str, value: Any) -> Operation:
    name, magnitude = _mapping(where, value, ("name", "magnitude"))
    return _make(where, Operation, name, magnitude)


def _make(where: str, kind: Callable[..., Any], *values: Any) -> Any:
    """Build an object, with the entry's name in front of what it finds wrong."""
    try:
        return kind(*values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def _mapping(where: str, value: Any, keys: Sequence[str]) -> list[Any]:
    """Return the values of exactly these keys."""
    if not isinstance(value, dict) or set(value) != set(keys):
        given = f"the keys {', '.join(map(str, value))}" if isinstance(value, dict) else repr(value)
        raise ValueError(
            f"{where} must be a mapping with {' and '.join(keys)}, and nothing else; got {given}."
        )
    return [value[key] for key in keys]


def _sequence(where: str, value: Any, read: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """Read a list that is not empty, entry by entry."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where} must be a list with at least one entry; got {value!r}.")
    return tuple(read(f"{where}[{i}]", entry) for i, entry in enumerate(value))
