"""What `make wheels` says of a wheel, and which wheels `make test-wheels` tries where."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import try_wheels
import wheels

from build_tools.decide import Missing, Toolkit, Torch
from sign_ext.ops.native import NATIVE

RECORD = {
    "native": True,
    "cuda": True,
    "arches": "8.0;9.0+PTX",
    "toolkit": "13.0",
    "compiler": "g++ 12.2.0",
    "torch_built_with": "2.15.0",
    "library": "libsign_ext_ops.so",
}


def wheel_of(folder: Path, name: str, record: dict, *libraries: str) -> Path:
    file = folder / name
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("sign_ext/_build_info.json", json.dumps(record))
        archive.writestr("sign_ext/__init__.py", "")
        for library in libraries:
            archive.writestr(library, b"\0" * 1_500_000)
    return file


def test_a_wheel_is_described_by_what_its_build_recorded(tmp_path):
    name = "sign_ext-0.1.0+cu13-py3-none-manylinux_2_34_x86_64.whl"
    cuda = wheel_of(tmp_path, name, RECORD, "sign_ext/libsign_ext_ops.so")
    assert re.fullmatch(
        rf"{re.escape(name)}: 1\.5 MB, operators for CPU and CUDA \(8\.0;9\.0\+PTX\); "
        r"built with g\+\+ 12\.2\.0, torch 2\.15\.0, nvcc 13\.0",
        wheels.describe(cuda),
    )
    plain = {**RECORD, "cuda": False, "arches": "", "toolkit": ""}
    cpu = wheel_of(tmp_path, "a-py3-none-any.whl", plain, "sign_ext/libsign_ext_ops.so")
    assert wheels.describe(cpu).endswith("operators for CPU; built with g++ 12.2.0, torch 2.15.0")


@pytest.mark.parametrize(
    "libraries",
    [
        (),
        ("sign_ext/_C.cpython-311-x86_64-linux-gnu.so", "sign_ext/libsign_ext_ops.so"),
        ("sign_ext/libsign_ext_ops.so", "sign_ext.libs/libcudart-1a2b.so.13"),
    ],
    ids=["none", "a module for one Python", "a copy of CUDA's"],
)
def test_a_wheel_brings_its_own_library_and_no_other(tmp_path, libraries):
    wheel = wheel_of(tmp_path, "a-py3-none-any.whl", RECORD, *libraries)
    with pytest.raises(SystemExit, match=r"a-py3-none-any\.whl holds .*, not libsign_ext_ops\.so"):
        wheels.contents(wheel)


def test_a_cuda_wheel_is_for_all_gpus_and_its_version_names_cuda(monkeypatch):
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(wheels.environment, "find_torch", lambda: Torch("2.15.0", "13.2"))
    monkeypatch.setattr(wheels.environment, "find_toolkit", lambda: Toolkit("/cuda", "13.0"))
    monkeypatch.setattr(wheels.environment, "supported_arches", lambda toolkit: ["8.0", "9.0"])
    assert wheels.default_kinds() == ["sdist", "cpu", "cuda"]
    assert wheels.cuda_variables() == {
        "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX",
        "SIGN_EXT_LOCAL_VERSION": "cu13",
    }
    monkeypatch.setattr(wheels.environment, "find_toolkit", lambda: Missing("nvcc is not on PATH"))
    assert wheels.default_kinds() == ["sdist", "cpu"]
    with pytest.raises(SystemExit, match=r"no CUDA wheel can be built here: .*nvcc is not on PATH"):
        wheels.cuda_variables()


def test_the_configuration_that_setuptools_puts_into_an_sdist_sets_no_version(
    tmp_path, monkeypatch
):
    """Its empty `tag_build` won over "+cu13", so that two wheels had one name."""
    source = tmp_path / "sign_ext-0.1.0"
    source.mkdir()
    (source / "setup.cfg").write_text("[egg_info]\ntag_build = \n")
    (source / "setup.py").write_text("")
    sdist = Path(shutil.make_archive(str(tmp_path / "sdist"), "gztar", tmp_path, source.name))
    built = []

    def run(command, folder, **variables):
        if "build" in command:
            built.extend(sorted(file.name for file in folder.iterdir()))
        out = Path(command[command.index("--outdir" if "build" in command else "-w") + 1])
        out.mkdir()
        wheel_of(out, "sign_ext-0.1.0-py3-none-any.whl", RECORD)

    monkeypatch.setattr(wheels, "run", run)
    wheels.build_wheel("cpu", sdist, tmp_path)
    assert built == ["setup.py"]


def test_a_cuda_wheel_is_tried_where_torch_has_that_cuda():
    cuda = Path("sign_ext-0.1.0+cu13-py3-none-manylinux_2_34_x86_64.whl")
    cpu = Path("sign_ext-0.1.0-py3-none-manylinux_2_34_x86_64.whl")
    assert (try_wheels.cuda_of(cuda), try_wheels.cuda_of(cpu)) == ("13", None)
    for torch_cuda, taken in [("13.2", True), ("12.8", False), ("1.3", False), (None, False)]:
        assert try_wheels.fits(cuda, torch_cuda) is taken
        assert try_wheels.fits(cpu, torch_cuda)


@pytest.mark.skipif(not NATIVE.loaded, reason=f"no operators: {NATIVE.why}")
def test_the_probe_runs_with_the_operators_of_this_build(tmp_path):
    package = Path(try_wheels.ROOT, "sign_ext")
    run = subprocess.run(
        [sys.executable, "-c", try_wheels.PROBE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout.splitlines()[-1])
    assert (Path(answer["file"]).parent, answer["native"]) == (package, True)


def test_a_version_of_torch_becomes_a_requirement():
    assert try_wheels.torch_requirement("2.11") == "torch==2.11.*"
    assert try_wheels.torch_requirement("2.11.0") == "torch==2.11.0"
    assert try_wheels.torch_requirement("newest") == "torch"
    with pytest.raises(SystemExit, match="'latest' is neither a version nor 'newest'"):
        try_wheels.torch_requirement("latest")


def test_without_wheels_the_next_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["try_wheels", "--dist", str(tmp_path)])
    with pytest.raises(SystemExit, match="run make wheels first"):
        try_wheels.main()
