"""`make constraints`: rewrite constraints.txt with the newest versions that are allowed."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from files import write_whole
from requirements import ROOT, requirements

# The Python versions that the pins must resolve for, on Linux x86-64; the oldest supported first.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORM = "x86_64-manylinux_2_28"

HEADER = """\
# Exact versions of everything that `make` and CI install: all extras, their dependencies, pip and
# the build's own tools. Ranges for users are in pyproject.toml; this file only keeps a new release
# elsewhere from breaking a clone. Used as `pip install -c constraints.txt ...`.
# Refresh it with one command, then run `make test` and commit:  make constraints
"""

# A line of the file: name, version, and optionally the marker for which the pin applies.
PIN = re.compile(r"^[a-z0-9][a-z0-9._-]*==[a-zA-Z0-9.!+_-]+( ; [^;#]+)?$")


def check_pins(lines: list[str]) -> None:
    """Reject anything but plain pins, so that no URL, path, hash or option gets into the file.

    Args:
        lines: The resolver's output.

    Raises:
        ValueError: A line is not of the form name==version, with or without a marker.
    """
    if not lines:
        raise ValueError("the resolver returned no pins at all")
    for line in lines:
        if not PIN.match(line):
            raise ValueError(f"not a plain pin: {line!r}")


def resolve(uv: Path, wanted: str, *options: str) -> list[str]:
    """Run uv to find one set of versions that satisfies everything, and return its lines."""
    # pip can only resolve for the interpreter that it runs on; this file must serve four.
    command = [str(uv), "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    command += ["--all-extras", *options, "pyproject.toml", "-"]
    result = subprocess.run(
        command, input=wanted, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    return result.stdout.splitlines()


def main() -> None:
    """Resolve in a temporary environment, check the pins for every Python, replace the file."""
    wanted = "\n".join([*requirements("build"), "pip", "wheel"])
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        tools = Path(folder, "bin")
        subprocess.run([tools / "python", "-m", "pip", "install", "--quiet", "uv"], check=True)
        oldest = PYTHONS[0]
        lines = resolve(
            tools / "uv", wanted, "--universal", "--python-version", oldest, "--upgrade"
        )
        check_pins(lines)
        fresh = Path(folder, "constraints.txt")
        fresh.write_text("\n".join(lines) + "\n", encoding="utf-8")
        for version in PYTHONS:
            # Wheels only: a pinned package that must be compiled would break a fresh clone.
            options = ("--python-version", version, "--python-platform", PLATFORM)
            count = len(resolve(tools / "uv", wanted, *options, "-c", str(fresh), "--no-build"))
            print(f"Python {version}, Linux x86-64: {count} packages resolve")
    write_whole(ROOT / "constraints.txt", HEADER + "\n".join(lines) + "\n")
    print(f"constraints.txt: {len(lines)} pins")


if __name__ == "__main__":
    try:
        main()
    except (subprocess.CalledProcessError, ValueError) as error:
        sys.exit(f"make constraints: {error}")
