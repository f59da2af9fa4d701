"""Builds the extension sign_ext._C; the metadata is in pyproject.toml, the parts in build_tools."""

import sys
from pathlib import Path

from setuptools import setup  # type: ignore[import-untyped]

# Running setup.py puts its folder on sys.path, a PEP 517 front end does not.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_tools.extension import setup_arguments  # needs the line above

setup(**setup_arguments(sys.argv))
