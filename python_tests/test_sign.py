"""iterative_sign and SignTransform: what goes in, what comes out, what stays as it was."""

from __future__ import annotations

import copy
import inspect
import math
import sys
import warnings

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from torch import Tensor, nn

from sign_ext import (
    BackendError,
    DivergenceError,
    NegligibleDeltaWarning,
    SignTransform,
    iterative_sign,
)
from sign_ext.reference import iterative_sign_reference

STEP = 2000.0


@pytest.fixture
def model():
    return tiny_cnn().eval()


@pytest.fixture
def images(torch_rng):
    return torch.rand(5, 3, 9, 11, generator=torch_rng) * 255


def reference(model: nn.Sequential, images: Tensor, steps: int, **options) -> Tensor:
    exact = copy.deepcopy(model).double().eval()
    return iterative_sign_reference(exact[:-1], images.double(), steps, **options)


def assert_moved_like(got: Tensor, expected: Tensor, images: Tensor, tolerance=1e-4) -> None:
    moved = expected - images.double()
    assert moved.norm() > 1
    assert (got.double() - expected).norm() / moved.norm() < tolerance


def test_the_reference_on_a_linear_map(torch_rng):
    """Φ = Ax has δ = the column sums of A everywhere: p*_K is known in closed form."""
    a = torch.randn(7, 12, generator=torch_rng, dtype=torch.float64)
    p = torch.rand(2, 12, generator=torch_rng, dtype=torch.float64)
    got = iterative_sign_reference(lambda x: x @ a.T, p, 5, step_size=0.5, momentum=0.8)
    travelled = sum(0.8**j for k in range(5) for j in range(k + 1)) * 0.5
    torch.testing.assert_close(got, p + travelled * a.sum(0))


def test_the_reference_on_a_quadratic():
    """Φ = x²/2 has δ = x: p* grows by (1 + step) a step at the iterate, linearly at the input."""
    p = torch.tensor([[3.0]], dtype=torch.float64)
    at_iterate = iterative_sign_reference(lambda x: x**2 / 2, p, 4, step_size=0.1)
    at_input = iterative_sign_reference(
        lambda x: x**2 / 2, p, 4, step_size=0.1, linearize_at="input"
    )
    assert at_iterate.item() == pytest.approx(3 * 1.1**4)
    assert at_input.item() == pytest.approx(3 * 1.4)


@pytest.mark.parametrize("batch_size", [None, 1, 2, 3, 5, 7])
def test_batch_size_changes_nothing(model, images, batch_size):
    got = iterative_sign(model, images, 3, step_size=STEP, batch_size=batch_size)
    assert_moved_like(got, reference(model, images, 3, step_size=STEP), images)


def test_snapshots_are_the_iterates_of_one_trajectory(model, images):
    sign = SignTransform(model, 6, step_size=STEP, snapshots=(5, 2))
    stop = count_forwards(model)
    got = sign.transform(images)
    forwards = stop()
    assert list(got) == [5, 2]
    for k, tensor in got.items():
        alone = iterative_sign(model, images, k, step_size=STEP)
        torch.testing.assert_close(tensor, alone, rtol=0, atol=0)
    # Five products reach both snapshots, not 5 + 2, and step 6 is never taken; one image finds the
    # source layer and checks it.
    assert forwards == {5: 5, 1: 2}


def count_forwards(model):
    """How often the first module ran, by batch size, from now on."""
    seen: dict[int, int] = {}

    def hook(_, args):
        seen[len(args[0])] = seen.get(len(args[0]), 0) + 1

    handle = model[0].register_forward_pre_hook(hook)

    def stop():
        handle.remove()
        return seen

    return stop


def test_linearising_at_the_input_costs_one_product(model, images):
    stop = count_forwards(model)
    iterative_sign(model, images, 9, step_size=STEP, linearize_at="input")
    assert stop()[len(images)] == 1


def test_nothing_after_the_source_layer_is_computed(model, images):
    ran = []
    head = model[-1]
    original = head.forward
    head.forward = lambda x: ran.append(len(x)) or original(x)
    iterative_sign(model, images, 2, step_size=STEP)
    assert ran == [1]  # once, for one image, when the layer was looked for
    ran.clear()
    iterative_sign(model, images, 2, step_size=STEP, layer="6")
    assert ran == [1]  # once, to see that the layer runs once


def test_a_named_layer_is_read_at_its_output(model, images):
    exact = copy.deepcopy(model).double()
    got = iterative_sign(model, images, 3, layer="5", step_size=STEP)
    expected = iterative_sign_reference(exact[:6], images.double(), 3, step_size=STEP)
    assert_moved_like(got, expected, images)


class Failing(nn.Module):
    """Works until it is told not to."""

    def __init__(self):
        super().__init__()
        self.passes = math.inf

    def forward(self, x):
        self.passes -= 1
        if self.passes < 0:
            raise RuntimeError("out of passes")
        return x


def snapshot_of(model: nn.Module):
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
        [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [len(m._backward_hooks) for m in model.modules()],
        torch.get_rng_state(),
        [v.data_ptr() for v in model.state_dict().values()],
        [v.stride() for v in model.state_dict().values()],
    )


def equal(a, b) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


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
            iterative_sign(model, images, 9, step_size=STEP)
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


def test_float64_networks_compute_in_float64(model, images):
    exact = copy.deepcopy(model).double()
    got = iterative_sign(exact, images, 3, step_size=STEP, momentum=0.5)
    assert got.dtype == torch.float64
    expected = reference(model, images, 3, step_size=STEP, momentum=0.5)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_networks_keep_the_iterate_in_float32(model, images, dtype):
    half = copy.deepcopy(model).to(dtype)
    small = 0.01 * STEP  # far below half precision's spacing of pixels
    got = iterative_sign(half, images, 20, step_size=small)
    assert got.dtype == torch.float32
    rounded = copy.deepcopy(half).float()
    expected = reference(rounded, images, 20, step_size=small)
    moved = expected - images.double()
    assert (got.double() - expected).norm() / moved.norm() < 0.1
    assert iterative_sign(half, images.to(dtype), 1, step_size=small).dtype == torch.float32
    with pytest.raises(ValueError, match="leave precision out"):
        iterative_sign(half, images, precision="bfloat16")


def test_bfloat16_precision_is_bfloat16(model, images):
    expected = reference(model, images, 3, step_size=STEP)
    got = iterative_sign(model, images, 3, step_size=STEP, precision="bfloat16")
    assert got.dtype == torch.float32
    error = (got.double() - expected).norm() / (expected - images.double()).norm()
    assert 1e-4 < error < 0.1


def test_volumes(torch_rng):
    model = nn.Sequential(nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 27, 2))
    images = torch.rand(2, 1, 5, 5, 5, generator=torch_rng)
    got = iterative_sign(model, images, 3, step_size=0.1)
    exact = copy.deepcopy(model).double()[:-1]
    torch.testing.assert_close(
        got.double(),
        iterative_sign_reference(exact, images.double(), 3, step_size=0.1),
        rtol=1e-5,
        atol=1e-5,
    )


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


def test_wrapped_models(model, images):
    expected = iterative_sign(model, images, 2, step_size=STEP)
    for wrapped in (nn.DataParallel(model), torch.compile(model)):
        torch.testing.assert_close(iterative_sign(wrapped, images, 2, step_size=STEP), expected)


def test_empty_batches(model):
    empty = torch.empty(0, 3, 9, 11)
    assert iterative_sign(model, empty).shape == empty.shape
    got = iterative_sign(model, empty, 3, snapshots=(1, 3))
    assert {k: v.shape for k, v in got.items()} == {1: empty.shape, 3: empty.shape}


def test_clamp_holds_every_step(model, images):
    got = iterative_sign(model, images, 3, step_size=STEP * 20, clamp=(10, 200))
    assert got.min() >= 10
    assert got.max() <= 200
    only_low = iterative_sign(model, images, 3, step_size=STEP * 20, clamp=(0, None))
    assert only_low.min() >= 0
    assert only_low.max() > 255


def test_divergence_names_the_first_bad_step(images):
    class Exploding(nn.Module):
        def forward(self, x):
            return x**8

    model = nn.Sequential(Exploding(), nn.Flatten(), nn.Linear(297, 2))
    steps = 0
    p = images.double()
    while p.abs().max() < torch.finfo(torch.float32).max:
        p = p + 8 * p**7
        steps += 1
    out = images.clone()
    with pytest.raises(DivergenceError, match=f"step {steps} of 50.*step_size=1 ") as caught:
        iterative_sign(model, images, out=out, batch_size=2)
    assert caught.value.step == steps
    assert torch.equal(out, images)
    with pytest.raises(DivergenceError):  # a clamp does not hide it
        iterative_sign(model, images, step_size=1e37, clamp=(0, 255))


def test_negligible_delta_warns_once(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    sign = SignTransform(model, 2)
    with pytest.warns(NegligibleDeltaWarning, match="constant.*layer=NAME"):
        sign.transform(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sign.transform(images)


def test_a_step_too_small_to_matter_warns(model, images):
    with pytest.warns(NegligibleDeltaWarning, match="Raise step_size"):
        got = iterative_sign(model, images, 3, step_size=1e-9)
    assert torch.equal(got, images)


def test_progress(model, images):
    told = []
    iterative_sign(
        model,
        images,
        4,
        step_size=STEP,
        snapshots=(1, 4),
        batch_size=3,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(n, 20) for n in (3, 6, 9, 12, 14, 16, 18, 20)]
    with pytest.raises(TypeError, match="progress"):
        iterative_sign(model, images, 1, progress=3)


def test_progress_bar(model, images, monkeypatch):
    pytest.importorskip("rich")
    expected = iterative_sign(model, images, 2, step_size=STEP)
    got = iterative_sign(model, images, 2, step_size=STEP, progress=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    monkeypatch.setitem(sys.modules, "rich.console", None)  # as where rich is not installed
    with pytest.raises(ImportError, match=r"sign-ext\[experiments\]"):
        iterative_sign(model, images, 1, progress=True)


def test_function_and_class_take_the_same_options():
    function = inspect.signature(iterative_sign).parameters
    transform = inspect.signature(SignTransform.__init__).parameters
    shared = [n for n in function if n not in ("images", "out", "progress")]
    assert shared == [n for n in transform if n != "self"]
    assert all(function[n].default == transform[n].default for n in shared)


BAD = [
    ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ({"steps": 2.5}, TypeError, "steps must be an integer"),
    ({"steps": True}, TypeError, "steps must be an integer"),
    ({"snapshots": (0, 5)}, ValueError, "outside 1…steps"),
    ({"snapshots": (50, 100)}, ValueError, "snapshot 100 is outside 1…steps = 1…50"),
    ({"snapshots": ()}, ValueError, "empty"),
    ({"snapshots": (2, 2)}, ValueError, "twice"),
    ({"snapshots": 50}, TypeError, "snapshots"),
    ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
    ({"momentum": -0.1}, ValueError, "momentum"),
    ({"clamp": (255, 0)}, ValueError, "reversed"),
    ({"clamp": 255}, TypeError, "pair"),
    ({"step_size": math.nan}, ValueError, "step_size must be finite"),
    ({"step_size": "1"}, TypeError, "step_size must be a number"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"backend": "fast"}, ValueError, "backend must be one of auto, autograd, graphed"),
    ({"precision": "half"}, ValueError, "precision must be one of"),
    ({"linearize_at": "p"}, ValueError, "linearize_at must be one of iterate, input"),
    ({"layer": "5x"}, ValueError, "not a module of this Sequential; the closest are '5'"),
    ({"layer": 5}, TypeError, "layer must be a module's name"),
    ({"backend": "graphed"}, BackendError, "needs model and images on a CUDA device"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options_are_refused(model, images, options, error, message):
    before, kept = snapshot_of(model), images.clone()
    with pytest.raises(error, match=message):
        iterative_sign(model, images, **options)
    assert equal(before, snapshot_of(model))
    assert torch.equal(images, kept)


def test_bad_images_are_refused(model, images):
    cases = [
        (images.byte(), TypeError, r"images.float\(\)"),
        (images.numpy(), TypeError, "torch.Tensor"),
        (images[0], ValueError, r"images\[None\]"),
        (images[0, 0], ValueError, "2 dimensions"),
        (images.to("meta"), ValueError, "images are on meta, the model is on cpu"),
        (images.to_sparse(), ValueError, "layout"),
    ]
    for value in (torch.nan, torch.inf):
        bad = images.clone()
        bad[2, 1, 3, 3] = value
        cases.append((bad, ValueError, "1 of 5 samples, first in sample 2"))
    for given, error, message in cases:
        with pytest.raises(error, match=message):
            iterative_sign(model, given)


def test_bad_outputs_are_refused(model, images):
    cases = [
        ({"out": images.double()}, ValueError, "float32"),
        ({"out": images[:2]}, ValueError, "must be"),
        ({"out": 3}, TypeError, "tensor"),
        ({"out": images[:1].expand(5, -1, -1, -1)}, ValueError, "overlaps itself"),
        ({"out": images.flip(0), "snapshots": (1,)}, TypeError, "dict"),
        ({"out": {2: images}, "snapshots": (1,)}, ValueError, "keys"),
        ({"out": {1: images, 2: images}, "snapshots": (1, 2)}, ValueError, "overlap"),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            iterative_sign(model, images, **options)
    longer = torch.zeros(6, 3, 9, 11)
    with pytest.raises(ValueError, match="without being them"):
        iterative_sign(model, longer[:5], out=longer[1:])


def test_bad_models_are_refused(images):
    with pytest.raises(TypeError, match="Module"):
        iterative_sign(lambda x: x, images)
    mixing = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), *tiny_cnn())
    with pytest.raises(ValueError, match="mixes the samples"):
        iterative_sign(mixing, images)
    with torch.inference_mode():
        frozen = tiny_cnn()
    with pytest.raises(ValueError, match="inference_mode"):
        iterative_sign(frozen, images)
    with pytest.raises(TypeError, match="unexpected keyword"):
        iterative_sign(tiny_cnn(), images, step=3)


def test_explain(model, images):
    sign = SignTransform(model, 7, snapshots=(3, 7))
    assert "guess" in str(sign.explain())
    told = sign.explain(images)
    assert told.source_layer == "the input of '9' (Linear 28 → 4)"
    assert told.backend == "autograd"
    assert told.products == 7
    assert "3, 7" in str(told)
    assert told.to_dict()["layout"] == "channels_last"
    assert SignTransform(model, 7, linearize_at="input").explain().products == 1
    assert "output of '5'" in str(SignTransform(model, layer="5").explain())


def test_the_paper_network_runs_whole(torch_rng):
    images = torch.rand(2, 3, 32, 32, generator=torch_rng) * 255
    got = iterative_sign(basic_cnn(), images, 100, snapshots=(50, 100), step_size=100.0)
    assert (got[100] - images).norm() > (got[50] - images).norm() > 0
