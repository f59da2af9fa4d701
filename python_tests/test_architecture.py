"""The core needs torch and numpy only. (`make lint` holds the direction of imports.)"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sign_ext

PACKAGE = Path(sign_ext.__file__).parent

# The harness. Everything else is the core: `sign` and what lies below it.
HARNESS = {
    "__main__",
    "augment",
    "benchmarking",
    "cli",
    "commands",
    "data",
    "evaluation",
    "experiments",
    "models",
    "report",
    "store",
    "training",
}
CORE = [
    file
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.relative_to(PACKAGE).with_suffix("").parts[0] not in HARNESS
]


def packages_imported(file: Path) -> list[tuple[str, bool]]:
    """(top-level package, whether at the top of the file) for each import."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found.append(((node.module or "").partition(".")[0], node in tree.body))
        elif isinstance(node, ast.Import):
            found += [(alias.name.partition(".")[0], node in tree.body) for alias in node.names]
    return found


def test_the_core_is_found():
    names = {file.relative_to(PACKAGE).as_posix() for file in CORE}
    assert {"sign.py", "algorithm.py", "engine/backends.py", "ops/native.py"} <= names
    assert not {name for name in names if name.startswith(("store/", "commands/", "data/"))}


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_the_core_needs_torch_and_numpy_only(file):
    known = sys.stdlib_module_names | {"torch", "numpy", "sign_ext"}
    others = {
        package
        for package, at_top in packages_imported(file)
        # Imported where they are used: rich draws progress, safetensors holds tensors on disk.
        if package not in known and (at_top or package not in ("rich", "safetensors"))
    }
    assert not others


def test_the_public_names_load_torch_and_numpy_only():
    code = (
        "import sys, sign_ext\n"
        "for name in set(sign_ext.__all__) - {'load_transformed'}: getattr(sign_ext, name)\n"
        "print(' '.join(m for m in sys.modules if '.' not in m))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(output.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"torchvision", "timm", "rich", "pydantic", "matplotlib", "sklearn"}
