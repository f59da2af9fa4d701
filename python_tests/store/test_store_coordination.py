"""One run writes a store at a time; under torchrun its processes share the shards."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from socket import gethostname

import pytest
import torch
from killed_run import hold_lock
from store_parts import make_sign, make_source

from sign_ext.cli import main
from sign_ext.models import build_model
from sign_ext.store import (
    StoreError,
    StoreInUseError,
    load_transformed,
    transform_to_store,
    verify,
)
from sign_ext.store.coordination import REQUIRED_VARIABLES, Ranks, exclusive_lock
from sign_ext.training import load_checkpoint, save_checkpoint

HERE = Path(__file__).parent


def torchrun(*command: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, f"--nproc-per-node={processes}", *command],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=HERE,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phi")
    torch.manual_seed(1)
    model = build_model("basic_cnn", num_classes=10, image_shape=(3, 16, 16))
    spec = {"name": "basic_cnn", "num_classes": 10, "image_shape": [3, 16, 16], "options": {}}
    save_checkpoint(folder / "model.safetensors", model, {"model": spec, "data": {}})
    return folder


@pytest.mark.slow
def test_two_processes_write_what_one_writes(checkpoint, tmp_path, content_of):
    arguments = ["transform", "--checkpoint", str(checkpoint), "--data", "digits"]
    arguments += ["--train-size", "75", "--steps", "2", "--snapshots", "1", "2"]
    arguments += ["--step-size", "100", "--shard-size", "10", "--device", "cpu"]
    torch.set_num_threads(1)  # as each below: some libraries round otherwise with two
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    two = torchrun("-m", "sign_ext", *arguments, "--out", str(tmp_path / "two"), "--profile")
    assert two.returncode == 0, two.stderr
    assert content_of(tmp_path / "two") == content_of(tmp_path / "one")
    # Only the first process prints, but each reports where its own time went.
    assert two.stdout.count("snapshots") == 1
    for rank in (0, 1):
        assert two.stderr.count(f"process {rank} of 2: ") == 1
    assert "made 4 shards, of its own none existed" in two.stdout

    other = [*arguments, "--out", str(tmp_path / "two"), "--momentum", "0.5"]
    refused = torchrun("-m", "sign_ext", *other)
    assert refused.returncode != 0
    assert refused.stderr.count("settings.momentum: 0.0 in the store, 0.5 now") == 1
    assert content_of(tmp_path / "two") == content_of(tmp_path / "one")


@pytest.mark.slow
def test_two_processes_train_from_a_store_like_one(checkpoint, tmp_path, capsys):
    data = ["--data", "digits", "--train-size", "45", "--image-size", "16", "--device", "cpu"]
    arguments = ["--checkpoint", str(checkpoint), "--steps", "1", "--step-size", "100"]
    store = tmp_path / "store"
    assert main(["transform", *data, *arguments, "--out", str(store)]) == 0
    train = ["train", *data, "--model", "basic_cnn", "--model-options.dropout", "0", "--epochs"]
    train += ["2", "--batch-size", "20", "--sign", str(store), "--json"]
    capsys.readouterr()
    assert main([*train, "--out", str(tmp_path / "one")]) == 0
    histories = [json.loads(capsys.readouterr().out)["history"]]
    # Without "--" torchrun takes --sign for one of its own options.
    two = torchrun("-m", "--", "sign_ext", *train, "--out", str(tmp_path / "two"))
    assert two.returncode == 0, two.stderr
    histories.append(json.loads(two.stdout)["history"])
    assert len(histories[0]) == 2
    for mine, other in zip(*histories, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    models = []
    for name in ("one", "two"):
        model, config = load_checkpoint(tmp_path / name)
        assert config["data"]["images"] == 90
        models.append(model)
    for mine, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=5e-5)


@pytest.mark.slow
def test_shards_of_a_dead_process_are_made_by_the_next_run(tmp_path, content_of):
    out = tmp_path / "store"
    died = torchrun(str(HERE / "dying_rank.py"), str(out))
    assert died.returncode != 0
    assert "Signal 9" in died.stderr
    kept = {each.name: each.stat().st_mtime_ns for each in out.glob("shard-*.safetensors")}
    assert "shard-000007.safetensors" not in kept
    assert 1 <= len(kept) < 12
    assert verify(out).faults
    # torchrun restarts all processes, or a user starts a single one.
    again = tmp_path / "restarted"
    restarted = torchrun("--max-restarts=1", str(HERE / "dying_rank.py"), str(again))
    assert restarted.returncode == 0, restarted.stderr
    run = transform_to_store(make_sign(), make_source(60), out, shard_size=5)
    assert run.kept == len(kept)
    for name, when in kept.items():
        assert (out / name).stat().st_mtime_ns == when
    transform_to_store(make_sign(), make_source(60), tmp_path / "one", shard_size=5)
    assert content_of(out) == content_of(again) == content_of(tmp_path / "one")
    assert len(load_transformed(out)) == 60


class Messages(dict):
    """A launcher's key-value store, in this process."""

    def get(self, key):
        return self[key].encode()

    def set(self, key, value):
        self[key] = value

    def delete_key(self, key):
        self.pop(key, None)

    def set_timeout(self, timeout):
        pass


def test_processes_share_the_shards_and_check_each_other(sign, source, tmp_path, content_of):
    messages = Messages()
    # They run one after another here, so the first process, which waits for all, runs last.
    messages["go"] = "yes"
    transform_to_store(sign, source, tmp_path / "one", shard_size=5)
    out = tmp_path / "store"
    with pytest.raises(FileNotFoundError):  # no process has created it
        transform_to_store(sign, source, out, shard_size=5, ranks=Ranks(1, 3, messages))
    transform_to_store(sign, source, out, shard_size=5)
    for shard in (1, 2, 4):
        (out / f"shard-00000{shard}.safetensors").unlink()
    second = transform_to_store(sign, source, out, shard_size=5, ranks=Ranks(1, 3, messages))
    third = transform_to_store(sign, source, out, shard_size=5, ranks=Ranks(2, 3, messages))
    assert (second.made, second.kept, third.made, third.kept) == (2, 0, 1, 0)
    first = transform_to_store(sign, source, out, shard_size=5, ranks=Ranks(0, 3, messages))
    assert (first.made, first.kept) == (0, 2)
    assert content_of(out) == content_of(tmp_path / "one")
    with pytest.raises(StoreError, match=r"other images than the first one.*steps: 3"):
        transform_to_store(
            make_sign(steps=4), source, out, shard_size=5, ranks=Ranks(1, 3, messages)
        )
    messages["go"] = "no"
    with pytest.raises(StoreError, match="process 2 stops"):
        transform_to_store(sign, source, out, shard_size=5, ranks=Ranks(2, 3, messages))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_discards_messages_of_an_attempt_before(rank, monkeypatch):
    messages = Messages({"go": "yes", "done 0": "yes", "done 1": "yes", "of torchrun": "1"})
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(messages, rank, 2)]))
    variables = dict.fromkeys(REQUIRED_VARIABLES, "2")
    assert Ranks.from_environment(variables) == Ranks(rank, 2, messages)
    assert ("go" in messages) == ("done 1" in messages) == (rank == 1)
    assert "of torchrun" in messages


def test_an_incomplete_set_of_launcher_variables_is_refused():
    assert Ranks.from_environment({}) == Ranks()
    assert Ranks.from_environment({"WORLD_SIZE": "1", "RANK": "0"}) == Ranks()
    with pytest.raises(ValueError, match=r"RANK, MASTER_ADDR, MASTER_PORT not set.*torchrun"):
        Ranks.from_environment({"WORLD_SIZE": "2"})


@pytest.fixture
def lock_holder(tmp_path):
    """A process that holds the lock of tmp_path/store until it is killed."""
    (tmp_path / "store").mkdir()
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold_lock, args=(tmp_path / "store", ready))
    holder.start()
    assert ready.wait(60)
    yield holder
    holder.kill()
    holder.join()


def test_a_second_writer_is_told_who_writes(lock_holder, sign, source, tmp_path, content_of):
    transform_to_store(sign, source, tmp_path / "wanted", shard_size=5)
    out = tmp_path / "store"
    for _ in range(2):  # a refused run leaves the holder's name in the file
        with pytest.raises(
            StoreInUseError, match=rf"another run \(process {lock_holder.pid} on {gethostname()}\)"
        ):
            transform_to_store(sign, source, out, shard_size=5)
    shutil.copy(tmp_path / "wanted" / "manifest.json", out)
    assert any(".store.lock" in note for note in verify(out).notes)


def test_the_lock_of_a_killed_process_is_released(lock_holder, sign, source, tmp_path, content_of):
    transform_to_store(sign, source, tmp_path / "wanted", shard_size=5)
    out = tmp_path / "store"
    with pytest.raises(StoreInUseError), exclusive_lock(out):
        pass
    os.kill(lock_holder.pid, signal.SIGKILL)
    lock_holder.join()
    assert (out / ".store.lock").exists()  # the file stays, the lock does not
    transform_to_store(sign, source, out, shard_size=5)
    assert content_of(out) == content_of(tmp_path / "wanted")


def test_the_lock_can_be_taken_again_after_its_release(tmp_path):
    for _ in range(2):
        with exclusive_lock(tmp_path):
            assert (tmp_path / ".store.lock").exists()
            with pytest.raises(StoreInUseError), exclusive_lock(tmp_path):
                pass
        assert list(tmp_path.iterdir()) == []


def test_an_error_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), exclusive_lock(tmp_path):
        raise KeyError
    with exclusive_lock(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_only_a_warning(code, tmp_path, monkeypatch):
    def no_flock(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.warns(UserWarning, match=os.strerror(code)), exclusive_lock(tmp_path):
        assert (tmp_path / ".store.lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_lock_file_are_raised(tmp_path):
    (tmp_path / ".store.lock").mkdir()
    with pytest.raises(IsADirectoryError), exclusive_lock(tmp_path):
        pass
