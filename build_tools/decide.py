"""Decide which operators to build: pure functions of the request and the machine's tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CHOICES = ("auto", "cpu", "cuda", "none")
MODULE_CHOICES = ("auto", "none")
OLDEST_TORCH = (2, 11)
# Used if no GPU is visible: one cubin per generation, and PTX for GPUs newer than the last.
DEFAULT_ARCHES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
BYTES_PER_JOB = 3 * 2**29  # measured peak of one compiler process, with a margin


class BuildError(Exception):
    """The build cannot continue. The message is one sentence for the user."""


@dataclass(frozen=True)
class Missing:
    """Something that was not found; `why` says where it was looked for."""

    why: str


@dataclass(frozen=True)
class Torch:
    """The torch to build against."""

    version: str
    cuda: str | None  # "13.2", or None for a build without CUDA


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit."""

    home: str
    version: str  # nvcc's, "13.0"


@dataclass(frozen=True)
class Decision:
    """What to build, and why."""

    kind: str  # "cuda" (CPU and CUDA operators), "cpu" or "none"
    why: str


def decide(
    requested: str,
    torch: Torch | Missing,
    toolkit: Toolkit | Missing,
    compiler: str | Missing,
) -> Decision:
    """Choose what to build.

    Args:
        requested: Value of SIGN_EXT_BUILD, one of `CHOICES`.
        torch: The torch found, or where it was looked for.
        toolkit: The CUDA toolkit found, or where it was looked for.
        compiler: The C++ compiler found, or what it lacks.

    Returns:
        The decision, with its reason.

    Raises:
        BuildError: The requested kind cannot be built on this machine.
    """
    if requested not in CHOICES:
        raise BuildError(f"SIGN_EXT_BUILD={requested!r} is not one of {', '.join(CHOICES)}")
    if requested == "none":
        return Decision("none", "SIGN_EXT_BUILD=none asked for pure Python")
    if isinstance(torch, Missing):
        raise BuildError(
            f"torch, which the extension is built against, is missing ({torch.why}): install"
            " torch>=2.11 first, or leave out --no-build-isolation, or set SIGN_EXT_BUILD=none"
        )
    if is_too_old(torch.version):
        raise BuildError(
            f"torch {torch.version} is older than 2.11, the oldest that sign_ext works with:"
            " run pip install -U 'torch>=2.11'"
        )
    if isinstance(compiler, Missing):
        if requested == "auto":
            return Decision("none", compiler.why)
        raise BuildError(
            f"SIGN_EXT_BUILD={requested} needs a C++ compiler: {compiler.why};"
            " SIGN_EXT_BUILD=none installs pure Python"
        )
    if requested == "cpu":
        return Decision("cpu", "SIGN_EXT_BUILD=cpu asked for it")
    obstacle = cuda_obstacle(torch, toolkit)
    if obstacle is None:
        assert isinstance(toolkit, Toolkit)
        return Decision(
            "cuda",
            f"torch {torch.version} is a CUDA {torch.cuda} build and nvcc {toolkit.version}"
            f" is in {toolkit.home}",
        )
    if requested == "cuda":
        raise BuildError(
            f"SIGN_EXT_BUILD=cuda cannot be done: {obstacle};"
            " SIGN_EXT_BUILD=cpu builds the CPU operators"
        )
    return Decision("cpu", obstacle)


def builds_module(requested: str, headers: Missing | None) -> bool:
    """Whether to build sign_ext._C, the module for one Python, beside the library for all.

    Args:
        requested: Value of SIGN_EXT_MODULE, one of `MODULE_CHOICES`.
        headers: None, or where Python's headers were looked for in vain.

    Raises:
        BuildError: The value is not one of the choices.
    """
    if requested not in MODULE_CHOICES:
        raise BuildError(f"SIGN_EXT_MODULE={requested!r} is not one of {', '.join(MODULE_CHOICES)}")
    return requested == "auto" and headers is None


def cuda_obstacle(torch: Torch, toolkit: Toolkit | Missing) -> str | None:
    """Why CUDA operators cannot be built, or None. It does not matter whether there is a GPU."""
    if torch.cuda is None:
        return f"torch {torch.version} has no CUDA"
    if isinstance(toolkit, Missing):
        return f"torch is a CUDA {torch.cuda} build, but there is no CUDA toolkit: {toolkit.why}"
    if torch.cuda.split(".")[0] != toolkit.version.split(".")[0]:
        return (
            f"torch is a CUDA {torch.cuda} build and the toolkit in {toolkit.home} is"
            f" {toolkit.version}: the major versions must agree"
        )
    return None


def is_too_old(version: str) -> bool:
    """Whether a torch version is older than the oldest supported one."""
    major, minor = version.split("+")[0].split(".")[:2]
    return (int(major), int(minor)) < OLDEST_TORCH


def default_arches(visible: Iterable[str], supported: Iterable[str]) -> str:
    """The architectures to build for if TORCH_CUDA_ARCH_LIST is not set.

    Args:
        visible: Compute capabilities of this host's GPUs ("9.0"); may be empty.
        supported: Compute capabilities that this nvcc can compile for.

    Returns:
        A list in the format of TORCH_CUDA_ARCH_LIST, with PTX for the newest. A GPU newer than
        nvcc supports uses the PTX of the newest supported architecture.
    """
    known = sorted(set(supported), key=_number)
    chosen = set()
    for arch in set(visible):
        chosen.update(
            [known_arch for known_arch in known if _number(known_arch) <= _number(arch)][-1:]
        )
    if not chosen:
        chosen = set(DEFAULT_ARCHES) & set(known) or set(known[-1:])
    return ";".join(sorted(chosen, key=_number)) + "+PTX"


def _number(arch: str) -> tuple[int, int]:
    major, minor = arch.split(".")
    return int(major), int(minor)


def parallel_jobs(cores: int, free_bytes: int) -> int:
    """Number of parallel compiler processes: one per core, limited by free memory."""
    return max(1, min(cores, free_bytes // BYTES_PER_JOB))


def summary(decision: Decision, arches: str = "") -> str:
    """The last line of the build's output."""
    result = {
        "cuda": f"the CPU and CUDA operators ({arches}) are built",
        "cpu": "the CPU operators are built, the CUDA operators are not",
        "none": "no native operator is built, everything runs on plain torch, which is slower",
    }[decision.kind]
    return f"sign_ext: {result}. Why: {decision.why}."
