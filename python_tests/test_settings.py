"""SIGN's options are spelled in `settings` alone: all who take them agree with it."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
import typing
from types import SimpleNamespace

import pytest
import torch

from sign_ext import SignTransform, iterative_sign
from sign_ext.settings import BACKENDS, LINEARIZE_AT, OPTIONS, PRECISIONS, Settings

# As stores, checkpoints and result files have them: renaming one makes old ones unreadable.
ON_DISK = (
    "steps",
    "layer",
    "step_size",
    "momentum",
    "linearize_at",
    "clamp",
    "snapshots",
    "batch_size",
    "backend",
    "precision",
)


def test_names_on_disk_are_as_they_were():
    assert tuple(OPTIONS) == ON_DISK


@pytest.mark.parametrize("taker", [iterative_sign, SignTransform])
def test_signatures_are_those_of_settings(taker):
    parameters = inspect.signature(taker).parameters
    own = {
        "model",
        "images",
        "tune",
        "strict",
        "model_kwargs",
        "out",
        "progress",
    }  # not what is to be computed
    assert [name for name in parameters if name not in own] == list(OPTIONS)
    types = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name, option in OPTIONS.items():
        assert parameters[name].default == option.default, name
        assert parameters[name].annotation == types[name], name
        positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
        assert (parameters[name].kind is positional) == (name == "steps")
        assert f"        {name}: " in (taker.__doc__ or "")
    assert set(parameters) - own == set(OPTIONS)


def test_defaults_are_valid_and_every_option_has_a_help_text():
    settings = Settings()
    for name, option in OPTIONS.items():
        assert getattr(settings, name) == option.default
        assert option.help.endswith(".")
        assert not option.accepted or option.default in option.accepted
    assert OPTIONS["backend"].accepted == BACKENDS
    assert OPTIONS["precision"].accepted == PRECISIONS
    assert OPTIONS["linearize_at"].accepted == LINEARIZE_AT


@pytest.mark.parametrize("name", [name for name, option in OPTIONS.items() if option.accepted])
def test_accepted_values_are_taken_and_others_refused(name):
    for value in OPTIONS[name].accepted:
        assert getattr(Settings(**{name: value}), name) == value
    with pytest.raises(ValueError, match=f"{name} must be one of {OPTIONS[name].accepted[0]}, "):
        Settings(**{name: "other"})


# What a command declares otherwise than `settings`, and why.
OTHERWISE = {
    ("calibrate", "steps"): {"help"},  # of the `transform` to come
    ("bench", "steps"): {"default", "help"},  # of a timed call
    ("bench", "precision"): {"help"},  # of every contender
    ("transform", "step_size"): {"help"},  # auto is accepted too
    ("demo", "snapshots"): {"default", "help"},  # the paper's two versions
    ("demo", "step_size"): {"default", "help"},  # calibrated
}


@pytest.mark.parametrize("command", ["transform", "calibrate", "bench", "demo"])
def test_the_command_line_takes_them_from_settings(command):
    import importlib

    options = importlib.import_module(f"sign_ext.commands.{command}").Options
    fields = {field.name: field for field in dataclasses.fields(options)}
    if command == "demo":
        del fields["batch_size"]  # of its training
    taken = [name for name in OPTIONS if name in fields]
    assert taken
    if command == "transform":
        assert taken == list(OPTIONS)
    for name in taken:
        spec = fields[name].metadata["option"]
        found = {"default": fields[name].default, "help": spec.help}
        wanted = {"default": OPTIONS[name].default, "help": OPTIONS[name].help}
        differs = {key for key in found if found[key] != wanted[key]}
        assert differs == OTHERWISE.get((command, name), set()), name
        if OPTIONS[name].accepted:
            assert typing.get_args(spec.type) == OPTIONS[name].accepted


def test_a_stores_manifest_records_every_option():
    from sign_ext.store.iteration import InputsIteration
    from sign_ext.store.provenance import provenance_of

    sign = SignTransform(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), 9)

    class Source:
        name, note, fingerprint = "images", "for this test", "0"

        def __len__(self) -> int:
            return 3

    answers = SimpleNamespace(source_layer="", backend="autograd", arithmetic="")
    recorded = provenance_of(InputsIteration(sign), Source(), answers)["settings"]
    assert tuple(recorded) == ON_DISK
    assert recorded["steps"] == 9
    assert recorded["snapshots"] == [9]


def test_settings_load_without_torch():
    """From its file: so `--help` could ask it without the package around it."""
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('settings', {inspect.getfile(Settings)!r});"
        "module = importlib.util.module_from_spec(spec); sys.modules['settings'] = module; "
        "spec.loader.exec_module(module); print(module.Settings().steps, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["50", "False"]
