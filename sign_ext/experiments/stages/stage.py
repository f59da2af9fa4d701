"""A stage: one piece of work whose outcome is kept under a hash of all that decides it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from sign_ext.experiments.stages.runner import RunContext


@dataclass(frozen=True, eq=False)
class Stage(ABC):
    """Work that tables share: training Φ, transforming a set, training on it, measuring.

    A stage is a frozen dataclass. Fields that are stages (or tuples of them) are its inputs; all
    others are its configuration. Two stages with the same key do the same work, so it is done once.

    Attributes:
        kind: names the stage's folder.
        version: raised whenever the same configuration comes to mean something else, so that
            outcomes of the old meaning are not taken for the new one's. The commit is recorded
            with each outcome, but an edit of a comment does not throw away days of training.
    """

    kind: ClassVar[str]
    version: ClassVar[int]

    @abstractmethod
    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Do the work.

        Args:
            context: gives the inputs' outcomes, the data and the device; takes progress.
            folder: for files; it may hold those of an attempt that was killed.

        Returns:
            The outcome's numbers, plain JSON values.
        """

    def flops(self) -> float:
        """Floating-point operations, estimated; 0 where they do not matter."""
        return 0.0

    def tidy(self, folder: Path) -> None:  # noqa: B027 (most stages leave nothing behind)
        """Remove what only an unfinished attempt needs; called when the outcome is on the disk."""

    def title(self) -> str:
        """What is going on, for a progress bar."""
        return self.kind

    def inputs(self) -> dict[str, Stage]:
        """The stages whose outcomes this one reads, by field name (and index in a tuple)."""
        found: dict[str, Stage] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Stage):
                found[field.name] = value
            elif isinstance(value, tuple):
                found |= {
                    f"{field.name}[{i}]": v for i, v in enumerate(value) if isinstance(v, Stage)
                }
        return found

    def config(self) -> dict[str, Any]:
        """Every field that is no stage, as plain JSON values."""
        return {
            field.name: _plain(value)
            for field in dataclasses.fields(self)
            if not _holds_stages(value := getattr(self, field.name))
        }

    def describe(self) -> dict[str, Any]:
        """What the key is the hash of."""
        return {
            "kind": self.kind,
            "version": self.version,
            "config": self.config(),
            "inputs": {name: stage.key for name, stage in self.inputs().items()},
        }

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits of SHA-256 over the description."""
        text = json.dumps(self.describe(), sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def walk(self) -> Iterator[Stage]:
        """This stage and all that it rests on, inputs first; a shared one comes repeatedly."""
        for stage in self.inputs().values():
            yield from stage.walk()
        yield self


def in_order(stages: list[Stage]) -> list[Stage]:
    """All stages that these rest on and these themselves, each once, inputs first.

    Example:
        >>> in_order([])
        []
    """
    found: dict[str, Stage] = {}
    for stage in stages:
        for each in stage.walk():
            found.setdefault(each.key, each)
    return list(found.values())


def _holds_stages(value: object) -> bool:
    return isinstance(value, Stage) or (
        isinstance(value, tuple) and any(isinstance(each, Stage) for each in value)
    )


def _plain(value: Any) -> Any:
    """Turn dataclasses, mappings and tuples into what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
