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

pytestmark = pytest.mark.xdist_group("processes")

SCRIPT = Path(requirements.__file__).with_name("venv.sh")
SYSTEM = "/usr/bin:/bin"

STAND_IN = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "venv" >>calls ;;
  "-m pip") echo "pip ${*:3} [user=${PIP_USER:-}] [pins=$PIP_CONSTRAINT]" \
                 "[build=${SIGN_EXT_BUILD:-}] [arches=${TORCH_CUDA_ARCH_LIST:-}]" >>calls
            case "$*" in *" -e ."*) cat build-says 2>/dev/null ;; esac
            [[ ! -e pip-breaks ]] ;;
  "-c "*) echo "$PWD/.venv" ;;
  "- ") cat >/dev/null; echo none ;;
  tools/requirements.py*) echo "numpy" ;;
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

    def program(self, name: str, says: str) -> None:
        """Put a program on the script's PATH that prints something."""
        file = self.root / "programs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\necho '{says}'\n")
        file.chmod(0o755)

    def run(self, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run the script, on a machine without GPU and nvcc unless `program` adds them."""
        decided = ("SIGN_EXT_BUILD", "TORCH_CUDA_ARCH_LIST")
        usual = {name: value for name, value in os.environ.items() if name not in decided}
        self.program("nvidia-smi", "no devices")
        usual["PATH"] = f"{self.root / 'programs'}:{SYSTEM}"
        return subprocess.run(
            [str(self.root / "tools/venv.sh")],
            env={**usual, "PYTHON": str(self.python), **environ},
            capture_output=True,
            text=True,
            check=False,
        )

    def venv(self, **environ: str) -> tuple[int, list[str]]:
        """Run the script; return its status and the calls that it made."""
        calls = self.root / "calls"
        calls.unlink(missing_ok=True)
        status = self.run(**environ).returncode
        return status, calls.read_text().splitlines() if calls.exists() else []


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
    package = next(n for n, call in enumerate(calls) if " -e ." in call)
    assert torch < package  # the extension's build looks for the torch that is there
    assert any("-r build/requirements.txt" in call for call in calls[torch:package])
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


def builds(calls: list[str]) -> list[str]:
    """Which kind of extension, for which architectures, each install was asked for."""
    return [call.partition("[build=")[2] for call in installs(calls)]


def test_without_a_gpu_the_cuda_kernels_are_left_out_and_a_line_says_how_to_build_them(
    checkout: Checkout,
) -> None:
    checkout.program("nvcc", "release 13.0")
    said = checkout.run().stdout
    assert "SIGN_EXT_BUILD=cuda make venv" in said
    assert builds((checkout.root / "calls").read_text().splitlines()) == ["cpu] [arches=]"]
    assert checkout.run().stdout == ""


@pytest.mark.skipif(shutil.which("nvcc", path=SYSTEM) is not None, reason="nvcc is a system's own")
def test_where_they_cannot_be_built_nothing_is_said_of_them(checkout: Checkout) -> None:
    assert "CUDA" not in checkout.run().stdout


def test_with_a_gpu_they_are_built(checkout: Checkout) -> None:
    usual = checkout.program
    checkout.program = lambda name, says: usual(name, "GPU 0: NVIDIA A1 (UUID: GPU-0)")  # type: ignore[method-assign]
    assert builds(checkout.venv()[1]) == ["auto] [arches=]"]


@pytest.mark.parametrize(
    ("asked", "built"),
    [
        ({"SIGN_EXT_BUILD": "cuda"}, "cuda] [arches=]"),
        ({"SIGN_EXT_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": "8.0 9.0"}, "cuda] [arches=8.0 9.0]"),
        ({"TORCH_CUDA_ARCH_LIST": "9.0"}, "auto] [arches=9.0]"),
    ],
)
def test_a_choice_is_remembered_until_another_is_given(
    checkout: Checkout, asked: dict[str, str], built: str
) -> None:
    assert builds(checkout.venv(**asked)[1]) == [built]
    assert checkout.venv() == (0, [])
    (checkout.root / "csrc/op/op.cpp").write_text("changed\n")
    assert builds(checkout.venv()[1]) == [built]
    assert builds(checkout.venv(SIGN_EXT_BUILD="none")[1]) == ["none] [arches=]"]


def test_the_build_shows_its_progress_and_keeps_the_rest_in_a_file(checkout: Checkout) -> None:
    lines = "  [7/21] /usr/bin/c++ -MMD -O3 -c /a/csrc/op/op_cpu.cpp -o /a/op_cpu.o\n"
    lines += "  creating wheel\n  sign_ext: the CPU operators are built.\n"
    (checkout.root / "build-says").write_text(lines)
    said = checkout.run().stdout
    assert "  [7/21] op_cpu.cpp\n" in said
    assert "  sign_ext: the CPU operators are built.\n" in said
    assert "creating wheel" not in said
    assert (checkout.root / "build/venv-build.log").read_text() == lines


def test_a_build_that_fails_shows_what_it_said(checkout: Checkout) -> None:
    (checkout.root / "build-says").write_text("op.cpp:3: error: expected ';'\n")
    (checkout.root / "pip-breaks").touch()
    (checkout.root / "stand-in").write_text(
        STAND_IN.replace("! -e pip-breaks", '"$*" != *" -e ."*')
    )
    done = checkout.run()
    assert done.returncode == 1
    assert "error: expected ';'" in done.stderr
    assert "build/venv-build.log" in done.stderr


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
