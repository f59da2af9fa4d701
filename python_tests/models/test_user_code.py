"""Networks that a user's function returns: what it is called with, and how faults are told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from sign_ext.models import parse_network_name
from sign_ext.models.user_code import UserFunction, file_sha256

CODE = """
from dataclasses import dataclass
from neighbour_of_the_test import WIDTH
from torch import nn

@dataclass
class Settings:
    width: int = WIDTH

calls = []
ready = nn.Flatten()
number = 3

class Nets:
    @staticmethod
    def small(num_classes, image_shape, depth=1):
        calls.append((num_classes, image_shape, depth))
        return nn.Linear(Settings().width, num_classes)

def bare():
    return nn.Flatten()

def anything(**options):
    calls.append(options)
    return nn.Flatten()

def needing(width):
    return nn.Linear(width, width)

def late():
    import second_neighbour
    return nn.Flatten()

def failing():
    raise KeyError("inside")

def other():
    return 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "neighbour_of_the_test.py").write_text("WIDTH = 13\n")
    (tmp_path / "second_neighbour.py").write_text("")
    (tmp_path / "math.py").write_text(CODE)  # called like a module of Python's
    yield str(tmp_path / "math.py")
    for name in ("neighbour_of_the_test", "second_neighbour"):
        sys.modules.pop(name, None)


def call(text: str, *given: Any, **options: Any) -> nn.Module:
    return UserFunction(parse_network_name(text), options)(*(given or (None, None)))


def test_arguments_are_passed_where_the_signature_takes_them(file: str) -> None:
    function = UserFunction(parse_network_name(f"{file}:Nets.small"), {"depth": 5})
    assert function.takes_classes
    network = function(4, (3, 5, 7))
    assert network.weight.shape == (4, 13)
    calls = function._build.__globals__["calls"]
    assert calls == [(4, (3, 5, 7), 5)]
    for name in ("bare", "late", "ready"):
        assert isinstance(call(f"{file}:{name}", 4, (3, 5, 7)), nn.Flatten)
    function = UserFunction(parse_network_name(f"{file}:anything"), {"width": 2})
    function(4, (3, 5, 7))
    assert function._build.__globals__["calls"] == [{"width": 2}]
    assert not function.takes_classes


def test_the_path_of_imports_is_left_as_it_was(file: str) -> None:
    before = list(sys.path)
    call(f"{file}:bare")
    with pytest.raises(RuntimeError):
        call(f"{file}:failing")
    assert sys.path == before
    assert sys.modules["math"].sqrt(9) == 3  # a file of that name does not take its place


def test_modules_of_the_current_folder_and_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_this_test.py").write_text("from torch.nn import Flatten as make\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert isinstance(call("nets_of_this_test:make"), nn.Flatten)
    assert sys.path == before
    assert isinstance(call("torch.nn:Flatten", end_dim=2), nn.Flatten)
    network = call("torchvision.models:mobilenet_v3_small", num_classes=3)
    assert network.classifier[3].weight.shape[0] == 3


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("{}:smal", {}, ValueError, "has no 'smal'"),
        ("{}:Nets.smal", {}, ValueError, "has no 'Nets.smal', did you mean 'small'"),
        ("{}:number", {}, ValueError, "is a int; accepted: a function"),
        ("{}:other", {}, ValueError, r"returned a int; accepted: a torch\.nn\.Module"),
        ("{}:failing", {}, RuntimeError, r"failing\(\) failed: KeyError: 'inside'"),
        ("{}:bare", {"depth": 2}, ValueError, "'depth' is not an option of bare; accepted: none"),
        ("{}:Nets.small", {"dept": 2}, ValueError, "did you mean 'depth'"),
        ("{}:Nets.small", {}, ValueError, r"needs num_classes, image_shape: give.*--num-classes"),
        ("{}:needing", {}, ValueError, r"needs width: give it as an option \(--model-options\.w"),
        ("{}:ready", {"a": 1}, ValueError, "is a network, not a function"),
        ("absent/nets.py:make", {}, ValueError, "no file 'absent/nets.py'"),
        ("absent_module:make", {}, ValueError, "no module 'absent_module', in this folder or"),
        ("tim:make", {}, ValueError, "did you mean 'timm'"),
        ("os.path:joi", {}, ValueError, "did you mean 'join'"),
    ],
)
def test_faults_are_told(file: str, name: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        call(name.format(file), **options)


def test_a_module_that_cannot_be_imported(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import absent_dependency\n")
    with pytest.raises(RuntimeError, match=r"importing .* failed.*No module named 'absent_dep"):
        call(f"{path}:make")
    path.write_text("def make(:\n")
    with pytest.raises(RuntimeError, match=r"importing .* failed: SyntaxError"):
        call(f"{path}:make")
    assert not [name for name in sys.modules if name.endswith("_broken")]


def test_the_sum_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_bytes(b"abc")
    name = parse_network_name(f"{path}:make")
    # The test vector of FIPS 180-2.
    wanted = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(name) == wanted
    assert file_sha256(parse_network_name("nets:make")) is None
