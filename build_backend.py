"""PEP 517 and 660 backend: setuptools, plus finding the torch to build the extension against.

Under build isolation the torch of the target environment is hidden. These hooks look for it where
the package is going, and ask for torch as a build requirement only where there is none.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta  # type: ignore[import-untyped]

# Front ends make importable this module and nothing beside it.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from build_tools import environment, extension  # needs the line above

prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_sdist = build_meta.build_sdist


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What isolation must install beyond build-system.requires: torch, where there is none."""
    pure = os.environ.get("SIGN_EXT_BUILD", "").strip().lower() == "none"
    return [] if pure or environment.usable_torch_installed() else ["torch>=2.11"]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """The same for an editable install."""
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """Nothing: a source distribution compiles nothing."""
    return []


def build_wheel(
    wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel; the last line of output says what is in it and why."""
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
