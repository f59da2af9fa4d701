"""iterative_sign leaves the caller's model, images, modes and random state as they were."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from networks import tiny_cnn
from sign_checks import STEP, assert_moved_like, equal, reference, snapshot_of
from torch import nn

from sign_ext import (
    SignTransform,
    iterative_sign,
)


class Failing(nn.Module):
    """Works for `passes` forward passes."""

    def __init__(self):
        super().__init__()
        self.passes = math.inf

    def forward(self, x):
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError("out of passes")
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_comes_back_as_it_was(images, fails):
    fail = Failing()
    model = nn.Sequential(tiny_cnn()[:9], fail, nn.Dropout(0.5), nn.Linear(28, 3)).train()
    model[0][1].weight.requires_grad_(False)
    model[0][4].eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn_like(parameter)
    seen = []
    model[0][3].register_forward_hook(lambda *_: seen.append(1))
    before = snapshot_of(model)
    if fails:
        fail.passes = 5
        with pytest.raises(RuntimeError, match="out of passes"):
            iterative_sign(model, images, 9, step_size=STEP, backend="autograd")
    else:
        iterative_sign(model, images, 9, step_size=STEP)
    assert equal(before, snapshot_of(model))
    assert seen


def test_a_random_network_leaves_the_random_state(images):
    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.randn_like(x)

    model = nn.Sequential(Noise(), *tiny_cnn()).eval()
    before = torch.get_rng_state()
    iterative_sign(model, images, 2, step_size=STEP)
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_is_off_in_training_mode(model, images):
    expected = iterative_sign(model, images, 3, step_size=STEP)
    torch.testing.assert_close(
        iterative_sign(model.train(), images, 3, step_size=STEP), expected, rtol=0, atol=0
    )


def test_images_are_not_modified_and_keep_their_layout(model, images):
    for given in (
        images,
        images.contiguous(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.cat([images, images], 1)[:, ::2],
        images.requires_grad_(),
    ):
        kept = given.detach().clone()
        got = iterative_sign(model, given, 2, step_size=STEP)
        assert torch.equal(given.detach(), kept)
        assert got.stride() == torch.empty_like(given).stride()
        assert not got.requires_grad
        assert got.data_ptr() != given.data_ptr()
        assert_moved_like(got, reference(model, kept, 2, step_size=STEP), kept)


def test_expanded_images(model, images):
    given = images[:1].expand(4, -1, -1, -1)
    got = iterative_sign(model, given, 2, step_size=STEP)
    assert_moved_like(got, reference(model, given, 2, step_size=STEP), given)


def test_out_receives_the_result(model, images):
    expected = iterative_sign(model, images, 2, step_size=STEP)
    out = torch.full_like(images, torch.nan)
    assert iterative_sign(model, images, 2, step_size=STEP, out=out) is out
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    assert iterative_sign(model, images, 2, step_size=STEP, out=images, batch_size=2) is images
    torch.testing.assert_close(images, expected)


def test_out_with_snapshots(model, images):
    expected = iterative_sign(model, images, 3, step_size=STEP, snapshots=(1, 3))
    out = {3: torch.empty_like(images), 1: images}
    got = iterative_sign(model, images, 3, step_size=STEP, snapshots=(1, 3), out=out, batch_size=2)
    assert got[1] is images
    for k in (1, 3):
        torch.testing.assert_close(got[k], expected[k])


def test_callers_modes(model, images):
    expected = iterative_sign(model, images, 2, step_size=STEP)
    with torch.no_grad():
        torch.testing.assert_close(iterative_sign(model, images, 2, step_size=STEP), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            iterative_sign(model, images, 2, step_size=STEP), expected, rtol=0, atol=0
        )
        assert torch.is_autocast_enabled("cpu")
    with torch.inference_mode():
        inside = images.clone()
        assert inside.is_inference()
        out = torch.empty_like(images)
        torch.testing.assert_close(
            iterative_sign(model, inside, 2, step_size=STEP, out=out), expected
        )
        got = iterative_sign(model, inside, 2, step_size=STEP)
        iterative_sign(model, inside, 2, step_size=STEP, out=inside)
        torch.testing.assert_close(inside, expected)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(iterative_sign(model, images.clone(), 2, step_size=STEP), expected)
    with pytest.raises(ValueError, match="inference_mode"):
        iterative_sign(model, images, 2, out=out)


def test_wrapped_models(model, images):
    expected = iterative_sign(model, images, 2, step_size=STEP)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        torch.testing.assert_close(iterative_sign(wrapped, images, 2, step_size=STEP), expected)


def test_changed_and_replaced_weights_are_seen(model, images):
    sign = SignTransform(model, 2, step_size=STEP)
    before = sign.transform(images)
    with torch.no_grad():
        model[1].weight.mul_(1.5)
    changed = sign.transform(images)
    assert not torch.equal(before, changed)
    assert_moved_like(changed, reference(model, images, 2, step_size=STEP), images)
    model[5] = nn.Conv2d(5, 7, 3, stride=2)
    assert_moved_like(sign.transform(images), reference(model, images, 2, step_size=STEP), images)


def test_progress(model, images):
    calls = []
    iterative_sign(
        model,
        images,
        4,
        step_size=STEP,
        snapshots=(1, 4),
        batch_size=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(n, 20) for n in (3, 6, 9, 12, 14, 16, 18, 20)]
    with pytest.raises(TypeError, match="progress"):
        iterative_sign(model, images, 1, progress=3)


def test_progress_bar(model, images, monkeypatch):
    pytest.importorskip("rich")
    expected = iterative_sign(model, images, 2, step_size=STEP)
    got = iterative_sign(model, images, 2, step_size=STEP, progress=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    monkeypatch.setitem(sys.modules, "rich.console", None)  # as where rich is not installed
    with pytest.raises(ImportError, match=r"pip install rich"):
        iterative_sign(model, images, 1, progress=True)
