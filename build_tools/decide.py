"""Which operators to build, and why: pure functions of what was asked for and what is here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CHOICES = ("auto", "cpu", "cuda", "none")
OLDEST_TORCH = (2, 11)
# Built where no GPU is visible: one cubin a generation, and PTX for what comes after the last.
DEFAULT_ARCHES = ("8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
BYTES_PER_JOB = 3 * 2**29  # what one compiler process was seen to need, with room to spare


class BuildError(Exception):
    """The build cannot go on; the message is one sentence for the person who started it."""


@dataclass(frozen=True)
class Missing:
    """Something that was looked for and not found, and where it was looked for."""

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
    """What is built."""

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
        requested: SIGN_EXT_BUILD, one of `CHOICES`.
        torch: the torch found, or where it was looked for.
        toolkit: the CUDA toolkit found, or where it was looked for.
        compiler: the C++ compiler found, or what it lacks.

    Returns:
        The decision, with its reason.

    Raises:
        BuildError: what was asked for by name cannot be built here.
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


def cuda_obstacle(torch: Torch, toolkit: Toolkit | Missing) -> str | None:
    """Why CUDA operators cannot be built, or None. Whether this host has a GPU plays no part."""
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
    """Whether a torch version is older than the oldest that works."""
    major, minor = version.split("+")[0].split(".")[:2]
    return (int(major), int(minor)) < OLDEST_TORCH


def default_arches(visible: Iterable[str], supported: Iterable[str]) -> str:
    """The architectures to build for when TORCH_CUDA_ARCH_LIST does not say.

    Args:
        visible: compute capabilities of the GPUs of this host ("9.0"), possibly none.
        supported: those that this nvcc can compile for.

    Returns:
        A list in TORCH_CUDA_ARCH_LIST's form, with PTX for the newest. A GPU newer than nvcc knows
        is served by the PTX of the newest architecture below it.
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
    """Compiler processes to run at once: one a core, as far as free memory goes."""
    return max(1, min(cores, free_bytes // BYTES_PER_JOB))


def summary(decision: Decision, arches: str = "") -> str:
    """The last line of the build's output."""
    what = {
        "cuda": f"the CPU and CUDA operators ({arches}) are built",
        "cpu": "the CPU operators are built, the CUDA operators are not",
        "none": "no native operator is built, everything runs on plain torch, which is slower",
    }[decision.kind]
    return f"sign_ext: {what}. Why: {decision.why}."
