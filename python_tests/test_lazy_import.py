"""`import sign_ext` costs milliseconds, and its public names are where they always were."""

from __future__ import annotations

import ast
import importlib
import pickle
import pydoc
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sign_ext
from sign_ext.lazy_import import lazy_names

LAZY = ("sign_ext", "sign_ext.data", "sign_ext.models", "sign_ext.store", "sign_ext.training")


def output_of(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def declared_for_editors(package: str) -> dict[str, str]:
    """name → module, as a package's imports under TYPE_CHECKING say."""
    source = Path(importlib.import_module(package).__file__ or "").read_text(encoding="utf-8")
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_importing_the_packages_imports_neither_torch_nor_numpy() -> None:
    code = f"""
import importlib, sys
for package in {LAZY}:
    importlib.import_module(package)
    dir(importlib.import_module(package))
assert sign_ext.__version__ if (sign_ext := sys.modules["sign_ext"]) else None
from sign_ext.data import DATA_NAMES, OOD_NAMES
from sign_ext.models import MODEL_NAMES
from sign_ext.training import TrainSettings
from sign_ext import SignError
print(sorted({{"torch", "numpy", "rich", "pydantic", "safetensors"}} & set(sys.modules)))
"""
    assert output_of(code) == "[]"


@pytest.mark.parametrize("package", LAZY)
def test_all_lists_what_editors_see_and_each_name_is_there(package: str) -> None:
    module = importlib.import_module(package)
    declared = declared_for_editors(package)
    assert set(module.__all__) - {"__version__"} == set(declared)
    assert set(module.__all__) <= set(dir(module))
    for name, home in declared.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_star_import_and_from_import() -> None:
    found: dict[str, Any] = {}
    exec("from sign_ext import *", found)
    assert set(sign_ext.__all__) <= set(found)
    assert found["iterative_sign"] is sign_ext.iterative_sign


@pytest.mark.parametrize("first", ["", "import lazy_{0}.push", "import lazy_{0}.other"])
def test_a_function_wins_over_the_module_of_its_name(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"lazy_{len(first)}"  # of its own for each case: Python keeps what it has imported
    folder = tmp_path / name
    folder.mkdir()
    homes = {f"{name}.push": ["push"]}
    source = f"from sign_ext.lazy_import import lazy_names\nlazy_names(__name__, {homes})\n"
    (folder / "__init__.py").write_text(source)
    (folder / "push.py").write_text("def push(): return 7\ndef pull(): return 8\n")
    (folder / "other.py").write_text(f"from {name}.push import pull\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if first:
        importlib.import_module(first.format(len(first)).removeprefix("import "))
    package = importlib.import_module(name)
    assert package.push() == 7
    assert importlib.import_module(f"{name}.push").pull() == 8
    assert package.push() == 7
    assert package.other.pull() == 8


def test_the_core_first_and_the_package_after() -> None:
    code = """
import sign_ext.sign, sign_ext.ops, sys, torch
from sign_ext import build_config, pushforward
assert pushforward is sign_ext.pushforward is sys.modules["sign_ext.pushforward"].pushforward
assert hasattr(torch.ops.sign_ext, "sign_update_") == build_config()["native"]
print(sign_ext.settings.__name__, sign_ext.store.reader.__name__)
"""
    assert output_of(code) == "sign_ext.settings sign_ext.store.reader"


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sign_ext' has no attribute 'iterativ_sign'"):
        sign_ext.iterativ_sign  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing' from 'sign_ext'"):
        from sign_ext import nothing  # type: ignore[attr-defined] # noqa: F401
    assert not hasattr(sign_ext, "__wrapped__")
    assert not hasattr(sign_ext, "a.dotted.name")


def test_help_and_pickle() -> None:
    text = pydoc.render_doc(sign_ext, renderer=pydoc.plaintext)
    assert "class SignTransform" in text
    assert "iterative_sign(" in text
    error = pickle.loads(pickle.dumps(sign_ext.SignError("why")))
    assert (type(error), str(error)) == (sign_ext.SignError, "why")


def test_names_can_be_replaced_for_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    import sign_ext.store

    verify = sign_ext.store.verify
    monkeypatch.setattr(sign_ext.store, "verify", len)
    assert sign_ext.store.verify is len  # type: ignore[comparison-overlap]
    monkeypatch.undo()
    assert sign_ext.store.verify is verify


def test_a_name_is_imported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    package, home = ModuleType("lazy_package"), ModuleType("lazy_home")
    home.answer = 42  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lazy_package", package)
    monkeypatch.setitem(sys.modules, "lazy_home", home)
    lazy_names("lazy_package", {"lazy_home": ["answer"]})
    assert "answer" not in vars(package)
    assert package.answer == 42
    assert vars(package)["answer"] == 42
