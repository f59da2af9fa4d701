"""Builds the extension sign_ext._C; the metadata is in pyproject.toml, the parts in build_tools."""

import sys
from pathlib import Path

import setuptools  # type: ignore[import-untyped]

if int(setuptools.__version__.split(".")[0]) < 77:  # cannot read pyproject.toml's license
    raise SystemExit(
        f"sign_ext: setuptools {setuptools.__version__} is older than 77: run"
        " pip install -U setuptools, or leave out --no-build-isolation."
    )

# Running setup.py puts its folder on sys.path, a PEP 517 front end does not.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_tools.extension import setup_arguments  # needs the line above

setuptools.setup(**setup_arguments(sys.argv))
