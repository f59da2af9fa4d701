"""`make test-wheels`: install the wheels into fresh environments and run the operators' tests.

    python tools/try_wheels.py --dist dist --pythons 3.11 3.12 3.13 --torches 2.11 newest

Every Python is tried with every torch, one environment (several GB) at a time, which is removed
afterwards. In each, every wheel of the folder is installed, must load its operators, and runs the
tests that compare them with their definitions. A CUDA wheel is tried where torch's CUDA has its
major version; without a GPU its CPU operators run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from gpu_package import find_python

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("python_tests/ops", "python_tests/test_reference.py", "python_tests/sign/test_sign.py")
TOOLS = ("numpy", "pytest", "hypothesis", "setuptools")
# Without warnings: a library that is there and cannot be loaded gives one.
PROBE = """
import json, warnings
warnings.simplefilter("error", RuntimeWarning)
import torch, sign_ext
from sign_ext.ops import sign_update_
config = sign_ext.build_config()
assert config["native"], config
p = torch.zeros(5)
sign_update_(p, torch.ones(5), torch.ones(5), step_size=2.0, momentum=0.5)
assert p.tolist() == [3.0] * 5, p
print(json.dumps({**config, "torch_cuda": torch.version.cuda, "file": sign_ext.__file__}))
"""


def torch_requirement(version: str) -> str:
    """A requirement of torch: "torch==2.11.*" for "2.11", "torch" for "newest"."""
    if version == "newest":
        return "torch"
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", version):
        raise SystemExit(f"test-wheels: torch {version!r} is neither a version nor 'newest'")
    return f"torch=={version}.*" if version.count(".") == 1 else f"torch=={version}"


def cuda_of(wheel: Path) -> str | None:
    """The major version of CUDA that a wheel is for, by its name ("13"); None without CUDA."""
    found = re.search(r"\+cu(\d+)-", wheel.name)
    return found[1] if found else None


def fits(wheel: Path, torch_cuda: str | None) -> bool:
    """Whether a wheel's operators can be loaded with a torch of this CUDA version."""
    needed = cuda_of(wheel)
    return needed is None or needed == (torch_cuda or "").partition(".")[0]


class Environment:
    """A fresh virtual environment with torch.

    Attributes:
        python: Its interpreter.
    """

    def __init__(self, folder: Path, python: str, torch: str) -> None:
        """Create it and install torch and what the tests need."""
        subprocess.run([find_python(python), "-m", "venv", str(folder)], check=True)
        self.python = str(folder / "bin" / "python")
        self.pip(torch_requirement(torch), *TOOLS)

    def pip(self, *arguments: str) -> None:
        """Run pip install."""
        flags = os.environ.get("PIP_FLAGS", "").split()
        # Without bytecode: of torch's thousands of modules, a few are imported.
        flags += ["-q", "--no-compile", "--disable-pip-version-check"]
        command = [self.python, "-m", "pip", "install"]
        subprocess.run([*command, *flags, *arguments], check=True)

    def ask(self, code: str, folder: Path) -> Any:
        """Run code in the environment and read the JSON in the last line of its output."""
        command = [self.python, "-c", code]
        answer = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(answer.stdout.splitlines()[-1])


def try_wheel(environment: Environment, wheel: Path, work: Path, tests: list[str]) -> str:
    """Install a wheel, load it and run the tests; returns a line that says how it went.

    Raises:
        subprocess.CalledProcessError: It does not install or load, or a test fails.
    """
    torch_cuda = environment.ask("import json, torch; print(json.dumps(torch.version.cuda))", work)
    if not fits(wheel, torch_cuda):
        return f"left out, since torch is for CUDA {torch_cuda}"
    environment.pip("--no-deps", "--force-reinstall", str(wheel.absolute()))
    config = environment.ask(PROBE, work)
    if config["cuda"] != (cuda_of(wheel) is not None) or str(work) not in config["file"]:
        raise SystemExit(f"test-wheels: {wheel.name} is not what it is called: {config}")
    command = [environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not gpu and not slow and not build", *tests]
    result = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        print(result.stdout)
        raise SystemExit(f"test-wheels: {wheel.name} fails its tests, above")
    last = result.stdout.splitlines()[-1].strip("= ")
    return f"torch {config['torch']}, built with torch {config['torch_built_with']}: {last}"


def main() -> None:
    """Parse the command line and try everything."""
    parser = argparse.ArgumentParser(
        prog="test-wheels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--torches", nargs="+", default=["2.11", "newest"])
    parser.add_argument("--tests", nargs="+", default=list(TESTS), help="files of tests to run")
    options = parser.parse_args()
    wheels = sorted(options.dist.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"test-wheels: there is no wheel in {options.dist}: run make wheels first")
    for python in options.pythons:
        for torch in options.torches:
            with tempfile.TemporaryDirectory(prefix="sign-ext-test-wheels-") as folder:
                work = Path(folder).resolve()
                # Beside the tests is no sign_ext, so that they import the installed one.
                for name in ("python_tests", "csrc", "pyproject.toml"):
                    copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                    copy(ROOT / name, work / name)
                environment = Environment(work / "environment", python, torch)
                for wheel in wheels:
                    outcome = try_wheel(environment, wheel, work, options.tests)
                    print(f"{wheel.name}, Python {python}: {outcome}", flush=True)


if __name__ == "__main__":
    main()
