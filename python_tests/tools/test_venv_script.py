"""tools/venv.sh installs once, again after relevant changes, and repairs an interrupted install.

A fake python and pip record each call, so nothing is downloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import requirements

SCRIPT = Path(requirements.__file__).with_name("venv.sh")
SYSTEM = "/usr/bin:/bin"

FAKE_PYTHON = """#!/usr/bin/env bash
case "$1 ${2:-}" in
  "-m venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "venv" >>calls ;;
  "-m pip") echo "pip ${*:3} [user=${PIP_USER:-}] [pins=$PIP_CONSTRAINT]" \
                 "[build=${SIGN_EXT_BUILD:-}] [arches=${TORCH_CUDA_ARCH_LIST:-}]" >>calls
            case "$*" in *" -e ."*) cat build-output 2>/dev/null ;; esac
            [[ ! -e pip-fails ]] ;;
  "-c "*) echo "$PWD/.venv" ;;
  "- ") cat >/dev/null; echo none ;;
  tools/requirements.py*) echo "numpy" ;;
  "--version "*) echo "Python 3.x" ;;
esac
"""


class Checkout:
    """A folder with the files of this repository that the script uses."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.python = root / "fake-python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        for folder in ("csrc/op", "csrc/tests", "tools", "build_tools"):
            (root / folder).mkdir(parents=True)
        files = "pyproject.toml constraints.txt setup.py build_backend.py build_tools/part.py"
        for name in [*files.split(), "csrc/op/op.cpp", "csrc/tests/op_test.cpp"]:
            (root / name).write_text("content\n")
        shutil.copy(SCRIPT, root / "tools")

    def program(self, name: str, output: str) -> None:
        """Put a program that prints `output` on the script's PATH."""
        file = self.root / "programs" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"#!/bin/sh\necho '{output}'\n")
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


def test_the_first_run_creates_it_and_the_second_does_nothing(checkout: Checkout) -> None:
    status, calls = checkout.venv()
    assert status == 0
    assert calls[0] == "venv"
    torch = next(n for n, call in enumerate(calls) if "install torch" in call)
    package = next(n for n, call in enumerate(calls) if " -e ." in call)
    assert torch < package  # the extension is built against the installed torch
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
    """The requested kind of extension and architectures of each install."""
    return [call.partition("[build=")[2] for call in installs(calls)]


def test_without_a_gpu_the_cuda_kernels_are_not_built_and_a_line_says_how_to(
    checkout: Checkout,
) -> None:
    checkout.program("nvcc", "release 13.0")
    output = checkout.run().stdout
    assert "SIGN_EXT_BUILD=cuda make venv" in output
    assert builds((checkout.root / "calls").read_text().splitlines()) == ["cpu] [arches=]"]
    assert checkout.run().stdout == ""


@pytest.mark.skipif(
    shutil.which("nvcc", path=SYSTEM) is not None, reason="nvcc is in the system's PATH"
)
def test_without_nvcc_the_cuda_kernels_are_not_mentioned(checkout: Checkout) -> None:
    assert "CUDA" not in checkout.run().stdout


def test_with_a_gpu_the_cuda_kernels_are_built(checkout: Checkout) -> None:
    usual = checkout.program
    checkout.program = lambda name, output: usual(name, "GPU 0: NVIDIA A1 (UUID: GPU-0)")  # type: ignore[method-assign]
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


def test_the_build_shows_progress_and_writes_all_output_to_a_file(checkout: Checkout) -> None:
    lines = "  [7/21] /usr/bin/c++ -MMD -O3 -c /a/csrc/op/op_cpu.cpp -o /a/op_cpu.o\n"
    lines += "  creating wheel\n  sign_ext: the CPU operators are built.\n"
    (checkout.root / "build-output").write_text(lines)
    output = checkout.run().stdout
    assert "  [7/21] op_cpu.cpp\n" in output
    assert "  sign_ext: the CPU operators are built.\n" in output
    assert "creating wheel" not in output
    assert (checkout.root / "build/venv-build.log").read_text() == lines


def test_a_failed_build_shows_its_output(checkout: Checkout) -> None:
    (checkout.root / "build-output").write_text("op.cpp:3: error: expected ';'\n")
    (checkout.root / "pip-fails").touch()
    (checkout.root / "fake-python").write_text(
        FAKE_PYTHON.replace("! -e pip-fails", '"$*" != *" -e ."*')
    )
    done = checkout.run()
    assert done.returncode == 1
    assert "error: expected ';'" in done.stderr
    assert "build/venv-build.log" in done.stderr


def test_after_a_failed_install_the_next_run_starts_over(checkout: Checkout) -> None:
    (checkout.root / "pip-fails").touch()
    status, _ = checkout.venv()
    assert status != 0
    (checkout.root / "pip-fails").unlink()
    status, calls = checkout.venv()
    assert status == 0
    assert calls[0] == "venv"
    assert checkout.venv() == (0, [])


def test_an_environment_without_python_is_created_again(checkout: Checkout) -> None:
    checkout.venv()
    (checkout.root / ".venv/bin/python").unlink()
    assert checkout.venv()[1][0] == "venv"


def test_a_users_own_working_environment_is_kept(checkout: Checkout) -> None:
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
