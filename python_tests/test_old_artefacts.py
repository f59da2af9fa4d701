"""What an earlier version left on a disk loads and resumes: see artefacts/README.md.

Elsewhere no test compares with the code's own earlier output; here that is what is asked.
Only what users call is called here, the command line and public functions, so that no module's
name is in it. Names of files and fields are those on the disk, and are meant to be.
"""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import torch
from artefacts.old_calls import (
    ALEATORIC,
    DIGITS,
    FINISHED,
    HERE,
    UNFINISHED,
    reproduce,
    sign_ext,
    train_own,
    unpack,
)
from safetensors import safe_open
from safetensors.torch import load_file

from sign_ext import SignTransform, TuningPlan, iterative_sign
from sign_ext.augment import load_policies
from sign_ext.data import load_data
from sign_ext.store import StoreError, load_transformed, verify
from sign_ext.training import load_checkpoint

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # Another torch, or more threads, than the artefacts were made with.
    pytest.mark.filterwarnings("ignore:The resumed run continues where it was"),
]

# Of a store's recipe, what is another machine's, and may well be.
ENVIRONMENT = (
    ("engine", ("backend", "arithmetic", "machine")),
    ("versions", ("sign-ext", "torch")),
)


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, but locks."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def history_of(state: Path) -> list[dict[str, float]]:
    """The epochs that a killed training has behind it."""
    with safe_open(state, framework="pt") as file:
        return json.loads(file.metadata()["sign_ext.run"])["history"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return unpack("checkpoint", tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", train_size=20, image_size=8)


def test_a_checkpoint_loads(checkpoint, digits):
    model, config = load_checkpoint(checkpoint)
    assert config == read(checkpoint / "model.json")
    assert config["class_names"] == list(digits.class_names)
    with torch.no_grad():
        logits = model(digits.test.images[:4].float())
    torch.testing.assert_close(
        logits, torch.tensor(read(checkpoint / "logits.json")), rtol=1e-3, atol=1e-3
    )
    found, _ = sign_ext("evaluate", "--checkpoint", checkpoint, "--test-size", "20", "--draws", "1")
    assert found["data"]["name"] == "digits"


def transform(checkpoint: Path, options: tuple[str, ...], out: Path) -> dict[str, Any]:
    return sign_ext("transform", "--checkpoint", checkpoint, *options, "--out", out)[0]


def as_made_here(store: Path, fresh: Path) -> None:
    """See that today's recipe is the old one but for the machine, and put this machine in it."""
    path = store / "manifest.json"
    old, new = read(path), read(fresh / "manifest.json")
    for part, names in ENVIRONMENT:
        assert set(old["recipe"][part]) >= set(names)
        old["recipe"][part] |= {name: new["recipe"][part][name] for name in names}
    varying = {"choices": None, "complete": None, "shards": None}
    assert {**old, **varying} == {**new, **varying}
    if new["choices"]:  # none without the extension
        assert old["choices"].keys() == new["choices"].keys()
    assert {key for each in old["shards"] for key in each} <= set(new["shards"][0])
    path.write_text(json.dumps(old), "utf-8")


def test_a_store_opens(checkpoint, digits):
    store = load_transformed(HERE / "store")
    assert verify(HERE / "store").faults == ()
    assert (store.steps, len(store), store.class_names) == ((1, 3), 20, digits.class_names)
    assert store.labels.equal(digits.train.labels)
    assert store.indices.tolist() == list(range(20))
    assert len(set(store.keys)) == 20
    assert store.skipped == ()
    model, _ = load_checkpoint(checkpoint)
    sign = SignTransform(model, 3, step_size=1.0, snapshots=(1, 3))
    for step, images in sign.transform(digits.train.float()).items():
        # Stored as float16, whose neighbours are up to 1/8 apart below 256.
        torch.testing.assert_close(store.tensor(step), images, rtol=1e-3, atol=0.07)
    told, _ = sign_ext("inspect", HERE / "store")
    assert (told["complete"], told["images"], told["snapshots"]) == (True, 20, [1, 3])
    assert told["recipe"] == store.recipe


def test_a_finished_store_is_not_made_again(checkpoint, tmp_path):
    transform(checkpoint, FINISHED, tmp_path / "fresh")
    store = unpack("store", tmp_path)
    as_made_here(store, tmp_path / "fresh")
    before = contents(store)
    done = transform(checkpoint, FINISHED, store)
    assert (done["made"], done["kept"], done["images"]) == (0, 3, 20)
    assert contents(store) == before


def test_an_unfinished_store_is_finished(checkpoint, tmp_path):
    transform(checkpoint, UNFINISHED, tmp_path / "fresh")
    store = unpack("unfinished_store", tmp_path)
    choices = read(store / "manifest.json")["choices"]
    assert choices["choices"]
    with pytest.raises(StoreError, match="1 of 3 shards"):
        load_transformed(store)
    as_made_here(store, tmp_path / "fresh")
    first = (store / "shard-000000.safetensors").read_bytes()
    done = transform(checkpoint, UNFINISHED, store)
    assert (done["made"], done["kept"], done["images"]) == (2, 1, 20)
    assert (store / "shard-000000.safetensors").read_bytes() == first
    assert set(contents(store)) == {
        "manifest.json",
        *(f"shard-00000{i}.safetensors" for i in "012"),
    }
    assert read(store / "manifest.json")["choices"] == choices
    assert verify(store).faults == ()
    now, fresh = load_transformed(store), load_transformed(tmp_path / "fresh")
    torch.testing.assert_close(now.tensor(2), fresh.tensor(2), rtol=1e-4, atol=1e-2)
    assert (now.keys, now.labels.tolist()) == (fresh.keys, fresh.labels.tolist())


def test_a_store_still_joins_the_images_it_was_made_from(tmp_path):
    options = ("--model", "basic_cnn", "--epochs", "1", "--train-size", "20")
    sign_ext("train", *DIGITS, *options, "--sign", HERE / "store", "--out", tmp_path)
    assert read(tmp_path / "model.json")["data"]["images"] == 60


def test_a_finished_run_returns_at_once(tmp_path):
    folder = unpack("run", tmp_path)
    before, calls = contents(folder), []
    model, result = train_own(folder, lambda done, total: calls.append((done, total)))
    assert calls == [(12, 12)]
    assert result.history == history_of(folder / "last.safetensors")
    assert contents(folder) == before
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(weights[name].equal(each) for name, each in model.state_dict().items())


def test_an_interrupted_run_ends_as_the_whole_one(tmp_path):
    folder = unpack("interrupted_run", tmp_path)
    behind, whole = (history_of(f / "last.safetensors") for f in (folder, HERE / "run"))
    calls = []
    _, result = train_own(folder, lambda done, total: calls.append(done))
    assert calls[0] == behind[-1]["steps"] == 6
    assert result.history[:2] == behind == whole[:2]
    for row, expected in zip(result.history, whole, strict=True):
        assert row == pytest.approx(expected, rel=1e-2, abs=0.05)
    assert read(folder / "model.json").keys() == read(HERE / "run" / "model.json").keys()
    ended, wanted = (load_file(f / "model.safetensors") for f in (folder, HERE / "run"))
    for name, each in wanted.items():
        torch.testing.assert_close(ended[name], each, rtol=1e-2, atol=1e-2)


def test_an_interrupted_run_of_the_command_is_resumed(tmp_path):
    folder = unpack("aleatoric_run", tmp_path)
    behind = history_of(folder / "last.safetensors")
    found, _ = sign_ext("train", *ALEATORIC, "--resume", "--out", folder)
    assert found["history"][:1] == behind
    assert [row["steps"] for row in found["history"]] == [3, 6, 9]
    assert load_checkpoint(folder)[1]["model"]["aleatoric"] is True


def test_every_stage_of_smoke_has_the_key_it_had(tmp_path):
    # Its sizes then: those of today's `smoke` may change, and have other keys.
    scale = HERE / "smoke_scale.yaml"
    planned, _ = sign_ext("reproduce", "all", "--scale", scale, "--dry-run", "--out", tmp_path)
    keys = {each["key"]: each["stage"] for each in planned["stages"]}
    recorded = read(HERE / "smoke_keys.json")
    assert {key: keys.get(key) for key in recorded} == recorded  # experiments may be added


def form(value: Any) -> Any:
    """A record's names, without its values."""
    if isinstance(value, dict):
        return {key: form(each) for key, each in value.items()}
    return [form(each) for each in value] if isinstance(value, list) else None


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """The run folder after it was resumed, the files it had, and what was said meanwhile."""
    out = unpack("reproduce", tmp_path_factory.mktemp("old"))
    before = contents(out / "artefacts")
    planned, _ = reproduce(out, "--dry-run")
    _, said = reproduce(out)
    return out, before, planned["stages"], said


def kept_open() -> set[str]:
    """The stages that are not done in the artefact."""
    return {folder.name for folder in (HERE / "resumed").iterdir()}


def test_stages_that_are_done_are_taken_as_done(resumed):
    out, before, planned, said = resumed
    opened = kept_open()
    done = {name.split("/")[0] for name in before if name.endswith("/stage.json")}
    assert (len(done), len(opened)) == (39, 6)
    assert {each["key"] for each in planned} == done | opened
    assert {each["key"] for each in planned if each["done"]} == done
    count = len(opened)  # a slow stage also says how far it is, after its title
    titles = {f"[{number}/{count}]" for number in range(1, count + 1)}
    assert set(re.findall(r"\[\d+/\d+\]", said)) == titles
    after = contents(out / "artefacts")
    assert {name: after[name] for name in before if name.split("/")[0] in done} == {
        name: each for name, each in before.items() if name.split("/")[0] in done
    }
    assert {name.split("/")[0] for name in after} == done | opened


def test_stages_that_were_not_done_are_resumed(resumed):
    out, *_ = resumed
    for key in sorted(kept_open()):
        now, then = (read(f / key / "stage.json") for f in (out / "artefacts", HERE / "resumed"))
        assert now.keys() == then.keys()
        assert now["stage"] == then["stage"]
        assert form(now["numbers"]) | form(then["numbers"]) == form(now["numbers"])  # or more


def test_a_stored_network_is_measured(resumed):
    out, before, *_ = resumed
    (trained,) = (
        name.split("/")[0].removeprefix("train-")
        for name in before
        if name.endswith("/model.safetensors")
    )
    records = {key: read(out / "artefacts" / key / "stage.json") for key in kept_open()}
    (key,) = (k for k, r in records.items() if r["stage"]["inputs"].get("network") == trained)
    then = read(HERE / "resumed" / key / "stage.json")["numbers"]
    for name in ("accuracy", "pixels_off_mean", "noise_mean", "validation_accuracy"):
        assert records[key]["numbers"][name] == pytest.approx(then[name], abs=0.051)  # 2 of 40


def test_a_killed_training_of_a_stage_goes_on(resumed, tmp_path):
    out, *_ = resumed
    (state,) = unpack("reproduce", tmp_path).glob("artefacts/train-*/last.safetensors")
    now = read(out / "artefacts" / state.parent.name / "stage.json")["numbers"]
    then = read(HERE / "resumed" / state.parent.name / "stage.json")["numbers"]
    behind = history_of(state)
    assert behind == now["history"][: len(behind)]
    assert (len(now["history"]), now["steps"]) == (len(then["history"]), then["steps"])


def test_a_killed_search_goes_on(resumed, tmp_path):
    def trials(study: Path) -> list[tuple[Any, ...]]:
        asked = (
            "SELECT number, param_name, param_value FROM trials JOIN trial_params USING (trial_id)"
        )
        with sqlite3.connect(study) as database:
            return sorted(database.execute(asked))

    out, *_ = resumed
    (study,) = unpack("reproduce", tmp_path).glob("artefacts/search-*/study.sqlite3")
    folder = out / "artefacts" / study.parent.name
    before, after = trials(study), trials(folder / "study.sqlite3")
    assert {number for number, *_ in before} == {0, 1}
    assert [each for each in after if each[0] < 2] == before
    assert {number for number, *_ in after} == {0, 1, 2}
    then = read(HERE / "resumed" / folder.name / "stage.json")["numbers"]
    assert read(folder / "stage.json")["numbers"]["baseline"] == then["baseline"]
    assert len(load_policies(folder / "policies.yaml")) == 2


def test_the_report_of_a_resumed_run_has_what_was_found(resumed):
    out, *_ = resumed
    then = json.loads(gzip.decompress((HERE / "reproduce" / "results.json.gz").read_bytes()))
    compared = 0
    for now, old in zip(
        read(out / "results.json")["experiments"], then["experiments"], strict=True
    ):
        assert old.keys() <= now.keys()  # later versions may add to them
        assert now["name"] == old["name"]
        assert [each["data"] for each in now["figures"]] == [
            each["data"] for each in old["figures"]
        ]
        for table, before in zip(now["tables"], old["tables"], strict=True):
            assert table["columns"] == before["columns"]
            for row, was in zip(table["rows"], before["rows"], strict=True):
                assert (row["label"], row["stages"]) == (was["label"], was["stages"])
                if row["stages"][0] not in kept_open():
                    assert row["cells"] == was["cells"]
                    compared += 1
    assert compared == 49


def test_results_are_rendered_and_joined(tmp_path):
    paths = [HERE / "results" / f"seed-{seed}.json" for seed in (1, 0)]
    alone, _ = sign_ext("report", paths[1], "--out", tmp_path / "alone")
    assert alone["seeds"] == [0]
    assert read(tmp_path / "alone" / "results.json") == read(paths[1])
    joined, _ = sign_ext("report", *paths, "--out", tmp_path / "joined")
    assert (joined["seeds"], joined["experiments"]) == ([0, 1], ["table1", "figure3", "isic"])
    assert {"results.json", "results.md", "index.html"} < set(joined["files"])
    both, second, first = (read(p) for p in (tmp_path / "joined" / "results.json", *paths))
    judged = 0
    for parts in zip(*(each["experiments"] for each in (both, first, second)), strict=True):
        for table, *seeds in zip(*(each["tables"] for each in parts), strict=True):
            values = {}
            for row, *rows in zip(table["rows"], *(each["rows"] for each in seeds), strict=True):
                for key, cell in row["cells"].items():
                    assert cell["values"] == [each["cells"][key]["values"][0] for each in rows]
                    values[row["group"], row["label"], key] = sum(cell["values"]) / 2
            for each in table["comparisons"]:
                key = each["column"]
                ours = values[each["group"], each["method"], key]
                theirs = values[each["baseline_group"], each["baseline"], key]
                assert each["difference"] == pytest.approx(ours - theirs)
                assert each["seeds"] == 2
                judged += 1
    assert judged == 8


def test_policies_and_choices_load(checkpoint, digits, tmp_path):
    first, second = load_policies(HERE / "policies.yaml")
    assert len(first.sub_policies) == len(second.sub_policies) == 5
    assert first.sub_policies[0].first.name == "noise"
    plan = TuningPlan.load(HERE / "tuning.json")
    plan.save(tmp_path / "again.json")
    assert read(tmp_path / "again.json") == read(HERE / "tuning.json")
    model, _ = load_checkpoint(checkpoint)
    images = digits.train.float()
    tuned = iterative_sign(model, images, 2, backend="fused", tune=plan)
    torch.testing.assert_close(
        tuned, iterative_sign(model, images, 2, backend="autograd"), rtol=1e-3, atol=1e-2
    )
