"""A stage: one piece of work whose outcome is kept under a hash of everything that decides it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field

from sign_ext.data import Splits
from sign_ext.experiments.stages.sources import Source
from sign_ext.formatting import is_added_default, plain


class StageRefusedError(ValueError):
    """A stage cannot be done for a reason that lies in what it was given, such as a Φ.

    Stages that need it are left out, and all others are run.
    """


@dataclass(frozen=True, eq=False)
class Stage(ABC):
    """Work that tables share: training Φ, transforming a set, training on it, measuring.

    A stage is a frozen dataclass. Fields that are stages (or tuples of them) are its inputs; all
    others are its configuration. Two stages with the same key do the same work, so it is done once.

    The key is on disk, so what enters it must stay: `kind`, `version`, the names of the fields and
    their values (of a dataclass, its field names and values). Class and module names do not enter.

    Attributes:
        kind: names the stage's folder.
        version: raised whenever the same configuration comes to mean something else, so that old
            outcomes are not taken for new ones. A hash of the code would be safer, but then an
            edited comment would throw away days of training; the commit is recorded instead.
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

    def clean_up(self, folder: Path) -> None:  # noqa: B027 (most stages have nothing to remove)
        """Remove what only an unfinished attempt needs; called once the outcome is on disk."""

    def warning(self, numbers: Mapping[str, Any]) -> str:
        """What whoever runs this must be told of its outcome; "" for nothing.

        Args:
            numbers: as `run` returned them.
        """
        return ""

    def title(self) -> str:
        """A short description for progress bars."""
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
        """Every field that is not a stage, as plain JSON values; see `formatting.plain`."""
        return {
            field.name: plain(value)
            for field in dataclasses.fields(self)
            if not _holds_stages(value := getattr(self, field.name))
            and not is_added_default(field, value)
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

    @property
    def artefact(self) -> str:
        """The name of the stage's folder."""
        return f"{self.kind}-{self.key}"


@dataclass(frozen=True)
class Outcome:
    """A finished stage.

    Attributes:
        stage: that was done.
        folder: with its files.
        numbers: that it returned.
        seconds: it took, over all attempts where it can resume.
        made: with which commit, on which device and with how many threads; empty if not recorded.
    """

    stage: Stage
    folder: Path
    numbers: Mapping[str, Any]
    seconds: float
    made: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class RunContext:
    """What a running stage may use.

    Attributes:
        device: to compute on.
        outcome: of an input, which is finished by then.
        data: splits of a source, read once.
        data_root: where the data sets' files are.
        report: progress callback, report(done, total).
    """

    device: torch.device
    outcome: Callable[[Stage], Outcome]
    data: Callable[[Source], Splits]
    data_root: str | None
    report: Callable[[int, int], None]


def topological_order(stages: Sequence[Stage]) -> list[Stage]:
    """These stages and all their direct and indirect inputs, each once, inputs first.

    Example:
        >>> topological_order([])
        []
    """
    found: dict[str, Stage] = {}

    def add(stage: Stage) -> None:
        if stage.key not in found:  # or its inputs are there, too
            for each in stage.inputs().values():
                add(each)
            found[stage.key] = stage

    for stage in stages:
        add(stage)
    return list(found.values())


def _holds_stages(value: object) -> bool:
    return isinstance(value, Stage) or (
        isinstance(value, tuple) and any(isinstance(each, Stage) for each in value)
    )


# What a stage's record must look like, for pydantic.


class RecordPart(BaseModel):
    """stage.json; what else is in it is for people."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: dict[str, Any]
    numbers: dict[str, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
