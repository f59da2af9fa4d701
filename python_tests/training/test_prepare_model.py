"""What training changes about a model, and that it comes back unchanged."""

from dataclasses import replace

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from sign_ext.training import Aleatoric, CrossEntropy, TrainSettings, prepare_model, train
from sign_ext.training.prepare_model import synchronised_batch_norm
from sign_ext.training.processes import ONE_PROCESS, Processes

GPUS = [Processes(rank, 2, 2, torch.device("cuda")) for rank in range(2)]


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
    with synchronised_batch_norm(model, GPUS[0]):
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
    for processes in (ONE_PROCESS, Processes(1, 2)):
        with synchronised_batch_norm(normalised, processes):
            assert dict(normalised.named_modules()) == own


def test_batch_normalisation_of_an_unknown_class_is_refused(normalised):
    class Louder(nn.BatchNorm2d):
        def forward(self, images):
            return 2 * super().forward(images)

    normalised[0][1] = Louder(5)
    own = dict(normalised.named_modules())
    with (
        pytest.raises(ValueError, match=r"Louder.*one process"),
        synchronised_batch_norm(normalised, GPUS[1]),
    ):
        pass
    assert dict(normalised.named_modules()) == own


COMPILED = TrainSettings(epochs=2, batch_size=16, compile=True)


@pytest.mark.slow
def test_a_compiled_model_trains_to_about_the_same_weights(make_set, tmp_path):
    # One layer and one size of batch: what is compiled here takes seconds.
    def net():
        torch.manual_seed(4)
        return nn.Sequential(nn.Flatten(), nn.Linear(300, 3))

    sets, settings = (make_set(32), make_set(30, 1)), replace(COMPILED, learning_rate=1e-5)
    eager, compiled = net(), net()
    wanted = train(eager, *sets, replace(settings, compile=False), out=tmp_path)
    got = train(compiled, *sets, settings)
    for a, b in zip(got.history, wanted.history, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for a, b in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert type(compiled) is nn.Sequential
    with pytest.raises(ValueError, match=r"settings\.compile: False in the folder, True now"):
        train(net(), *sets, settings, out=tmp_path, resume=True)


@pytest.fixture
def traced(monkeypatch):
    """Compile to eager kernels, which is fast; return the batch sizes that were compiled."""
    sizes, real = [], torch.compile

    def backend(graph, inputs):
        sizes.append(max(len(each) for each in inputs if each.ndim == 4 and each.shape[1] == 3))
        return graph.forward

    monkeypatch.setattr(
        prepare_model.torch,
        "compile",
        lambda model, **options: real(model, backend=backend, **options),
    )
    return sizes


def test_every_size_of_batch_is_compiled_once_a_run(
    make_net, aleatoric_net, make_set, same_weights, traced
):
    sets = make_set(40), make_set(30, 1)
    for make, objective in ((make_net, CrossEntropy()), (aleatoric_net, Aleatoric(3))):
        for _ in range(2):  # the second run of a process too
            traced.clear()
            eager, compiled = make(), make()
            settings = replace(COMPILED, epochs=3)
            wanted = train(eager, *sets, replace(settings, compile=False), objective=objective)
            got = train(compiled, *sets, settings, objective=objective)
            assert sorted(traced) == [8, 16]
            assert got.history == wanted.history
            assert same_weights(compiled, eager)


def test_a_model_that_cannot_be_compiled_whole_is_an_error(make_set, traced):
    class Peeks(nn.Linear):
        def forward(self, images):
            values = super().forward(images.flatten(1))
            return values * (2.0 if values.detach().sum().item() > 0 else 1.0)

    with pytest.raises(Exception, match=r"Unsupported|item\(\)|data-dependent|Data-dependent"):
        train(Peeks(300, 3), make_set(32), make_set(30, 1), COMPILED)
    eager = replace(COMPILED, compile=False)
    assert train(Peeks(300, 3), make_set(32), make_set(30, 1), eager).steps == 4
