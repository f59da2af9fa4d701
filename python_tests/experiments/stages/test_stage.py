"""A stage's key is decided by what decides its outcome, and by nothing else."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from sign_ext.experiments.stages.stage import Stage, topological_order


@dataclass(frozen=True, eq=False)
class Number(Stage):
    kind: ClassVar[str] = "number"
    version: ClassVar[int] = 1

    value: float
    table: dict[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, context, folder):
        return {"value": self.value}


@dataclass(frozen=True, eq=False)
class Sum(Stage):
    kind: ClassVar[str] = "sum"
    version: ClassVar[int] = 1

    parts: tuple[Stage, ...]
    scale: float = 1.0

    def run(self, context, folder):
        return {}


def test_the_key_changes_with_configuration_inputs_and_version_and_nothing_else(monkeypatch):
    one = Sum((Number(1.0), Number(2.0)), 3.0)
    assert one.key == Sum((Number(1.0), Number(2.0)), 3.0).key
    others = [
        Sum((Number(2.0), Number(1.0)), 3.0),
        Sum((Number(1.0), Number(2.5)), 3.0),
        Sum((Number(1.0),), 3.0),
        Sum((Number(1.0), Number(2.0)), 3.5),
        Sum((Number(1.0, {"a": (1, 2)}), Number(2.0)), 3.0),
    ]
    assert len({each.key for each in others} | {one.key}) == 6
    monkeypatch.setattr(Number, "version", 2)
    assert Sum((Number(1.0), Number(2.0)), 3.0).key != one.key


def test_a_tuple_and_a_list_mean_the_same():
    assert Number(1.0, {"k": [1, 2]}).key == Number(1.0, {"k": (1, 2)}).key


def test_inputs_come_first_and_shared_ones_once():
    shared = Number(1.0)
    first, second = Sum((shared, Number(2.0))), Sum((Number(1.0), Number(3.0)))
    ordered = topological_order([first, second])
    keys = [stage.key for stage in ordered]
    assert len(keys) == len(set(keys)) == 5
    for stage in ordered:
        assert all(keys.index(i.key) < keys.index(stage.key) for i in stage.inputs().values())


def test_the_name_of_the_class_does_not_enter_the_key():
    renamed = dataclasses.dataclass(frozen=True, eq=False)(type("Renamed", (Number,), {}))
    assert renamed(1.0).key == Number(1.0).key
    assert renamed(1.0).artefact == f"number-{Number(1.0).key}"
