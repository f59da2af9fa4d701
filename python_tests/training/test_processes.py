"""Processes: their parts of a batch, their seeds and a launcher's variables."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sign_ext.training import TrainSettings, train
from sign_ext.training.processes import ONE_PROCESS, Processes, join_processes


@pytest.fixture
def launched(monkeypatch):
    """Set a launcher's variables."""

    def set_variables(**values):
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return set_variables


@given(st.integers(1, 9), st.integers(1, 60))
def test_shares_make_up_the_batch(count, batch):
    shares = [Processes(rank, count).share(batch) for rank in range(count)]
    rows = [list(range(batch))[share.rows] for share in shares]
    copies = shares[0].copies
    assert all(share.copies == copies for share in shares)
    assert [row for part in rows for row in part] == list(range(batch)) * copies
    assert sum(share.fraction for share in shares) == pytest.approx(1.0, rel=1e-12)
    assert min(map(len, rows)) >= min(2, batch)
    # Each image has the same weight, whichever process computes it.
    weights = [share.fraction / len(part) for share, part in zip(shares, rows, strict=True)]
    assert weights == pytest.approx([1 / (batch * copies)] * count, rel=1e-12)


def test_one_process_takes_the_whole():
    for batch in (1, 2, 7):
        share = ONE_PROCESS.share(batch)
        assert (share.rows, share.copies, share.fraction) == (slice(0, batch), 1, 1.0)


def test_one_process_under_a_launcher_is_as_without_and_needs_no_fabric(
    launched, monkeypatch, make_net, make_set, same_weights
):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    models = make_net(), make_net()
    settings = TrainSettings(epochs=1, batch_size=16)
    launched()
    wanted = train(models[0], make_set(), make_set(30, 1), settings)
    launched(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0)
    got = train(models[1], make_set(), make_set(30, 1), settings)
    assert got.history == wanted.history
    assert same_weights(*models)


def test_a_missing_launcher_variable_or_library_is_named(launched, monkeypatch):
    launched(RANK=0, WORLD_SIZE=2)
    with pytest.raises(ValueError, match=r"WORLD_SIZE='2', and LOCAL_RANK=None.*torchrun"):
        join_processes("cpu")
    launched(RANK=0, WORLD_SIZE="two", LOCAL_RANK=0)
    with pytest.raises(ValueError, match=r"WORLD_SIZE='two'"):
        join_processes("cpu")
    launched(RANK=0, WORLD_SIZE=3, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2)
    with pytest.raises(ValueError, match=r"no multiple.*--nproc-per-node"):
        join_processes("cpu")
    launched(RANK=0, WORLD_SIZE=2, LOCAL_RANK=0, LOCAL_WORLD_SIZE=2)
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ModuleNotFoundError, match="pip install lightning-fabric, or start one"):
        join_processes("cpu")


def test_more_processes_than_devices_are_refused(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for rank in range(2):  # both, so that neither waits for the other
        launched(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=2)
        with pytest.raises(ValueError, match="2 processes on this machine and 1 CUDA devices"):
            join_processes("cuda")
