"""What one of several processes takes, which seeds it draws from, and what its environment says."""

import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import nn

from sign_ext.training import TrainSettings, train
from sign_ext.training.prepare_model import synchronised
from sign_ext.training.processes import ALONE, Processes, join_processes
from sign_ext.training.rng import derived_seed

GPUS = [Processes(rank, 2, 2, torch.device("cuda")) for rank in range(2)]


@pytest.fixture
def launched(monkeypatch):
    """Return a setter of a launcher's variables."""

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
    # Each image weighs the same, whoever computes it.
    weights = [share.fraction / len(part) for share, part in zip(shares, rows, strict=True)]
    assert weights == pytest.approx([1 / (batch * copies)] * count, rel=1e-12)


def test_one_process_takes_the_whole():
    for batch in (1, 2, 7):
        share = ALONE.share(batch)
        assert (share.rows, share.copies, share.fraction) == (slice(0, batch), 1, 1.0)


def test_each_process_has_its_own_dropout_and_the_first_that_of_one():
    seeds = [derived_seed(3, 2, "model", rank) for rank in range(4)]
    assert seeds[0] == derived_seed(3, 2, "model")
    assert len(set(seeds)) == 4
    large = [derived_seed(2**40, 2, "model", rank) for rank in range(4)]
    assert len(set(large)) == 4


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


def test_what_is_missing_for_several_is_said(launched, monkeypatch):
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
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sign-ext\[experiments\]'"):
        join_processes("cpu")


def test_more_processes_than_devices_are_refused(launched, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for rank in range(2):  # both, so that neither waits for the other
        launched(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=2)
        with pytest.raises(ValueError, match="2 processes on this machine and 1 CUDA devices"):
            join_processes("cuda")


@pytest.fixture
def normalised():
    """A network with timm's and PyTorch's batch normalisation, one of them in two places."""
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(5, momentum=0.3)
    timms = BatchNormAct2d(5, act_layer=nn.SiLU)
    blocks = nn.Sequential(nn.Conv2d(3, 5, 3), shared, timms)
    model = nn.Sequential(blocks, nn.Sequential(shared), nn.Flatten(), nn.BatchNorm1d(5 * 49))
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("training", [False, True])
def test_synchronised_layers_compute_the_same_and_the_own_come_back(normalised, training):
    model, images = normalised.train(training), torch.rand(4, 3, 9, 9)
    own = dict(model.named_modules())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    wanted = model(images)
    after = {name: t.clone() for name, t in model.state_dict().items()}
    model.load_state_dict(before)
    # Without a process group PyTorch's synchronised layers normalise by what they see.
    with synchronised(model, GPUS[0]):
        kinds = [m for m in model.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert len(kinds) == 3
        assert not any(type(m) in (nn.BatchNorm2d, nn.BatchNorm1d) for m in model.modules())
        assert list(model.state_dict()) == list(before)
        torch.testing.assert_close(model(images), wanted, rtol=1e-6, atol=1e-6)
    assert dict(model.named_modules()) == own
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, after[name], rtol=1e-6, atol=1e-6)


def test_layers_are_as_they_are_on_cpus_and_in_one_process(normalised):
    own = dict(normalised.named_modules())
    for processes in (ALONE, Processes(1, 2)):
        with synchronised(normalised, processes):
            assert dict(normalised.named_modules()) == own


def test_batch_normalisation_of_an_unknown_class_is_refused(normalised):
    class Louder(nn.BatchNorm2d):
        def forward(self, images):
            return 2 * super().forward(images)

    normalised[0][1] = Louder(5)
    own = dict(normalised.named_modules())
    with pytest.raises(ValueError, match=r"Louder.*one process"), synchronised(normalised, GPUS[1]):
        pass
    assert dict(normalised.named_modules()) == own
