"""The state Φ is computed in: the network held still, float32 as asked for; then all as before."""

from __future__ import annotations

import threading

import pytest
import torch
from networks import tiny_cnn
from torch import nn

from sign_ext import iterative_sign
from sign_ext.eval_state import arithmetic, frozen


def flags(model):
    return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]


def test_inside_and_after():
    model = tiny_cnn().train()
    model[4].eval()
    model[1].bias.requires_grad_(False)
    before, state = flags(model), torch.get_rng_state()
    with frozen(model):
        assert not any([*flags(model)[0], *flags(model)[1]])
        torch.rand(3)
        with frozen(model):
            pass
        assert not any([*flags(model)[0], *flags(model)[1]])
    assert flags(model) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_after_an_exception():
    model = tiny_cnn().train()
    before = flags(model)
    with pytest.raises(KeyError), frozen(model):
        raise KeyError
    assert flags(model) == before


def test_a_train_method_of_its_own_is_not_called():
    class Own(torch.nn.Sequential):
        def train(self, mode=True):
            raise AssertionError("train() was called")

    model = Own(*tiny_cnn())
    with frozen(model):
        assert not model.training
    assert model.training


def test_two_threads_hold_one_model():
    model = tiny_cnn().train()
    before = flags(model)
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with frozen(model):
            entered.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    with frozen(model):
        thread.start()
        assert entered.wait(20)
    assert not any(flags(model)[1])  # the thread still holds it
    leave.set()
    thread.join()
    assert flags(model) == before


def test_threads_get_the_same_results(torch_rng):
    model = tiny_cnn().train()
    before = flags(model)
    images = torch.rand(6, 3, 9, 9, generator=torch_rng) * 255
    expected = iterative_sign(model, images, 5, step_size=2000.0)
    results = {}

    def work(i):
        results[i] = iterative_sign(model, images, 5, step_size=2000.0)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for got in results.values():
        torch.testing.assert_close(got, expected)
    assert flags(model) == before


BACKENDS = torch.backends


def switches() -> list[str]:
    return [
        BACKENDS.cudnn.conv.fp32_precision,
        BACKENDS.cudnn.rnn.fp32_precision,
        BACKENDS.cuda.matmul.fp32_precision,
        BACKENDS.mkldnn.conv.fp32_precision,
        BACKENDS.mkldnn.matmul.fp32_precision,
        BACKENDS.mkldnn.rnn.fp32_precision,
    ]


def legacy() -> list[object]:
    return [
        BACKENDS.cudnn.allow_tf32,
        BACKENDS.cuda.matmul.allow_tf32,
        torch.get_float32_matmul_precision(),
    ]


@pytest.fixture(autouse=True)
def _as_it_was():
    before = switches()
    yield
    torch.set_float32_matmul_precision("highest")
    BACKENDS.cudnn.allow_tf32 = True
    for module, value in zip(
        (
            BACKENDS.cudnn.conv,
            BACKENDS.cudnn.rnn,
            BACKENDS.cuda.matmul,
            BACKENDS.mkldnn.conv,
            BACKENDS.mkldnn.matmul,
            BACKENDS.mkldnn.rnn,
        ),
        before,
        strict=True,
    ):
        module.fp32_precision = value


@pytest.mark.parametrize("matmul", ["highest", "high", "medium"])
@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_switches_inside_and_outside(matmul, cudnn, precision):
    torch.set_float32_matmul_precision(matmul)
    BACKENDS.cudnn.allow_tf32 = cudnn
    before = switches(), legacy()
    with arithmetic(precision):
        on_cuda = "tf32" if precision == "tf32" else "ieee"
        assert switches() == [on_cuda] * 3 + ["ieee"] * 3
        # A network may read the older switches; mixing must not make that raise.
        assert legacy() == [
            precision == "tf32",
            precision == "tf32",
            "high" if precision == "tf32" else "highest",
        ]
    assert (switches(), legacy()) == before
    with pytest.raises(KeyError), arithmetic(precision):
        raise KeyError
    assert (switches(), legacy()) == before


def test_a_caller_who_mixes_old_and_new_switches():
    torch.set_float32_matmul_precision("high")
    BACKENDS.cuda.matmul.fp32_precision = "ieee"
    BACKENDS.cudnn.conv.fp32_precision = "ieee"
    before = switches()
    with arithmetic("float32"):
        assert set(switches()) == {"ieee"}
    assert switches() == before


def test_the_network_runs_with_them():
    seen = []

    class Looks(nn.Module):
        def forward(self, x):
            seen.append(tuple(switches()))
            return x

    torch.set_float32_matmul_precision("medium")
    before = switches()
    iterative_sign(nn.Sequential(Looks(), *tiny_cnn()), torch.rand(2, 3, 9, 9), 2, step_size=1e3)
    assert set(seen) == {("ieee",) * 6}
    assert switches() == before


def test_threads_share_a_precision_and_wait_for_another():
    before = switches()
    inside = threading.Barrier(2, timeout=20)
    seen: list[str] = []

    def hold(precision: str) -> None:
        with arithmetic(precision):
            inside.wait()
            seen.append(switches()[0])

    pair = [threading.Thread(target=hold, args=("tf32",)) for _ in range(2)]
    for thread in pair:
        thread.start()  # both are inside at once, or the barrier breaks
    for thread in pair:
        thread.join()
    assert seen == ["tf32", "tf32"]

    entered = threading.Event()
    with arithmetic("float32"):

        def other() -> None:
            with arithmetic("tf32"):
                entered.set()

        waiting = threading.Thread(target=other)
        waiting.start()
        assert not entered.wait(0.1)
        assert set(switches()) == {"ieee"}
    assert entered.wait(20)
    waiting.join()
    assert switches() == before
