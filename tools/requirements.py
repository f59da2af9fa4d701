"""Print requirements from pyproject.toml: of an extra, of the core, or of the build ("build")."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def requirements(group: str, pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Requirement lines of one group, without references to the package's own extras.

    Args:
        group: "core" (the dependencies), "build" (build requirements) or the name of an extra.
        pyproject: The file to read.

    Returns:
        The lines as written, such as "numpy>=1.26".

    Raises:
        ValueError: There is no such group; the message lists the existing ones.
    """
    with pyproject.open("rb") as file:
        content = tomllib.load(file)
    project = content["project"]
    groups: dict[str, list[str]] = {
        "core": project["dependencies"],
        "build": content["build-system"]["requires"],
        **project.get("optional-dependencies", {}),
    }
    if group not in groups:
        raise ValueError(f"group {group!r} is not in {pyproject.name}; it has {', '.join(groups)}")
    return [line for line in groups[group] if not line.startswith(f"{project['name']}[")]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: requirements.py GROUP [GROUP ...]")
    try:
        print("\n".join(line for group in sys.argv[1:] for line in requirements(group)))
    except ValueError as error:
        sys.exit(f"requirements.py: {error}")
