"""What loading the operators does where they are absent, left out, broken or for another torch."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import sign_ext
from sign_ext import build_config, ops
from sign_ext.ops import native
from sign_ext.ops.native import NATIVE, Facts, fallback_reason, operator

PACKAGE = Path(sign_ext.__file__).parent
LIBRARY = "sign_ext_ops.dll" if sys.platform == "win32" else "libsign_ext_ops.so"
PROBE = """
import json, sys, warnings
import torch
if len(sys.argv) > 1:
    torch.__version__ = sys.argv[1]
if len(sys.argv) > 2:
    torch.version.cuda = sys.argv[2] or None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import sign_ext
    from sign_ext.ops import sign_update_, sign_update_route
    p = torch.zeros(3)
    sign_update_(p, torch.ones(3), step_size=2.0)
ours = [w for w in caught if "sign_ext" in str(w.message)]
print(json.dumps({
    "file": sign_ext.__file__,
    "config": sign_ext.build_config(),
    "p": p.tolist(),
    "route": sign_update_route(p, torch.ones(3)),
    "warnings": [[w.category.__name__, str(w.message)] for w in ours],
}))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package's Python files alone, as they look in a folder of installed packages."""
    target = tmp_path / "sign_ext"
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "*.dll", "_build_info.json", "__pycache__")
    shutil.copytree(PACKAGE, target, ignore=ignored)
    return target


def import_it(copy: Path, *arguments: str) -> dict:
    """Import the copy in a fresh interpreter and report what happened."""
    result = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        cwd=copy.parent,
        env=os.environ | {"PYTHONPATH": str(copy.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert Path(report["file"]).parent == copy
    assert report["p"] == [2.0] * 3
    return report


def record(copy: Path, **content: object) -> None:
    (copy / "_build_info.json").write_text(json.dumps(content))


def break_library(copy: Path) -> None:
    (copy / LIBRARY).write_bytes(b"this is no shared library")


def test_a_source_tree_without_operators_runs_quietly(copy):
    report = import_it(copy)
    assert report["warnings"] == []
    assert report["config"]["native"] is False
    assert report["config"]["cuda"] is False
    assert report["config"]["arches"] == []
    assert "pip install" in report["config"]["why"]
    assert report["route"].startswith("torch: ")


def test_operators_left_out_on_purpose_are_no_news_and_the_reason_is_kept(copy):
    record(copy, native=False, kind="none", why="there is no C++ compiler")
    break_library(copy)  # left over from an earlier build: must not even be tried
    report = import_it(copy)
    assert report["warnings"] == []
    assert report["config"]["native"] is False
    assert "there is no C++ compiler" in report["config"]["why"]
    assert "there is no C++ compiler" in report["route"]


def assert_one_warning(report: dict, cause: str, cure: str) -> None:
    assert report["config"]["native"] is False
    assert report["route"].startswith("torch: ")
    ((category, message),) = report["warnings"]
    assert category == "RuntimeWarning"
    assert cause in message
    assert cure in message
    assert cause in report["config"]["why"]


@pytest.mark.parametrize("recorded", [False, True])
def test_a_broken_library_gives_one_warning(copy, recorded):
    if recorded:
        record(copy, native=True, kind="cpu", why="asked for")
    break_library(copy)
    assert_one_warning(import_it(copy), "cannot be loaded", "--force-reinstall")


def test_a_library_that_was_built_and_is_gone_gives_one_warning(copy):
    record(copy, native=True, kind="cpu", why="asked for")
    assert_one_warning(import_it(copy), "is missing", "--force-reinstall")


def test_a_torch_that_is_too_old_gives_one_warning(copy):
    record(copy, native=True, kind="cpu", why="asked for")
    break_library(copy)
    report = import_it(copy, "2.9.1+cpu")
    assert_one_warning(report, "torch 2.9.1+cpu is older than 2.11", "pip install -U 'torch>=2.11'")


def test_operators_for_another_cuda_give_one_warning(copy):
    record(copy, native=True, kind="cuda", why="asked for", cuda=True, toolkit="13.0")
    break_library(copy)  # must not even be tried: the linker's message would name neither
    report = import_it(copy, "2.15.0", "12.8")
    cause = "built for CUDA 13, and torch 2.15.0 is a CUDA 12.8 build"
    assert_one_warning(report, cause, "install sign_ext without CUDA operators")


@pytest.mark.parametrize(
    ("cuda", "here"),
    [(None, "has no CUDA"), ("1.3", "is a CUDA 1.3 build"), ("13.2", None)],
    ids=["no CUDA", "a prefix", "the same major version"],
)
def test_operators_for_cuda_need_a_torch_of_its_major_version(monkeypatch, cuda, here):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert native._cuda_obstacle({"cuda": False, "toolkit": ""}) is None
    obstacle = native._cuda_obstacle({"cuda": True, "toolkit": "13.0"})
    if here is None:
        assert obstacle is None
    else:
        cause, fix = obstacle
        assert (
            cause == f"its operators were built for CUDA 13, and torch {torch.__version__} {here}"
        )
        assert "a torch for CUDA 13" in fix


FACTS = {
    "cuda": True,
    "arches": "8.0;9.0+PTX",
    "toolkit": "13.0",
    "compiler": "g++ 12.2.0",
    "torch_built_with": "2.14.1",
}


def module_of(folder: Path, monkeypatch, **attributes: object) -> None:
    """A module sign_ext._C for this Python in a folder of its own."""
    monkeypatch.setattr(native, "_FOLDER", folder)
    (folder / native._MODULE).touch()
    module = types.ModuleType("sign_ext._C")
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, "sign_ext._C", module)


def test_the_record_says_how_the_library_was_built(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert native._facts({**FACTS, "module": native._MODULE}) == Facts(**FACTS)
    assert native._facts({}) == Facts(False, "", "", "", "")


def test_the_module_for_this_python_says_it_where_it_is_of_the_same_build(tmp_path, monkeypatch):
    module_of(tmp_path, monkeypatch, **{**FACTS, "compiler": "clang 19.1"})
    built = Facts(**{**FACTS, "compiler": "clang 19.1"})
    assert native._facts({**FACTS, "module": native._MODULE}) == built
    assert native._facts({}) == built  # built by hand, without a record
    for other in (None, "_C.cpython-399-x86_64-linux-gnu.so"):
        assert native._facts({**FACTS, "module": other}) == Facts(**FACTS)


@pytest.mark.skipif(not NATIVE.loaded, reason=f"no operators: {NATIVE.why}")
@pytest.mark.skipif(sys.platform != "linux", reason="reads an ELF file")
def test_the_library_names_no_symbol_of_python():
    content = (PACKAGE / LIBRARY).read_bytes()
    assert b"aoti_torch" in content  # names of the stable ABI, which it uses
    for python in (b"PyInit_", b"PyObject", b"Py_Initialize", b"_Py_", b"libpython"):
        assert python not in content


def test_build_config_says_what_is_here():
    config = build_config()
    assert config["torch"] == torch.__version__
    assert isinstance(config["native"], bool)
    assert isinstance(config["cuda"], bool)
    assert config["why"]
    if config["native"]:
        assert hasattr(torch.ops.sign_ext, "sign_update_")
        assert config["torch_built_with"].startswith("2.")
        assert config["compiler"]
        assert Path(config["library"]) == PACKAGE / LIBRARY
        assert config["cpu_target"] in config["cpu_targets"]
        assert config["cpu_targets"][0] == "baseline"
    else:
        assert (config["cpu_targets"], config["cpu_target"], config["module"]) == ([], None, None)
    if config["module"]:  # the file that an import would take
        assert config["module"] == importlib.util.find_spec("sign_ext._C").origin
    if config["cuda"]:
        assert config["arches"]
        assert config["toolkit"]


@pytest.mark.skipif(not NATIVE.loaded, reason=f"no operators: {NATIVE.why}")
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="reads Linux's list of its features")
def test_the_vector_target_in_use_is_the_best_that_the_processor_has(monkeypatch):
    targets = build_config()["cpu_targets"]
    features = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    needs = {
        "baseline": set(),
        "avx2": {"avx2", "fma"},
        "avx512": {"avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512dq"},
    }
    assert set(targets) in ({"baseline"}, set(needs))  # g++ on x86-64 compiles all of them
    code = "import sign_ext; print(sign_ext.build_config()['cpu_target'])"
    for limit, most in (("", 3), ("baseline", 1)):
        monkeypatch.setenv("SIGN_EXT_CPU_TARGET", limit)
        monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
        best = [target for target in targets[:most] if needs[target] <= features][-1]
        assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == best


def test_a_library_of_an_older_build_names_no_vector_target(monkeypatch):
    monkeypatch.setattr(native.ctypes, "CDLL", lambda file: object())
    monkeypatch.setattr(native, "NATIVE", native.Native(Facts(**FACTS), "asked for"))
    config = build_config()
    assert (config["cpu_targets"], config["cpu_target"]) == ([], None)
    assert config["arches"] == ["8.0", "9.0+PTX"]


def test_the_module_is_reported_where_it_is_of_the_same_build(tmp_path, monkeypatch):
    module_of(tmp_path, monkeypatch)
    monkeypatch.setattr(native, "NATIVE", native.Native(Facts(**FACTS), "asked for"))
    monkeypatch.setattr(native.ctypes, "CDLL", lambda file: object())
    monkeypatch.setattr(native, "_RECORD", tmp_path / "_build_info.json")
    for recorded, reported in ((native._MODULE, str(tmp_path / native._MODULE)), (None, None)):
        (tmp_path / "_build_info.json").write_text(json.dumps({"module": recorded}))
        assert build_config()["module"] == reported


def operators() -> dict:
    """Every function of sign_ext.ops that is an operator."""
    modules = [
        importlib.import_module(f"sign_ext.ops.{module.name}")
        for module in pkgutil.iter_modules(ops.__path__)
    ]
    found = [value for module in modules for value in vars(module).values()]
    return {value.__name__: value for value in found if hasattr(value, "reference")}


def test_every_operator_has_a_contract_and_a_reference():
    for name, run in operators().items():
        assert "Args:" in run.__doc__, name
        assert callable(run.reference), name


@pytest.mark.skipif(not NATIVE.loaded, reason=f"no operators: {NATIVE.why}")
def test_every_schema_of_the_library_has_its_operator_and_fake_kernel():
    names = [name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()]
    schemas = {name.removeprefix("sign_ext::") for name in names if name.startswith("sign_ext::")}
    assert schemas == set(operators())
    for name in schemas:
        entry = torch._library.simple_registry.singleton.find(f"sign_ext::{name}")
        assert entry.fake_impl.kernel is not None, name


# What a schema calls the values of a parameter that it takes as several.
ACTIVATION, STRIDE, DILATION = "low high slope", "stride_h stride_w", "dilation_h dilation_w"
KERNEL, CENTRED, LEADING = "kernel_h kernel_w", "pad_h pad_w", "pad_top pad_left"
BOUNDS = "low_e high_e low_d high_d low high"
BLOCK = f"{KERNEL} {STRIDE} {LEADING} tf32"
SEVERAL = {
    "activation": (ACTIVATION,),
    "kernel": (KERNEL,),
    "stride": (STRIDE,),
    "padding": (CENTRED, LEADING),
    "dilation": (DILATION,),
    "packed": (
        f"first taps second bias expanded {BOUNDS} {BLOCK}",
        f"first taps second expanded {BLOCK}",
    ),
}


@pytest.mark.skipif(not NATIVE.loaded, reason=f"no operators: {NATIVE.why}")
def test_every_schema_takes_the_parameters_of_its_operator_in_their_order():
    for name, run in operators().items():
        schema = getattr(torch.ops.sign_ext, name).default._schema
        takes = " ".join(argument.name for argument in schema.arguments)
        choices = [SEVERAL.get(given, (given,)) for given in inspect.signature(run).parameters]
        assert takes in map(" ".join, itertools.product(*choices)), name


def test_an_operator_runs_its_kernel_unless_there_is_a_reason_not_to():
    calls = []

    def masked_cotangent(g, out, *, mask=None, slope=0.0, scale=None, other=None):
        calls.append((mask, slope, scale, other))

    run = operator(masked_cotangent)
    g, scale = torch.ones(1, 3), torch.tensor([1.0, 2.0, 3.0])
    for positional in (True, False):
        out = torch.zeros(1, 3)
        run(g, out, scale=scale, other=g) if positional else run(out=out, g=g, scale=scale, other=g)
        assert out.tolist() == ([[2.0, 4.0, 6.0]] if NATIVE.loaded else [[0.0] * 3])
    assert calls == ([] if NATIVE.loaded else 2 * [(None, 0.0, scale, g)])
    calls.clear()
    run(g.double(), out, slope=4.0)
    assert fallback_reason(g.double()) is not None
    run.reference(g, out, slope=5.0)
    operator(reason=lambda g, out: f"{g.shape} {out.shape}")(masked_cotangent)(g, out, slope=6.0)
    assert calls == [(None, slope, None, None) for slope in (4.0, 5.0, 6.0)]


def test_an_operator_is_called_as_its_definition_is():
    def pack_mask(y, mask, activation=(0.0, 6.0, 0.0)):
        """A contract."""

    run = operator(pack_mask)
    assert (run.__name__, run.__doc__, run.__module__) == ("pack_mask", "A contract.", __name__)
    assert inspect.signature(run) == inspect.signature(pack_mask)
    with pytest.raises(TypeError, match="unexpected keyword argument 'slope'"):
        run(torch.ones(1, 1), torch.ones(1, 1), slope=0.0)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'mask'"):
        run(torch.ones(1, 1))
