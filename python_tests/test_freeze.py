"""Holding a network still: alone, nested, from several threads, and after an exception."""

from __future__ import annotations

import threading

import pytest
import torch
from networks import tiny_cnn

from sign_ext import iterative_sign
from sign_ext.eval_state import frozen


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
