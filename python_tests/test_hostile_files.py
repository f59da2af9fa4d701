"""Broken and hostile files: each is refused with its name and the field, and none is waited for."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sign_ext import TuningPlan
from sign_ext.cli import main
from sign_ext.data import open_data
from sign_ext.files import MAX_JSON_DEPTH, open_regular, parse_json, read_json, sha256_of
from sign_ext.models import build_model
from sign_ext.report.schema import Results
from sign_ext.store import StoreError, load_transformed, save_transformed, verify
from sign_ext.store.inspect import describe
from sign_ext.training import load_checkpoint, save_checkpoint
from sign_ext.training.checkpoints import write_tensors
from sign_ext.training.run_folder import without_empty_folders
from sign_ext.training.state import RunState, load_state, peek, save_state

SECONDS = 60  # every case takes a fraction of a second; a hang takes for ever
REFUSED = (ValueError, StoreError, OSError)

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """End a test that waits, by an exception that no handler of the package takes for its own."""

    class Hangs(BaseException):
        pass

    def stop(*_: Any) -> None:
        raise Hangs(f"still running after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(*place: str | int, value: Any) -> Edit:
    """An edit that sets a field."""

    def edit(content: dict[str, Any]) -> None:
        for key in place[:-1]:
            content = content[key]  # type: ignore[index]
        content[place[-1]] = value  # type: ignore[index]

    return edit


def drop(*place: str | int) -> Edit:
    """An edit that removes a field."""

    def edit(content: dict[str, Any]) -> None:
        for key in place[:-1]:
            content = content[key]  # type: ignore[index]
        del content[place[-1]]  # type: ignore[arg-type]

    return edit


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def make_special(path: Path, kind: str) -> None:
    """Replace a file by something that must not be read."""
    path.unlink(missing_ok=True)
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")


SPECIAL = ["named pipe", "device", "folder"]

# ---------------------------------------------------------------------------------------------
# manifests


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three shards of 5, 5 and 3 images."""
    torch.manual_seed(11)
    images = {k: torch.rand(13, 3, 5, 4) * 255 for k in (2, 7)}
    folder = tmp_path / "store"
    return save_transformed(
        folder,
        images,
        torch.arange(13) % 3,
        recipe={"by": "hand"},
        class_names=("a", "b", "c"),
        shard_size=5,
    )


def edit_manifest(store: Path, edit: Edit) -> None:
    path = store / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


MANIFESTS: dict[str, tuple[Edit, str]] = {
    **{
        f"no {field}": (drop(field), f"{field} is missing")
        for field in (
            *("recipe", "images", "shard_size", "snapshots", "dtype", "image_shape"),
            *("class_names", "choices", "shards", "complete"),
        )
    },
    **{
        f"{field} is {value!r}": (put(field, value=value), field)
        for field, value in (
            ("images", 10**18),
            ("images", "13"),
            ("images", 13.0),
            ("images", True),
            ("images", -13),
            ("images", 0),
            ("images", None),
            ("images", 14),
            ("images", 16),
            ("shard_size", 0),
            ("shard_size", 10**40),
            ("shard_size", 4),
            ("snapshots", []),
            ("snapshots", [7, 2]),
            ("snapshots", [2, 2]),
            ("snapshots", "27"),
            ("dtype", "int3"),
            ("dtype", ["float32"]),
            ("image_shape", [3, 10**9, 10**9]),
            ("image_shape", [3, -5, 4]),
            ("image_shape", 3),
            ("class_names", "abc"),
            ("class_names", [1, 2, 3]),
            ("recipe", []),
            ("choices", None),
            ("shards", {}),
            ("shards", [None, None, None]),
            ("complete", False),
            ("complete", "true"),
        )
    },
    "shard without sha256": (drop("shards", 1, "sha256"), "shards[1].sha256 is missing"),
    "shard with another sum": (put("shards", 1, "sha256", value="zz"), "shards[1].sha256"),
    "shard with other images": (put("shards", 2, "images", value=4), "shards[2].images"),
    "shard with negative bytes": (put("shards", 0, "bytes", value=-1), "shards[0].bytes"),
    "shard with no bytes": (put("shards", 0, "bytes", value=0), "shards[0].bytes"),
    "shard that is a link upwards": (
        put("shards", 0, "file", value="../shard-000000.safetensors"),
        "shards[0].file",
    ),
    "shard twice": (
        put("shards", 1, "file", value="shard-000000.safetensors"),
        "shards[1].file",
    ),
    "shard with a NUL": (put("shards", 1, "file", value="shard\0"), "shards[1].file"),
    "shard missing": (drop("shards", 2), "shards lists 2"),
    "skipped beyond the shard": (
        put("shards", 0, "skipped", value=[{"index": 5, "key": "", "why": ""}]),
        "shards[0].skipped",
    ),
    "skipped too many": (
        put("shards", 0, "skipped", value=[{"index": 3, "key": "", "why": ""}]),
        "shards[0].images",
    ),
    "skipped without index": (
        put("shards", 0, "skipped", value=[{"key": "", "why": ""}]),
        "shards[0].skipped[0].index is missing",
    ),
    "change of another K": (
        put("shards", 0, "change", value={"3": {"images": 1, "rms": 0.5, "largest": 1.0}}),
        "shards[0].change",
    ),
    "change is negative": (
        put("shards", 0, "change", value={"2": {"images": 1, "rms": -0.5, "largest": 1.0}}),
        "shards[0].change.2.rms",
    ),
    "change is NaN": (
        put("shards", 0, "change", value={"2": {"images": 1, "rms": float("nan"), "largest": 1}}),
        "NaN",
    ),
    "unknown field of a shard": (put("shards", 0, "color", value="red"), "color"),
    "deep recipe": (
        lambda content: content.update(recipe=json.loads(deep(MAX_JSON_DEPTH))),
        "levels deep",
    ),
    "another format": (put("format", value="other"), "format"),
    "a later version": (put("format_version", value=2), "format version"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_is_refused_with_the_field_that_is_wrong(store: Path, case: str) -> None:
    edit, field = MANIFESTS[case]
    edit_manifest(store, edit)
    for read in (load_transformed, verify, describe):
        with pytest.raises(REFUSED) as refusal:
            read(store)
        message = str(refusal.value)
        assert "manifest.json" in message
        assert field in message
        assert len(message) < 600


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\0" * 64, "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "not the manifest"),
        (b"null", "not the manifest"),
        (b'{"images": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (deep(100_000).encode(), "levels deep"),
        (b"[" * 100_000, "levels deep"),
    ],
)
def test_a_manifest_that_is_no_manifest(store: Path, content: bytes, says: str) -> None:
    (store / "manifest.json").write_bytes(content)
    for read in (load_transformed, verify, describe):
        with pytest.raises(ValueError, match=r"manifest\.json") as refusal:
            read(store)
        assert says in str(refusal.value)


def unfinish(store: Path, **fields: Any) -> None:
    """Turn a store into one whose run was killed before the manifest listed the shards."""
    content = json.loads((store / "manifest.json").read_text())
    for shard in content["shards"]:
        name = Path(shard.pop("file")).stem
        (store / f"{name}.json").write_text(json.dumps(shard))
    content = {**content, "shards": [], "complete": False, **fields}
    (store / "manifest.json").write_text(json.dumps(content))


def test_an_unfinished_store_of_any_number_of_images_is_described_at_once(store: Path) -> None:
    unfinish(store, images=10**15, shard_size=1)
    with pytest.warns(UserWarning, match=r"shard-00000\d\.json: images"):
        found = describe(store)
    assert (found["shards"], found["of_shards"]) == (3, 10**15)
    verdict = verify(store)
    assert verdict.shards == 10**15
    assert "it has 3 of 1,000,000,000,000,000 shards" in verdict.faults[-1]
    assert len(verdict.faults) < 20
    with pytest.raises(StoreError, match="3 of 1,000,000,000,000,000 shards"):
        load_transformed(store)


RECORDS: dict[str, tuple[str | Edit, str]] = {
    **{f"no {each}": (drop(each), f"{each} is missing") for each in ("images", "bytes", "sha256")},
    **{f"no {each}": (drop(each), f"{each} is missing") for each in ("skipped", "change")},
    "images is text": (put("images", value="5"), "images is '5'"),
    "images is huge": (put("images", value=10**18), "images"),
    "images is another number": (put("images", value=2), "images is 2"),
    "bytes is negative": (put("bytes", value=-5), "bytes is -5"),
    "originals is a number": (put("originals", value=5), "originals is 5"),
    "change is a list": (put("change", value=[]), "change is []"),
    "unknown field": (put("extra", value=1), "extra"),
    "not an object": ("[]", "its content is []"),
    "cut short": ('{"images": 5', "not valid JSON"),
    "NUL": ("\0", "not valid JSON"),
    "deep": (deep(5000), "levels deep"),
}


@pytest.mark.parametrize("case", RECORDS)
def test_verify_names_the_record_and_the_field(store: Path, case: str) -> None:
    unfinish(store)
    edit, field = RECORDS[case]
    path = store / "shard-000001.json"
    if isinstance(edit, str):
        path.write_text(edit)
    else:
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
    verdict = verify(store)
    (fault,) = [each for each in verdict.faults if "lists no shards yet" not in each]
    assert fault.startswith("shard-000001.json")
    assert field in fault
    assert verdict.whole == 2


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["shard-000001.safetensors", "shard-000001.json", "manifest.json"])
def test_special_files_in_a_store_are_named_and_not_waited_for(
    store: Path, kind: str, name: str
) -> None:
    if name.endswith("001.json"):
        unfinish(store)
    make_special(store / name, kind)
    if name == "manifest.json":
        for read in (load_transformed, verify, describe):
            with pytest.raises(REFUSED, match=rf"manifest\.json.* a {kind}"):
                read(store)
        return
    (fault,) = [each for each in verify(store).faults if name in each]
    assert f"a {kind}" in fault
    with pytest.raises(StoreError, match="unfinished" if name.endswith("json") else name):
        load_transformed(store)


# ---------------------------------------------------------------------------------------------
# what is in a shard, where its checksum is right


def rewrite_shard(store: Path, edit: Callable[[dict[str, torch.Tensor]], Any], index: int) -> None:
    path = store / f"shard-{index:06d}.safetensors"
    tensors = {name: each.clone() for name, each in load_file(path).items()}
    edit(tensors)
    save_file(tensors, path)
    content = path.read_bytes()

    def fit(manifest: dict[str, Any]) -> None:
        manifest["shards"][index].update(
            bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
        )

    edit_manifest(store, fit)


def fill(name: str, row: int, value: float) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors[name][row].fill_(value)


NAN = float("nan")
VALUES: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "label beyond the classes": (fill("labels", 3, 3), "labels[3] is 3; accepted: 0 to 2"),
    "negative label": (fill("labels", 0, -1), "labels[0] is -1"),
    "index of another shard": (fill("indices", 2, 1), "indices[2] is 1, not 7"),
    "index twice": (fill("indices", 1, 5), "indices[1] is 5, not 6"),
    "key ends going back": (fill("key_ends", 1, 0), "key_ends[1] is 0"),
    "key beyond the text": (fill("key_ends", 4, 10**9), "key_ends[4] is 1000000000"),
    "text beyond the keys": (
        lambda t: t.update(keys=torch.cat([t["keys"], t["keys"]])),
        "keys has 10 bytes",
    ),
    "NaN": (lambda t: t["images_000007"][2, 1].fill_(NAN), "images_000007[2] has values"),
    "infinite": (lambda t: t["images_000002"][4, 0, 0, 0].fill_(1e999), "images_000002[4]"),
    "no labels": (lambda t: t.pop("labels"), "has no labels"),
    "no keys": (lambda t: t.pop("keys"), "has no keys"),
    "another snapshot": (lambda t: t.update(other=t.pop("images_000007")), "has no images_000007"),
    "labels as floats": (lambda t: t.update(labels=t["labels"].float()), "labels is F32"),
    "labels too few": (lambda t: t.update(labels=t["labels"][:2].clone()), "labels is [2]"),
    "images of another dtype": (
        lambda t: t.update(images_000002=t["images_000002"].double()),
        "images_000002 is F64",
    ),
    "images of another shape": (
        lambda t: t.update(images_000002=t["images_000002"].flatten(1)),
        "images_000002 is [5, 60]",
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_verify_looks_at_what_is_in_a_shard(store: Path, case: str) -> None:
    edit, says = VALUES[case]
    rewrite_shard(store, edit, 1)
    verdict = verify(store)
    (fault,) = verdict.faults
    assert fault.startswith("shard-000001.safetensors")
    assert says in fault
    assert verdict.whole == 2
    if "[2] has" in says or "[4]" in says or "indices" in says:
        return
    opened = load_transformed(store)
    with pytest.raises(StoreError, match=r"shard-000001\.safetensors"):
        _ = opened.keys, opened.labels


def test_a_shard_that_fits_its_checksum_but_is_no_shard(store: Path) -> None:
    path = store / "shard-000001.safetensors"
    content = b"\xff" * path.stat().st_size
    path.write_bytes(content)
    edit_manifest(store, put("shards", 1, "sha256", value=hashlib.sha256(content).hexdigest()))
    (fault,) = verify(store).faults
    assert fault.startswith("shard-000001.safetensors cannot be read")
    with pytest.raises(StoreError, match=r"shard-000001\.safetensors cannot be read"):
        _ = load_transformed(store).labels


# ---------------------------------------------------------------------------------------------
# checkpoints

SPEC = {"name": "basic_cnn", "num_classes": 4, "image_shape": [3, 12, 20], "options": {}}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(2)
    model = build_model("basic_cnn", num_classes=4, image_shape=(3, 12, 20))
    return {name: each.clone() for name, each in model.state_dict().items()}


CHECKPOINTS: dict[str, tuple[Any, str]] = {
    **{
        f"no model.{each}": ({"model": {k: v for k, v in SPEC.items() if k != each}}, each)
        for each in SPEC
    },
    **{
        f"model.{field} is {value!r}": ({"model": {**SPEC, field: value}}, f"{field}")
        for field, value in (
            ("name", None),
            ("name", 5),
            ("name", ["basic_cnn"]),
            ("name", "basic_cn"),
            ("name", ""),
            ("num_classes", "4"),
            ("num_classes", 4.0),
            ("num_classes", True),
            ("num_classes", None),
            ("num_classes", 0),
            ("num_classes", -4),
            ("num_classes", 10**18),
            ("num_classes", 10**30),
            ("image_shape", "3x12x20"),
            ("image_shape", [3, 12]),
            ("image_shape", [1, 12, 20]),
            ("image_shape", [3, 12, 0]),
            ("image_shape", [3, -12, 20]),
            ("image_shape", [3, 12, 10**12]),
            ("image_shape", [3, "12", 20]),
            ("image_shape", 12),
            ("image_shape", None),
            ("options", []),
            ("options", "none"),
            ("options", {"dropout": "much"}),
            ("options", {"dropout": 2}),
            ("options", {"droput": 0.1}),
            ("options", {"padding": 5}),
            ("options", {"num_classes": 4}),
            ("options", {"name": "x"}),
            ("aleatoric", "yes"),
            ("aleatoric", 1),
        )
    },
    "model is a list": ({"model": [1]}, "model is [1]"),
    "model is null": ({"model": None}, "model is None"),
    "a list": ([1], "its content is [1]"),
    "a number": (3, "its content is 3"),
    "text": ("model", "its content is 'model'"),
    "no model": ({"note": 1}, "no 'model'"),
    "other sizes": ({"model": {**SPEC, "num_classes": 5}}, "classifier.weight is (4"),
    "enormous network": ({"model": {**SPEC, "num_classes": 2**31}}, "the model's (2147483648"),
    "enormous images": (
        {"model": {**SPEC, "image_shape": [3, 2**16, 2**16]}},
        "hidden.weight is (512, 960)",
    ),
    "deep": (deep(5000), "levels deep"),
    "deep, but JSON": (deep(MAX_JSON_DEPTH + 1), "levels deep"),
    "NaN": ('{"model": NaN}', "NaN"),
    "cut short": ('{"model": {', "not valid JSON"),
    "NUL": ("\0", "not valid JSON"),
    "empty": ("", "not valid JSON"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_is_refused_with_the_field_that_is_wrong(
    tmp_path: Path, weights: dict[str, torch.Tensor], case: str
) -> None:
    config, field = CHECKPOINTS[case]
    text = config if isinstance(config, str) and case != "text" else json.dumps(config)
    write_tensors(tmp_path / "model.safetensors", weights, {"sign_ext.config": text})
    with pytest.raises(ValueError, match=r"model\.safetensors") as refusal:
        load_checkpoint(tmp_path)
    assert field in str(refusal.value)
    assert len(str(refusal.value)) < 600


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = {
    "missing": (lambda t: t.pop("network.classifier.bias"), "network.classifier.bias is missing"),
    "unknown": (lambda t: t.update(extra=torch.zeros(1)), "extra is not in the model"),
    "shape": (
        lambda t: t.update({"network.classifier.bias": torch.zeros(3)}),
        "network.classifier.bias is (3,), the model's (4,)",
    ),
    "kind": (
        lambda t: t.update({"network.classifier.bias": torch.zeros(4, dtype=torch.int64)}),
        "network.classifier.bias is torch.int64",
    ),
    "NaN": (
        lambda t: t["network.classifier.weight"][1].fill_(NAN),
        "network.classifier.weight has values that are not finite",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_checkpoint_whose_tensors_do_not_fit(
    tmp_path: Path, weights: dict[str, torch.Tensor], case: str
) -> None:
    edit, says = TENSORS[case]
    tensors = {name: each.clone() for name, each in weights.items()}
    edit(tensors)
    text = json.dumps({"model": SPEC})
    write_tensors(tmp_path / "model.safetensors", tensors, {"sign_ext.config": text})
    with pytest.raises(ValueError, match=r"model\.safetensors") as refusal:
        load_checkpoint(tmp_path)
    assert says in str(refusal.value)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_special_files_as_a_checkpoint(tmp_path: Path, kind: str, name: str) -> None:
    model = build_model("basic_cnn", num_classes=4, image_shape=(3, 12, 20))
    save_checkpoint(tmp_path / "model.safetensors", model, {"model": SPEC})
    make_special(tmp_path / name, kind)
    with pytest.raises(REFUSED) as refusal:
        load_checkpoint(tmp_path)
    assert name in str(refusal.value)
    assert f"a {kind}" in str(refusal.value)


def test_what_a_broken_checkpoint_says_on_the_command_line(
    tmp_path: Path, weights: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    config: dict[str, Any] = {"model": SPEC, "data": {"name": 5}}
    path = tmp_path / "model.safetensors"
    for change, says in (
        ({}, "data.name is 5"),
        ({"data": "photos"}, "data.name is 'photos'"),
        ({"model": None}, "model is None"),
    ):
        write_tensors(path, weights, {"sign_ext.config": json.dumps({**config, **change})})
        assert main(["evaluate", "--checkpoint", str(path)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "model.safetensors" in line
        assert says in line


# ---------------------------------------------------------------------------------------------
# the state of a run, results, stages, tuning plans, images


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, torch.nn.Module, torch.optim.Optimizer]:
    """The state of a run of one step."""
    torch.manual_seed(4)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    state = RunState()
    row = {"epoch": 1, "steps": 1, "validation_accuracy": 0.5, "validation_loss": 1.0}
    state.add_epoch({**row, "train_loss": 1.0, "train_accuracy": 0.25}, model)
    save_state(tmp_path, state, model, optimizer, {"who": "test"})
    return tmp_path, model, optimizer


def edit_state(folder: Path, edit: Edit, of_tensors: bool) -> None:
    path = folder / "last.safetensors"
    with safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["sign_ext.run"])
    tensors = {name: each.clone() for name, each in load_file(path).items()}
    edit(tensors if of_tensors else content)
    write_tensors(path, tensors, {"sign_ext.run": json.dumps(content)})


STATES: dict[str, tuple[Edit, bool, str]] = {
    **{
        f"no {each}": (drop(each), False, f"{each} is missing")
        for each in (
            *("identity", "environment", "epoch", "steps", "seconds", "history"),
            *("best_epoch", "best_accuracy"),
        )
    },
    "epoch is text": (put("epoch", value="1"), False, "epoch is '1'"),
    "steps is negative": (put("steps", value=-1), False, "steps is -1"),
    "seconds is null": (put("seconds", value=None), False, "seconds is None"),
    "history is an object": (put("history", value={}), False, "history is {}"),
    "history without a loss": (
        drop("history", 0, "train_loss"),
        False,
        "history[0].train_loss is missing",
    ),
    "identity is a list": (put("identity", value=[]), False, "identity is []"),
    "no weight": (drop("model.weight"), True, "weight is missing"),
    "no best weight": (drop("best.bias"), True, "bias is missing"),
    "another shape": (put("model.bias", value=torch.zeros(3)), True, "bias is (3,)"),
    "NaN": (put("model.bias", value=torch.full((2,), NAN)), True, "bias has values"),
    "moment of another shape": (
        put("optimizer.0.exp_avg", value=torch.zeros(7)),
        True,
        "optimizer.0.exp_avg is (7,)",
    ),
    "moment of no parameter": (
        put("optimizer.12.exp_avg", value=torch.zeros(2)),
        True,
        "optimizer.12.exp_avg belongs to no parameter",
    ),
    "moment missing": (drop("optimizer.1.exp_avg"), True, "optimizer.1.exp_avg is missing"),
}


@pytest.mark.parametrize("case", STATES)
def test_a_run_is_not_resumed_from_a_broken_state(
    run: tuple[Path, torch.nn.Module, torch.optim.Optimizer], case: str
) -> None:
    folder, model, optimizer = run
    edit, of_tensors, says = STATES[case]
    load_state(folder, model, optimizer, {"who": "test"})
    edit_state(folder, edit, of_tensors)
    before = [each.clone() for each in model.state_dict().values()]
    with pytest.raises(ValueError, match=r"last\.safetensors") as refusal:
        load_state(folder, model, optimizer, {"who": "test"})
    assert says in str(refusal.value)
    assert all(map(torch.equal, before, model.state_dict().values()))
    if not of_tensors:
        with pytest.raises(ValueError, match=r"last\.safetensors"):
            peek(folder)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"seeds": "0"}, "seeds is '0'"),
        ({"seeds": ["0"]}, "seeds[0] is '0'"),
        ({"scale": 3}, "scale is 3"),
        ({"experiments": {}}, "experiments is {}"),
        ({"experiments": [{"name": "x"}]}, "experiments[0].title is missing"),
        ({"machine": []}, "machine is []"),
        ({"seconds": "long"}, "seconds is 'long'"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_results_are_refused_with_the_field(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    path = tmp_path / "results.json"
    Results("smoke", (0,), ()).write(path)
    assert Results.read(path).seeds == (0,)
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    with pytest.raises(ValueError, match=r"results\.json") as refusal:
        Results.read(path)
    assert says in str(refusal.value)


@pytest.mark.parametrize("content", ["[]", "{}", "3", '{"format": 1}', deep(5000), '"x"', ""])
def test_a_tuning_plan_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"plan\.json is not a tuning plan"):
        TuningPlan.load(path)


@pytest.mark.parametrize("kind", SPECIAL[:2])
def test_special_files_among_images(tmp_path: Path, kind: str) -> None:
    for name in ("ant", "bee"):
        for number in range(4):
            path = tmp_path / "data" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 9, 9)).save(path)
    path = tmp_path / "data" / "bee" / "2.png"
    source = open_data(str(tmp_path / "data"), split="all", image_size=8)
    assert len(source) == 8
    make_special(path, kind)
    with pytest.raises(REFUSED) as refusal:
        source.read(0, 8)
    assert f"a {kind}" in str(refusal.value)
    assert "2.png" in str(refusal.value)


# ---------------------------------------------------------------------------------------------
# files.py


def test_files_are_opened_only_if_they_are_regular(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(path)
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"abc"
    assert sha256_of(path) == hashlib.sha256(b"abc").hexdigest()
    for kind in SPECIAL:
        make_special(tmp_path / kind, kind)
        for read in (open_regular, sha256_of):
            with pytest.raises(OSError, match=f"a {kind}, not a regular file"):
                read(tmp_path / kind)
        with pytest.raises(ValueError, match=f"a {kind}, not a regular file"):
            read_json(tmp_path / kind)


def test_json_is_limited_in_depth() -> None:
    parse_json(deep(MAX_JSON_DEPTH), "it")
    for levels in (MAX_JSON_DEPTH + 1, 900, 10_000, 1_000_000):
        with pytest.raises(ValueError, match="it is nested more than"):
            parse_json(deep(levels), "it")


# ---------------------------------------------------------------------------------------------
# processes: closed pipes, folders left behind


@pytest.mark.parametrize(
    "command", ["inspect STORE", "inspect STORE --json", "verify STORE", "info"]
)
def test_a_reader_that_stops_reading_is_no_error(
    store: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert main([str(store) if word == "STORE" else word for word in command.split()]) == 141
        print("what is written later goes nowhere", file=closed, flush=True)
    assert "error" not in capsys.readouterr().err


def test_a_broken_pipe_elsewhere_is_an_error(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sign_ext.commands.inspect.run", fail)
    assert main(["inspect", str(store)]) == 1
    assert "Broken pipe" in capsys.readouterr().err


def test_a_full_disk_is_one_line(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["inspect", str(store)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", ["inspect $STORE", "info --help"])
def test_head_is_silent(store: Path, command: str) -> None:
    ended = subprocess.run(
        ["bash", "-c", f'"$PYTHON" -m sign_ext {command} | true; echo "$PIPESTATUS"'],
        capture_output=True,
        text=True,
        env={**os.environ, "STORE": str(store), "PYTHON": sys.executable},
        timeout=10 * SECONDS,
    )
    assert ended.stderr == ""
    assert ended.stdout in ("141\n", "0\n")  # argparse ends --help as if it had been read


def test_a_failed_run_leaves_no_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    for name, kept in (("new/er", None), ("old", "old"), ("full", "full")):
        folder = tmp_path / name
        with pytest.raises(KeyError), without_empty_folders(folder):  # noqa: PT012
            folder.mkdir(parents=True, exist_ok=True)
            if name == "full":
                (folder / "last.safetensors").touch()
            raise KeyError
        if kept is not None:
            assert (tmp_path / kept).is_dir()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["full", "old"]


def test_a_train_command_that_fails_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "out"
    arguments = ["train", "--model", "basic_cnn", "--out", str(out), "--data"]
    assert main([*arguments, "digits", "--sign", str(tmp_path / "absent")]) == 1
    assert "absent" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
