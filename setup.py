"""Builds the native operators. Metadata: pyproject.toml; build logic: build_tools/."""

import sys
from pathlib import Path

import setuptools  # type: ignore[import-untyped]

if int(setuptools.__version__.split(".")[0]) < 77:  # cannot parse the license in pyproject.toml
    raise SystemExit(
        f"sign_ext: setuptools {setuptools.__version__} is older than 77: run"
        " pip install -U setuptools, or leave out --no-build-isolation."
    )

# `python setup.py` puts its folder on sys.path; a PEP 517 front end does not.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_tools.extension import setup_arguments  # needs the line above

setuptools.setup(**setup_arguments(sys.argv))
