"""PEP 517 and 660 backend: setuptools, plus the search for the torch to build against.

Build isolation hides the torch of the target environment. These hooks look for it in the folders
that the package will be installed to, and require torch for the build only if there is none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta  # type: ignore[import-untyped]

# A front end makes only this module importable, not its folder.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_tools import environment, extension  # needs the line above

prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_sdist = build_meta.build_sdist


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Build requirements beyond build-system.requires: torch, if none is installed."""
    pure = os.environ.get("SIGN_EXT_BUILD", "").strip().lower() == "none"
    return [] if pure or environment.usable_torch_installed() else ["torch>=2.11"]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """The same for an editable install."""
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """None: building a source distribution compiles nothing."""
    return []


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel; the last line of output says what it contains and why."""
    environment.add_target_folders()
    name = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    print(extension.last_summary, flush=True)
    return name


def build_editable(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build an editable wheel; the last line of output says what was built and why."""
    environment.add_target_folders()
    name = build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
    print(extension.last_summary, flush=True)
    return name
