"""The command line before any command runs: help, versions, configs, errors and exit codes."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sign_ext.cli import main
from sign_ext.commands import COMMANDS
from sign_ext.commands.options import OutputOptions, command_line, spec_of

COMMON = ("--config", "--print-config", "--json", "--debug", "--help")


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run a command line with the command's work left out, and return the options it would get."""

    def parse(*arguments: str) -> Any:
        seen: list[Any] = []
        module = importlib.import_module(f"sign_ext.commands.{arguments[0]}")
        monkeypatch.setattr(module, "run", seen.append)
        monkeypatch.setattr("sign_ext.cli.check_values", lambda options: None)
        assert main(arguments) == 0
        return seen[0]

    return parse


@pytest.mark.parametrize("command", COMMANDS)
def test_help_tells_what_to_type(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"sign-ext {command}" in text.split("examples:")[1]
    for name in COMMON:
        assert name in text
    module = importlib.import_module(f"sign_ext.commands.{command}")
    for field in dataclasses.fields(module.Options):
        positional = spec_of(field).positional
        name = str(spec_of(field).metavar) if positional else f"--{field.name.replace('_', '-')}"
        assert name in text


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_names_no_type_of_python(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for word in ("Literal", "type:", "null", "PositiveInt", "None", "False"):
        assert word not in text
    if command:
        headings = re.findall(r"^([a-z A-Z]+):$", text, re.MULTILINE)
        assert headings[-2:] == ["common options", "examples"]


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


TRAIN = ("train", "--data", "digits", "--model", "basic_cnn", "--out", "o")
TRANSFORM = ("transform", "--checkpoint", "c", "--out", "o")
# Every kind of wrong command line, and what its one line says.
WRONG: tuple[tuple[tuple[str, ...], str], ...] = (
    (("transfrom",), "'transfrom' is not a command, did you mean 'transform'? accepted: demo,"),
    (("bogus",), "'bogus' is not a command; accepted: demo, info, train,"),
    (("--json", "info"), "--json stands before the command; type sign-ext COMMAND --json"),
    (("train", "--data", "digits", "--model", "basic_cnn"), "--out is required"),
    (("train",), "--data, --model and --out are required"),
    (("inspect",), "STORE is required"),
    (("inspect", "a", "b"), "'b' is one word too many: it belongs to no option"),
    ((*TRANSFORM, "--step-sise", "3"), "--step-sise is not an option of `sign-ext transform`, did"),
    ((*TRANSFORM, "--step-sise", "3"), "did you mean --step-size?"),
    ((*TRANSFORM, "--step_size=3"), "did you mean --step-size?"),
    (("inspect", "store", "--device", "cpu"), "--device is not an option of `sign-ext inspect`"),
    ((*TRAIN, "--epochs", "0"), "--epochs is '0'; accepted: a whole number of at least 1"),
    ((*TRAIN, "--epochs", "2.5"), "--epochs is '2.5'; accepted: a whole number of at least 1"),
    ((*TRAIN, "--seed", "-1"), "--seed is '-1'; accepted: a whole number of at least 0"),
    ((*TRAIN, "--learning-rate", "0"), "--learning-rate is '0'; accepted: a number above 0"),
    ((*TRAIN, "--learning-rate", "nan"), "--learning-rate is 'nan'; accepted: a number above 0"),
    ((*TRAIN, "--augment", "clasical"), "--augment is 'clasical', did you mean 'classical'?"),
    ((*TRAIN, "--augment", "clasical"), "accepted: none, classical, mixup, deepaugment"),
    ((*TRAIN, "--bit-depth", "13"), "--bit-depth is '13'; accepted: 12, 16"),
    ((*TRAIN, "--model", "basic-cnn"), "--model: 'basic-cnn' is not the name of a network"),
    ((*TRAIN, "--model", "basic-cnn"), "did you mean 'basic_cnn'?"),
    ((*TRAIN, "--data", "cifar01"), "--data is 'cifar01', did you mean 'cifar10'? accepted: dig"),
    ((*TRAIN, "--resume", "--overwrite"), "--overwrite discards it: give one"),
    ((*TRAIN, "--resume=1"), "--resume: ignored explicit argument '1'; type it as `--resume`"),
    (("train", "--out"), "--out: expected one argument; type it as `--out DIR`"),
    (("evaluate", "--checkpoint", "x", "--draws", "many"), "--draws is 'many'; accepted: a whole"),
    ((*TRANSFORM, "--clamp", "0"), "--clamp: expected 2 arguments; type it as `--clamp LO HI`"),
    ((*TRANSFORM, "--snapshots"), "type it as `--snapshots K [K ...]`"),
    ((*TRANSFORM, "--steps", "5", "--snapshots", "9"), "--snapshots 9 is beyond --steps 5"),
    ((*TRANSFORM, "--memory", "much"), "--memory: 'much' is not a size"),
    (("info", "--config", "missing.yaml"), "--config missing.yaml: File does not exist"),
    (("info", "--device", "tpu"), "--device is 'tpu'; accepted: auto, cpu, cuda, cuda:INDEX"),
    (("demo", "--snapshots", "-5"), "--snapshots is '-5'; accepted: a whole number of at least 1"),
    (("demo", "--model", "mobilenetv2"), "--model is 'mobilenetv2', did you mean 'mobilenet_v2'?"),
    (("reproduce", "tabel1"), "NAME is 'tabel1', did you mean 'table1'?"),
    (("reproduce", "all", "--scale", "large"), "--scale: scale 'large' is neither one of smoke,"),
    (("reproduce", "all", "--only-seeds", "1", "1"), "--only-seeds lists a seed twice: (1, 1)"),
    (("bench", "--model", "basic_cnn", "--backends", "fuse"), "did you mean 'fused'? accepted: a"),
    (("bench", "--model", "basicnn"), "did you mean 'basic_cnn'?"),
)


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_wrong_command_lines_exit_2_with_one_line(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
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
    assert main([*arguments, "--print-config=skip_default"]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "data: digits",
        "model: basic_cnn",
        "out: o",
    ]
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
    assert command_line("info", OutputOptions()) == "sign-ext info"


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


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        (("train", "--data", "digits", "--model", "basic_cnn", "--out", "x"), "with --resume"),
        (("transform", "--checkpoint", "x", "--out", "y"), "the same command continues"),
        (("reproduce", "table1", "--out", "x"), "the same command continues"),
    ],
)
def test_interrupt_says_how_to_continue(
    arguments: tuple[str, ...],
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(options: Any) -> None:
        raise KeyboardInterrupt

    module = importlib.import_module(f"sign_ext.commands.{arguments[0]}")
    monkeypatch.setattr(module, "run", work)
    monkeypatch.setattr("sign_ext.cli.check_values", lambda options: None)
    assert main(arguments) == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sign-ext: interrupted; ")
    assert how in line


def test_the_manual_lists_the_commands_in_the_order_of_the_help() -> None:
    manual = Path(__file__).parents[2] / "docs" / "cli.md"
    table = manual.read_text(encoding="utf-8").partition("| command | does |")[2]
    rows = re.findall(r"^\| `(\w+)` \|", table.partition("\n\n")[0], re.MULTILINE)
    assert rows == list(COMMANDS)


@pytest.mark.parametrize(
    ("module", "package"),
    [("timm.models", "timm"), ("PIL", "pillow"), ("lightning_fabric", "lightning-fabric")],
)
def test_a_missing_package_is_named_as_it_is_installed(
    module: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SIGN_EXT_DEBUG", raising=False)
    required = [f"{package}>=1; extra == 'experiments'", "torch>=2.11"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: required)
    assert run_raising(monkeypatch, ModuleNotFoundError("missing", name=module)) == 1
    said = capsys.readouterr().err
    assert f"the package {module!r} is missing: pip install {package}, or" in said
    assert 'in a checkout of sign_ext: pip install ".[experiments]"' in said
    assert run_raising(monkeypatch, ModuleNotFoundError("missing", name="torch._C")) == 1
    assert capsys.readouterr().err.endswith("is missing: pip install torch\n")
    assert run_raising(monkeypatch, ModuleNotFoundError("missing", name="theirs")) == 1
    assert capsys.readouterr().err.endswith("'theirs' is missing: install it\n")


def test_help_and_usage_errors_import_nothing_heavy() -> None:
    # One process: what any of them imports would stay in sys.modules.
    code = """
import sys
import sign_ext
from sign_ext.cli import main
from sign_ext.commands import COMMANDS

HEAVY = {"torch", "numpy", "torchvision", "timm", "transformers", "matplotlib", "sklearn", "scipy",
         "pyarrow", "datasets", "pydantic", "rich", "safetensors", "PIL"}

def run(words, code):
    assert main(words) == code, words
    assert not HEAVY & set(sys.modules), (words, HEAVY & set(sys.modules))

run([], 0)
run(["--version"], 0)
for command in COMMANDS:
    run([command, "--help"], 0)
run(["train", "--print-config"], 0)
for line in sys.stdin.read().splitlines():
    run(line.split("\\t"), 2)
"""
    lines = "\n".join("\t".join(arguments) for arguments, _ in WRONG)
    done = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("sign-ext: error: ") == len(WRONG)


def definitions() -> dict[str, ast.AST]:
    """The functions, classes and methods that the commands share, by their names."""
    found: dict[str, ast.AST] = {}
    folder = Path(importlib.import_module("sign_ext.commands").__file__ or "").parent
    for path in sorted(folder.glob("*.py")):
        if path.stem in COMMANDS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found[node.name] = node
    return found


def options_read(command: str) -> set[str]:
    """The names of options that a command's module reads, itself or in the functions it calls."""
    from sign_ext.training import TrainSettings

    module = importlib.import_module(f"sign_ext.commands.{command}")
    declared = {field.name for field in dataclasses.fields(module.Options)}
    shared = definitions()
    waiting: list[ast.AST] = [ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))]
    read: set[str] = set()
    while waiting:
        for node in ast.walk(waiting.pop()):
            name = getattr(node, "attr", None) or getattr(node, "id", None)
            if name in shared:
                waiting.append(shared.pop(name))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("options", "self"):
                read.add(node.attr)
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
                "fields",
                "asdict",
            ):
                of = ast.unparse(node.args[0])
                if of == "options":  # all but those that are named, to be left out
                    read |= declared
                else:
                    owners = [c for c in module.Options.__mro__ if c.__name__ == of]
                    owners += [TrainSettings] if of == "TrainSettings" else []
                    read |= {field.name for owner in owners for field in dataclasses.fields(owner)}
    return read


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_read(command: str) -> None:
    module = importlib.import_module(f"sign_ext.commands.{command}")
    declared = {field.name for field in dataclasses.fields(module.Options)}
    assert declared - options_read(command) <= {"debug"}  # which `cli` reads


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
