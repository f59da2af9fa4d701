"""Find what the build needs: torch, a CUDA toolkit, a C++ compiler, cores and memory."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from build_tools.decide import Missing, Toolkit, Torch, is_too_old


def target_folders() -> list[str]:
    """The package folders of the environment that the package is being installed into.

    pip's build isolation runs the target's interpreter and only hides its package folders, so
    sysconfig still names them. uv builds in a separate environment and does not name the target;
    under uv the folders of the activated environments and of .venv are added.
    """
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    config = Path(sys.prefix, "pyvenv.cfg")
    sees_base = config.is_file() and re.search(
        r"(?im)^include-system-site-packages\s*=\s*true", config.read_text()
    )
    if sys.prefix == sys.base_prefix or sees_base:
        folders += [*site.getsitepackages([sys.base_prefix]), site.getusersitepackages()]
    if "UV" in os.environ:
        folders += [_packages_of(prefix) for prefix in _outer_environments()]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]


def _outer_environments() -> list[Path]:
    """Environments that are likely the target of the build, most likely first."""
    prefixes = [Path(entry).parent for entry in os.environ.get("PATH", "").split(os.pathsep)]
    prefixes.append(Path(__file__).resolve().parent.parent / ".venv")
    environments = [prefix for prefix in prefixes if (prefix / "pyvenv.cfg").is_file()]
    if "CONDA_PREFIX" in os.environ:
        environments.append(Path(os.environ["CONDA_PREFIX"]))
    return environments


def _packages_of(prefix: Path) -> str:
    """An environment's package folder for this Python version; it may not exist."""
    return sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})


def add_target_folders() -> None:
    """Append the target's package folders to sys.path."""
    # At the end: an older setuptools of the target must not shadow the build's own.
    sys.path += [folder for folder in target_folders() if folder not in sys.path]
    importlib.invalidate_caches()


def usable_torch_installed() -> bool:
    """Whether a supported torch is installed, determined without importing it."""
    path = [*sys.path, *target_folders()]
    for distribution in importlib.metadata.distributions(name="torch", path=path):
        return not is_too_old(distribution.version)
    return False


def find_torch() -> Torch | Missing:
    """The torch that can be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Missing(f"import torch: {error}")
    print(f"sign_ext: building against torch {torch.__version__} in {Path(torch.__file__).parent}")
    return Torch(str(torch.__version__), torch.version.cuda)


def wheel_cuda_folders(part: str) -> list[str]:
    """The folders `part` ("include", "lib", "bin") of the nvidia-* wheels that torch depends on."""
    try:
        import torch
    except (ImportError, OSError):
        return []
    nvidia = Path(torch.__file__).parent.parent / "nvidia"
    major = (torch.version.cuda or "").split(".")[0]
    # CUDA 13 wheels share one folder, CUDA 12 wheels have one each.
    folders = [nvidia / f"cu{major}" / part, *sorted(nvidia.glob(f"cuda_*/{part}"))]
    return [str(folder) for folder in folders if folder.is_dir()]


def find_toolkit() -> Toolkit | Missing:
    """Find the CUDA toolkit: CUDA_HOME or CUDA_PATH if set, else PATH, else the usual folders."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    if named:
        candidates = [Path(named, "bin", "nvcc")]
        where = f"CUDA_HOME is {named}, which has no bin/nvcc that runs"
    else:
        candidates = [Path(on_path)] if on_path else []
        candidates.append(Path("/usr/local/cuda/bin/nvcc"))
        candidates += [Path(folder, "nvcc") for folder in wheel_cuda_folders("bin")]
        where = "nvcc is not on PATH, CUDA_HOME is not set and /usr/local/cuda has none"
    for nvcc in candidates:
        toolkit = _toolkit_of(nvcc)
        if toolkit is not None:
            return toolkit
    return Missing(where)


def _toolkit_of(nvcc: Path) -> Toolkit | None:
    """The toolkit that an nvcc reports as its own; an nvcc on PATH may be a wrapper script."""
    try:
        version = _output([str(nvcc), "--version"])
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "empty.cu")
            source.touch()
            dry_run = _output([str(nvcc), "--dryrun", "-c", str(source)])
    except (OSError, subprocess.CalledProcessError):
        return None
    release = re.search(r"release (\d+\.\d+)", version)
    top = re.search(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
    if release is None:
        return None
    home = Path(top.group(1)).resolve() if top else nvcc.resolve().parent.parent
    if not (home / "bin" / "nvcc").exists():
        home = nvcc.parent.parent
    return Toolkit(str(home), release.group(1))


def supported_arches(toolkit: Toolkit) -> list[str]:
    """The compute capabilities that the toolkit can compile for."""
    listed = _output([os.path.join(toolkit.home, "bin", "nvcc"), "--list-gpu-arch"])
    return [f"{major}.{minor}" for major, minor in re.findall(r"compute_(\d+)(\d)\b", listed)]


def visible_arches() -> list[str]:
    """The compute capabilities of this host's GPUs; empty without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return []
    capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    return sorted({f"{major}.{minor}" for major, minor in capabilities})


def find_compiler() -> str | Missing:
    """Find the C++ compiler and check that it compiles C++20."""
    if sys.platform == "win32":
        return "cl"
    command = _compiler()
    if shutil.which(command) is None:
        return Missing(f"there is no C++ compiler ({command} is not on PATH)")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <concepts>\nstatic_assert(std::integral<int>);\n")
        probe = [command, "-std=c++20", "-fsyntax-only", str(source)]
        result = subprocess.run(probe, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        message = next(
            (line for line in result.stderr.splitlines() if "error" in line), "it failed"
        )
        return Missing(f"{command} does not compile C++20: {message}")
    return command


def _compiler() -> str:
    return shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")[0]


def compiler_version() -> str:
    """The C++ compiler's name and version, as it says itself: "g++ 12.2.0"."""
    if sys.platform == "win32":
        return "MSVC"
    text = "#ifdef __clang__\nclang __clang_version__\n#else\ng++ __VERSION__\n#endif\n"
    command = [_compiler(), "-E", "-P", "-x", "c++", "-"]
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return " ".join(result.stdout.replace('"', " ").split())


def find_python_headers() -> Missing | None:
    """Where Python's headers were looked for in vain; None if they are there."""
    include = sysconfig.get_path("include")
    if os.path.exists(os.path.join(include, "Python.h")):
        return None
    return Missing(f"Python.h is not in {include} (on Debian it is in python3-dev)")


def free_memory() -> int:
    """Bytes that can be allocated without swapping, within the cgroup's limit."""
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
        free += [int(available.group(1)) * 1024] if available else []
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        free += [int(limit) - int((group / "memory.current").read_text())] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(free, default=8 * 2**30)


def cores() -> int:
    """CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _output(command: list[str]) -> str:
    result = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return result.stdout
