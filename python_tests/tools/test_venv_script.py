"""tools/venv.sh installs once, again when what matters changed, and mends what a kill left behind.

A small stand-in plays python and pip and notes each call, so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requirements

SCRIPT = Path(requirements.__file__).with_name("venv.sh")

STAND_IN = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "venv" >>calls ;;
  "-m pip") echo "pip ${*:3} [user=${PIP_USER:-}] [pins=$PIP_CONSTRAINT]" >>calls
            [[ ! -e pip-breaks ]] ;;
  "-c "*) echo "$PWD/.venv" ;;
  "- ") cat >/dev/null; echo none ;;
  "--version "*) echo "Python 3.x" ;;
esac
"""


class Checkout:
    """A folder that looks enough like this repository, and what the script did in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "stand-in"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        for folder in ("csrc/op", "csrc/tests", "tools", "build_tools"):
            (root / folder).mkdir(parents=True)
        files = "pyproject.toml constraints.txt setup.py build_backend.py build_tools/part.py"
        for name in [*files.split(), "csrc/op/op.cpp", "csrc/tests/op_test.cpp"]:
            (root / name).write_text("content\n")
        shutil.copy(SCRIPT, root / "tools")

    def venv(self, **environ: str) -> tuple[int, list[str]]:
        """Run the script; return its status and the calls that it made."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        result = subprocess.run(
            [str(self.root / "tools/venv.sh")],
            env={**os.environ, "PYTHON": str(self.python), **environ},
            capture_output=True,
            check=False,
        )
        return result.returncode, calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if " -e ." in call]


def test_the_first_run_makes_it_and_the_second_does_nothing(checkout: Checkout) -> None:
    status, calls = checkout.venv()
    assert status == 0
    assert calls[0] == "venv"
    torch = next(n for n, call in enumerate(calls) if "install torch" in call)
    package = next(n for n, call in enumerate(calls) if " -e .[" in call)
    assert torch < package  # the extension's build looks for the torch that is there
    assert checkout.venv() == (0, [])


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints.txt", "setup.py", "build_backend.py", "csrc/op/op.cpp"]
)
def test_a_change_that_matters_installs_again_without_a_new_environment(
    checkout: Checkout, name: str
) -> None:
    checkout.venv()
    (checkout.root / name).write_text("changed\n")
    status, calls = checkout.venv()
    assert status == 0
    assert "venv" not in calls
    assert len(installs(calls)) == 1


def test_a_change_of_a_cpp_test_installs_nothing(checkout: Checkout) -> None:
    checkout.venv()
    (checkout.root / "csrc/tests/op_test.cpp").write_text("changed\n")
    assert checkout.venv() == (0, [])


def test_another_choice_of_build_installs_again(checkout: Checkout) -> None:
    checkout.venv()
    assert len(installs(checkout.venv(SIGN_EXT_BUILD="none")[1])) == 1
    assert checkout.venv(SIGN_EXT_BUILD="none") == (0, [])


def test_after_a_failed_install_the_next_run_starts_afresh(checkout: Checkout) -> None:
    (checkout.root / "pip-breaks").touch()
    status, _ = checkout.venv()
    assert status != 0
    (checkout.root / "pip-breaks").unlink()
    status, calls = checkout.venv()
    assert status == 0
    assert calls[0] == "venv"
    assert checkout.venv() == (0, [])


def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.venv()
    (checkout.root / ".venv/bin/python").unlink()
    assert checkout.venv()[1][0] == "venv"


def test_a_working_environment_of_the_users_own_is_kept(checkout: Checkout) -> None:
    (checkout.root / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout.python, checkout.root / ".venv/bin/python")
    status, calls = checkout.venv()
    assert status == 0
    assert "venv" not in calls
    assert installs(calls)


def test_pip_flags_pass_through_and_user_settings_do_not(checkout: Checkout) -> None:
    _, calls = checkout.venv(PIP_FLAGS="--quiet --no-cache-dir", PIP_USER="1")
    pips = [call for call in calls if call.startswith("pip install")]
    assert pips
    for call in pips:
        assert "--quiet --no-cache-dir" in call
        assert "[user=]" in call
        assert "[pins=constraints.txt]" in call
