"""List everything that this machine lacks for `make venv`, and what each is for, in one message.

This script runs on Python 3.7 and later, so that an interpreter that is too old can still report
it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping

OLDEST = (3, 11)


def has_compiler(environ: Mapping[str, str]) -> bool:
    """Whether a C++ compiler is found under the names that build tools try."""
    for name in (environ.get("CXX", ""), "c++", "g++", "clang++"):
        # CXX may hold a launcher and flags ("ccache g++"): only its first word is looked up.
        if name.split() and shutil.which(name.split()[0], path=environ.get("PATH")):
            return True
    return False


def missing(environ: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Find what must be installed first.

    Args:
        environ: The environment variables to use (CXX, PATH, SIGN_EXT_BUILD).

    Returns:
        Pairs of what is missing, with its purpose, and the Debian package that provides it ("" for
        none).
    """
    python = sys.executable
    if sys.version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        actual = ".".join(map(str, sys.version_info[:2]))
        return [(f"Python {needed}: {python} is {actual} (another: make venv PYTHON=...)", "")]
    found = []
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        found.append((f"the modules venv and ensurepip of {python}, for .venv", "python3-venv"))
    if environ.get("SIGN_EXT_BUILD") != "none" and not has_compiler(environ):
        compiler = "a C++ compiler (c++, g++ or clang++; CXX names another)"
        found.append((f"{compiler}, for the native operators", "g++"))
    return found


def left_out(environ: Mapping[str, str] = os.environ) -> str:
    """One line on the optional part that this machine cannot build; "" if it builds all.

    Args:
        environ: The environment variables to use (SIGN_EXT_BUILD, SIGN_EXT_MODULE).
    """
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if "none" in (environ.get("SIGN_EXT_BUILD"), environ.get("SIGN_EXT_MODULE")):
        return ""
    if os.path.exists(header):
        return ""
    return (
        f"make venv: the module sign_ext._C is left out: it needs {header}, on Debian from"
        " python3-dev. Nothing depends on it; the native operators do not need Python's headers."
    )


def message(found: list[tuple[str, str]]) -> str:
    """Format what is missing and how to install it."""
    lines = ["make venv: this machine lacks"]
    lines += [f"  - {item}" for item, _ in found]
    packages = [package for _, package in found if package]
    if packages:
        lines.append("On Debian or Ubuntu:  apt-get install " + " ".join(packages))
    if "g++" in packages:
        lines.append("Without a compiler:   make venv SIGN_EXT_BUILD=none   (works, but slower)")
    return "\n".join(lines)


if __name__ == "__main__":
    lacking = missing()
    if lacking:
        sys.exit(message(lacking))
    if left_out():
        print(left_out())
