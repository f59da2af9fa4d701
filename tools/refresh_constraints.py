"""`make constraints`: write constraints.txt anew, with the newest versions that are allowed."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from files import write_whole
from requirements import ROOT, requirements

# Every Python that the pins must resolve for, on Linux x86-64; the first is the oldest supported.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORM = "x86_64-manylinux_2_28"

HEADER = """\
# Exact versions of everything that `make` and CI install: all extras, their dependencies, pip and
# the build's own tools. Ranges for users are in pyproject.toml; this file only keeps a new release
# elsewhere from breaking a clone. Used as `pip install -c constraints.txt ...`.
# Refresh it with one command, then run `make test` and commit:  make constraints
"""

# A line of the file: name, version, and the marker that says where this pin holds.
PIN = re.compile(r"^[a-z0-9][a-z0-9._-]*==[a-zA-Z0-9.!+_-]+( ; [^;#]+)?$")


def check_pins(lines: list[str]) -> None:
    """Refuse anything but plain pins: no address, path, hash or option may get into the file.

    Args:
        lines: What the resolver printed.

    Raises:
        ValueError: A line is not of the form name==version, with or without a marker.
    """
    if not lines:
        raise ValueError("the resolver returned no pins at all")
    for line in lines:
        if not PIN.match(line):
            raise ValueError(f"not a plain pin: {line!r}")


def resolve(uv: Path, wanted: str, *options: str) -> list[str]:
    """Ask uv for one set of versions that satisfies everything, and return its lines."""
    # uv, since pip can only resolve for the interpreter that it runs on, and one file serves four.
    command = [str(uv), "pip", "compile", "--no-config", "--quiet", "--no-header", "--no-annotate"]
    command += ["--all-extras", *options, "pyproject.toml", "-"]
    result = subprocess.run(
        command, input=wanted, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    return result.stdout.splitlines()


def main() -> None:
    """Resolve in a temporary environment, try the pins on every Python, then replace the file."""
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
            # Wheels only: a pin that would have to be compiled there is no use to a clone.
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
