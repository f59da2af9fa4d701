"""Imports run one way, and the core needs torch and numpy only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import sign_ext

PACKAGE = Path(sign_ext.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# Each may import its own row and the rows above it. What is not named here is the core.
ROWS = [
    {"ops"},
    {"core", "compiler", "engine"},
    {"data", "models", "augment", "training", "evaluation", "report", "store", "benchmarking"},
    {"experiments"},
    {"commands", "cli", "__main__"},
]
NAMED = set().union(*ROWS)


def part_of(module: str) -> str:
    """The part of sign_ext that a module belongs to: "sign_ext.data.load" → "data"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in NAMED else "core"


def row_of(part: str) -> int:
    return next(i for i, row in enumerate(ROWS) if part in row)


def name_of(file: Path) -> str:
    return ".".join(["sign_ext", *file.relative_to(PACKAGE).with_suffix("").parts])


def imports_of(file: Path) -> list[tuple[str, bool]]:
    """(module, whether at the top of the file) for each import, type checking's left out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = []
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide where things come from"
            found.append((node.module or "", node in tree.body))
        elif isinstance(node, ast.Import):
            found += [(alias.name, node in tree.body) for alias in node.names]
    return found


def test_imports_run_one_way():
    wrong = []
    for file in FILES:
        mine = part_of(name_of(file))
        for module, at_top in imports_of(file):
            if file == PACKAGE / "__init__.py" and not at_top:
                continue  # the package's front door, opened when somebody asks
            if module == "sign_ext" or module.startswith("sign_ext."):
                other = part_of(module)
                if row_of(other) > row_of(mine) or (mine == "ops" and other != "ops"):
                    wrong.append(f"{name_of(file)} imports {module}")
    assert not wrong


def test_the_core_needs_torch_and_numpy_only():
    known = sys.stdlib_module_names | {"torch", "numpy", "sign_ext"}
    wrong = []
    for file in FILES:
        if row_of(part_of(name_of(file))) > 1:
            continue
        for module, at_top in imports_of(file):
            package = module.partition(".")[0]
            if package not in known and not (package == "rich" and not at_top):
                wrong.append(f"{name_of(file)} imports {module}")
    assert not wrong


def test_importing_the_package_loads_nothing_else():
    code = "import sys, sign_ext; print(' '.join(m for m in sys.modules if '.' not in m))"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(output.stdout.split())
    assert "torch" in loaded
    assert not loaded & {"torchvision", "timm", "rich", "jsonargparse", "matplotlib", "sklearn"}
