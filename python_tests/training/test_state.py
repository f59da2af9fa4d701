"""An interrupted run, resumed, is bit-identical to an uninterrupted one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import interrupted_run
import pytest
import torch

import sign_ext
from sign_ext import files
from sign_ext.augment import Classical
from sign_ext.training import TrainSettings, train
from sign_ext.training.state import describe_differences

# 64 images are 4 steps an epoch; the last of 4 epochs is cut short.
SETTINGS = TrainSettings(epochs=4, batch_size=16, schedule="cosine", max_steps=14)


@pytest.fixture
def run(make_set):
    """Return train() over fixed sets."""

    def start(model, out=None, settings=SETTINGS, augment=None, **options):
        sets = options.pop("sets", None) or (make_set(64), make_set(30, 1))
        return train(model, *sets, settings, augment=augment or Classical(), out=out, **options)

    return start


def stop_at(step):
    def callback(done, total):
        if done == step:
            raise KeyboardInterrupt

    return callback


def test_resumed_between_checkpoints_equals_uninterrupted(make_net, run, tmp_path, same_weights):
    settings = replace(SETTINGS, checkpoints=4)  # after 3, 7, 10 and 14 steps; an epoch has 4
    whole = make_net()
    wanted = run(whole, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run(make_net(), tmp_path, settings, progress=stop_at(9))
    steps_seen = []
    resumed = make_net(seed=5)
    got = run(resumed, tmp_path, settings, resume=True, progress=lambda *p: steps_seen.append(p))
    assert steps_seen[0] == (7, 14)
    assert got.history == wanted.history
    assert [row["steps"] for row in got.history] == [3, 7, 10, 14]
    assert same_weights(resumed, whole)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("step", [0, 3, 4, 9, 13])
def test_resumed_equals_uninterrupted(make_net, run, tmp_path, same_weights, optimizer, step):
    settings = replace(SETTINGS, optimizer=optimizer)
    whole = make_net()
    wanted = run(whole, settings=settings)
    with pytest.raises(KeyboardInterrupt):
        run(make_net(), tmp_path, settings, progress=stop_at(step))
    assert not (tmp_path / "model.safetensors").exists()
    steps_seen = []
    epochs = max(step - 1, 0) // 4  # the callback after step 4 comes before epoch 1 is validated
    # After an epoch the file decides, not the initial weights or the caller's generator.
    torch.manual_seed(99)
    resumed = make_net(seed=5 if epochs else 0)
    got = run(resumed, tmp_path, settings, resume=True, progress=lambda *p: steps_seen.append(p))
    assert steps_seen[0] == (4 * epochs, 14)
    assert steps_seen[-1] == (14, 14)
    assert got.history == wanted.history
    assert (got.best_epoch, got.steps) == (wanted.best_epoch, 14)
    assert same_weights(resumed, whole)


def test_killed_twice_without_warning_and_resumed(tmp_path, same_weights):
    root = str(Path(sign_ext.__path__[0]).parent)
    environment = {**os.environ, "PYTHONPATH": root}
    for step in (6, 11):
        killed = subprocess.run(
            [sys.executable, interrupted_run.__file__, str(tmp_path), str(step)],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed, got = interrupted_run.start(tmp_path)
    whole, wanted = interrupted_run.start()
    assert got.history == wanted.history
    assert same_weights(resumed, whole)


def test_a_kill_while_the_state_is_written_leaves_the_epoch_before(
    make_net, run, tmp_path, same_weights, monkeypatch
):
    class Killed(BaseException):
        pass

    real, calls = os.replace, []

    def die_the_second_time(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise Killed
        real(source, target)

    monkeypatch.setattr(files.os, "replace", die_the_second_time)
    with pytest.raises(Killed):
        run(make_net(), tmp_path)
    monkeypatch.undo()
    steps_seen = []
    resumed, whole = make_net(), make_net()
    got = run(resumed, tmp_path, resume=True, progress=lambda *p: steps_seen.append(p))
    assert steps_seen[0] == (4, 14)
    assert got.history == run(whole).history
    assert same_weights(resumed, whole)
    assert not list(tmp_path.glob("*.tmp"))


def test_scalars_of_a_resumed_run_have_each_step_once(make_net, run, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import sign_ext.training.loop as loop

    saves = []

    def save_then_die(*arguments):
        saves.append(arguments)
        if len(saves) == 2:  # epoch 2 is logged, its state is not written
            raise KeyboardInterrupt
        real(*arguments)

    real = loop.save_state
    monkeypatch.setattr(loop, "save_state", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(make_net(), tmp_path)
    monkeypatch.undo()
    result = run(make_net(), tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [row["steps"] for row in result.history]


def test_a_complete_run_returns_its_result_at_once(make_net, run, tmp_path, same_weights):
    first, again = make_net(), make_net(seed=7)
    wanted = run(first, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    steps_seen = []
    got = run(again, tmp_path, resume=True, progress=lambda *p: steps_seen.append(p))
    assert got == wanted
    assert steps_seen == [(14, 14)]
    assert same_weights(first, again)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("lost", ["model.safetensors", "model.json"])
def test_a_complete_run_whose_checkpoint_was_not_written_writes_it(make_net, run, tmp_path, lost):
    run(make_net(), tmp_path)
    before = (tmp_path / lost).read_bytes()
    (tmp_path / lost).unlink()
    run(make_net(), tmp_path, resume=True)
    assert (tmp_path / lost).read_bytes() == before


def test_a_run_is_not_overwritten_unless_asked(make_net, run, tmp_path, same_weights):
    run(make_net(), tmp_path)
    with pytest.raises(FileExistsError, match=r"4 epochs, 14 steps.*--resume.*--overwrite"):
        run(make_net(), tmp_path)
    with pytest.raises(ValueError, match="give one"):
        run(make_net(), tmp_path, resume=True, overwrite=True)
    settings = replace(SETTINGS, epochs=1, seed=4)
    new, fresh = make_net(), make_net()
    result = run(new, tmp_path, settings, overwrite=True)
    assert result.history == run(fresh, settings=settings).history
    assert same_weights(new, fresh)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_lone_checkpoint_is_not_overwritten(make_net, run, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"somebody's")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match=r"no last\.safetensors"):
            run(make_net(), tmp_path, resume=resume)
    assert (tmp_path / "model.safetensors").read_bytes() == b"somebody's"


def test_what_changed_since_is_shown(make_net, make_set, run, tmp_path):
    run(make_net(), tmp_path, replace(SETTINGS, epochs=1))
    before = (tmp_path / "last.safetensors").read_bytes()

    def refused(match, model=None, settings=None, **options):
        settings = settings or replace(SETTINGS, epochs=1)
        with pytest.raises(ValueError, match=match):
            run(model or make_net(), tmp_path, settings, resume=True, **options)

    refused(r"settings\.epochs: 1 in the folder, 4 now", settings=SETTINGS)
    refused(r"augment\.max_shift: 0\.1 in the folder, 0\.2", augment=Classical(max_shift=0.2))
    refused(r"validation\.sha256", sets=(make_set(64), make_set(30, 2)))
    refused(r"train_set\.images: 64 in the folder, 65", sets=(make_set(65), make_set(30, 1)))
    refused(r"model\.layers\.5: Dropout\(p=0\.3.*Dropout\(p=0\.1", model=make_net(dropout=0.1))
    refused(r"model\.parameters: .* and \d+ more|model\.parameters", model=make_net(width=4))
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_the_name_of_the_network_and_its_initial_weights_stay(make_net, run, tmp_path):
    """As far as both calls tell: earlier versions' files do not, and callers need not."""
    settings = replace(SETTINGS, epochs=1)
    spec = {"name": "mine:net", "num_classes": 3, "image_shape": [3, 10, 10], "options": {"a": 1}}

    def config(**changes):
        return {"model": {**spec, **changes}, "initial_weights": {"sha256": "00ff"}}

    run(make_net(), tmp_path / "named", settings, config=config())
    run(make_net(), tmp_path / "unnamed", settings)
    run(make_net(), tmp_path / "named", settings, resume=True, config=config())
    run(make_net(), tmp_path / "named", settings, resume=True)
    run(make_net(), tmp_path / "unnamed", settings, resume=True, config=config())
    for changed, match in (
        (config(name="yours:net"), r"network\.name: mine:net in the folder, yours:net now"),
        (config(options={"a": 2}), r"network\.options\.a: 1 in the folder, 2 now"),
        ({"model": spec}, r"network\.initial_weights: nothing in the folder, new now"),
    ):
        with pytest.raises(ValueError, match=match):
            run(make_net(), tmp_path / "named", settings, resume=True, config=changed)


def test_damaged_and_foreign_state_is_named(make_net, run, tmp_path):
    from safetensors.torch import save_file

    state = tmp_path / "last.safetensors"
    run(make_net(), tmp_path, replace(SETTINGS, epochs=1))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"last\.safetensors is not a whole safetensors file"):
        run(make_net(), tmp_path, replace(SETTINGS, epochs=1), resume=True)
    save_file({"a": torch.zeros(1)}, state)
    with pytest.raises(ValueError, match="not the state of a training run"):
        run(make_net(), tmp_path, replace(SETTINGS, epochs=1), resume=True)


def test_another_number_of_threads_is_a_warning(make_net, run, tmp_path):
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        run(make_net(), tmp_path, progress=stop_at(5))
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=f"threads: {threads} in the folder"):
            run(make_net(), tmp_path, resume=True)
    finally:
        torch.set_num_threads(threads)


def test_describe_differences():
    before = {"a": {"b": 1, "c": [1, 2]}, "gone": None, "same": "x"}
    now = {"a": {"b": 2, "c": [1, 2]}, "same": "x", "new": {"deep": True}}
    assert describe_differences(before, now) == [
        "a.b: 1 in the folder, 2 now",
        "gone: None in the folder, nothing now",
        "new.deep: nothing in the folder, True now",
    ]
    assert describe_differences(before, before) == []


@pytest.mark.parametrize("after", [3, 9])
@pytest.mark.parametrize("killed", [False, True])
def test_an_overwritten_run_comes_back_until_an_epoch_is_saved(
    make_net, run, tmp_path, monkeypatch, after, killed
):
    def content():
        return {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}

    run(make_net(), tmp_path)
    before, other = content(), replace(SETTINGS, seed=4)
    with monkeypatch.context() as patch:
        if killed:
            patch.setattr("sign_ext.training.run_folder._bring_back", lambda folder: None)
        with pytest.raises(KeyboardInterrupt):
            run(make_net(), tmp_path, other, overwrite=True, progress=stop_at(after))
    if killed and after == 3:
        assert not (tmp_path / "last.safetensors").exists()
        with pytest.raises(FileExistsError, match="already holds"):
            run(make_net(), tmp_path, other)
    assert (content() == before) == (after == 3)
    assert not (tmp_path / ".replaced").exists()
    if after == 9:
        assert not (tmp_path / "model.safetensors").exists()
        run(make_net(), tmp_path, other, resume=True)
