"""The command line before any command runs: help, versions, configs, errors and exit codes."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sign_ext.cli import main
from sign_ext.commands import COMMANDS
from sign_ext.commands.options import CommonOptions, command_line

COMMON = ("--config", "--data-root", "--device", "--seed", "--json", "--debug")


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command line with the command's work left out, and return the options it would get."""

    def parse(*arguments: str) -> Any:
        seen: list[Any] = []
        module = importlib.import_module(f"sign_ext.commands.{arguments[0]}")
        monkeypatch.setattr(module, "run", seen.append)
        assert main(arguments) == 0
        return seen[0]

    return parse


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_to_type(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"sign-ext {command}" in text.split("examples:")[1]
    assert "exit codes:" in text
    for name in COMMON:
        assert name in text
    module = importlib.import_module(f"sign_ext.commands.{command}")
    for field in dataclasses.fields(module.Options):
        positional = field.metadata["positional"]
        name = field.metadata["option"]["metavar"] if positional else field.name.replace("_", "-")
        assert (name if positional else f"--{name}") in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_are_accepted(command: str, received: Callable[..., Any]) -> None:
    module = importlib.import_module(f"sign_ext.commands.{command}")
    joined = "\n".join(module.EXAMPLES).replace("\\\n", " ")
    for line in joined.splitlines():
        words = line.partition(" > ")[0].split()
        assert words[:2] == ["sign-ext", command]
        if "--config" not in words:  # an example's file is not there
            received(*words[1:])


def test_top_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    assert "130" in text


def test_python_dash_m_and_version() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sign_ext", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("sign-ext ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "bogus"),
        (["train", "--data", "digits", "--model", "basic_cnn"], "out"),
        (["train", "--epochs", "0", "--data", "d", "--model", "m", "--out", "o"], "--epochs"),
        (["train", "--epochz", "3", "--data", "d", "--model", "m", "--out", "o"], "--epochz"),
        (["evaluate", "--checkpoint", "x", "--draws", "many"], "--draws"),
        (["transform", "--checkpoint", "x", "--out", "o", "--clamp", "0"], "--clamp"),
        (["info", "--config", "missing.yaml"], "missing.yaml"),
        (["info", "--device", "tpu"], "accepted: auto, cpu, cuda"),
        (["demo", "--snapshots", "-5"], "--snapshots"),
    ],
)
def test_wrong_command_lines_exit_2_with_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert lines[0].startswith("sign-ext: error: ")
    assert says in lines[0]
    assert lines[1].startswith("Try: sign-ext ")
    assert len(lines) == 2
    assert captured.out == ""


def test_config_file_equals_flags(received: Callable[..., Any], tmp_path: Path) -> None:
    flags = received(
        *("transform", "--checkpoint", "c", "--data", "digits", "--out", "o", "--steps", "7"),
        *("--snapshots", "3", "7", "--clamp", "-1", "256.5", "--step-size", "1e-3", "--overwrite"),
    )
    config = tmp_path / "transform.yaml"
    config.write_text(
        "checkpoint: c\ndata: digits\nout: o\nsteps: 7\nsnapshots: [3, 7]\n"
        "clamp: [-1, 256.5]\nstep-size: 1e-3\noverwrite: true\n"
    )
    assert received("transform", "--config", str(config)) == flags
    assert flags.clamp == (-1.0, 256.5)
    later = received("transform", "--config", str(config), "--steps", "9")
    assert (later.steps, later.snapshots) == (9, (3, 7))


def test_printed_config_can_be_read_again(
    received: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", "--data", "digits", "--model", "basic_cnn", "--out", "o")
    arguments += ("--sign", "a", "b", "--model-options.padding", "keras")
    direct = received(*arguments)
    assert main([*arguments, "--print-config"]) == 0
    config = tmp_path / "train.yaml"
    config.write_text(capsys.readouterr().out)
    assert received("train", "--config", str(config)) == direct
    assert direct.sign == ("a", "b")
    assert direct.model_options == {"padding": "keras"}


def test_train_options_have_the_defaults_of_train_settings(received: Callable[..., Any]) -> None:
    from sign_ext.training import TrainSettings

    options = received("train", "--data", "d", "--model", "m", "--out", "o")
    assert options.train_settings() == TrainSettings()


def test_sign_options_have_the_names_and_defaults_of_sign_transform(
    received: Callable[..., Any],
) -> None:
    from sign_ext.settings import Settings

    options = received("transform", "--checkpoint", "c", "--out", "o")
    given = Settings(steps=options.steps, **options.sign_settings())
    assert given == dataclasses.replace(Settings(), batch_size=options.batch_size)
    assert options.step_size == Settings().step_size
    unbounded = dataclasses.replace(options, clamp=(0.0, float("inf")))
    assert Settings(**unbounded.sign_settings()).clamp == (0.0, None)


def test_help_names_every_data_set_and_model(capsys: pytest.CaptureFixture[str]) -> None:
    from sign_ext.data import DATA_NAMES
    from sign_ext.models import MODEL_NAMES

    main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*DATA_NAMES, *MODEL_NAMES))


def test_command_line_is_read_back_as_the_same_options(received: Callable[..., Any]) -> None:
    given = ("demo", "--snapshots", "2", "4", "--out", "a folder", "--seed", "3", "--json")
    options = received(*given)
    line = command_line("demo", options)
    assert "'a folder'" in line
    import shlex

    assert received(*shlex.split(line)[1:]) == options
    assert command_line("demo", received("demo")) == "sign-ext demo"
    assert command_line("info", CommonOptions()) == "sign-ext info"


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Run `info` with work that raises `error`, and return the exit code."""

    def work(options: Any) -> None:
        raise error

    monkeypatch.setattr(importlib.import_module("sign_ext.commands.info"), "run", work)
    return main(["info"])


def test_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIGN_EXT_DEBUG", raising=False)
    assert run_raising(monkeypatch, ValueError("two\nlines")) == 1
    assert capsys.readouterr().err == "sign-ext: error: two lines\n"


def test_debug_adds_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIGN_EXT_DEBUG", "1")
    assert run_raising(monkeypatch, ValueError("why")) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("sign-ext: error: why\n")


def test_interrupt_exits_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "sign-ext: interrupted\n"


def test_a_missing_package_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIGN_EXT_DEBUG", raising=False)
    assert run_raising(monkeypatch, ModuleNotFoundError("no timm", name="timm.models")) == 1
    assert 'pip install "sign-ext[experiments]"' in capsys.readouterr().err


def test_without_the_extras_even_help_names_them(tmp_path: Path) -> None:
    # What `pip install sign-ext` alone gives: jsonargparse cannot be imported.
    (tmp_path / "jsonargparse.py").write_text(
        "raise ModuleNotFoundError('no jsonargparse', name='jsonargparse')"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "sign_ext", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("sign-ext: error: the package 'jsonargparse' is missing")
    assert 'pip install "sign-ext[experiments]"' in done.stderr


def test_commands_module_imports_no_torch() -> None:
    # Help must be quick. The package's own __init__ is stood in for: it is not the command line's.
    code = (
        "import sys, types, pathlib; root = types.ModuleType('sign_ext');"
        "root.__path__ = [sys.argv[1]]; sys.modules['sign_ext'] = root;"
        "from sign_ext.cli import main; assert main(['train', '--help']) == 0;"
        "loaded = {'torch', 'torchvision', 'matplotlib', 'sklearn'} & set(sys.modules);"
        "assert not loaded, loaded"
    )
    import sign_ext

    folder = str(Path(sign_ext.__file__).parent)
    subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sign_ext.commands.console import UsageError
    from sign_ext.commands.shared import resolve_device

    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(is_available=lambda: True, device_count=lambda: 2)
    )
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UsageError, match="cuda:0 … cuda:1"):
        resolve_device("cuda:2")
    monkeypatch.setattr(
        torch, "cuda", SimpleNamespace(is_available=lambda: False, device_count=lambda: 0)
    )
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UsageError, match="use cpu"):
        resolve_device("cuda")
