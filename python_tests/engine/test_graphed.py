"""The graphed backend: its bookkeeping with a fake graph, what it refuses to capture, and CUDA."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from tensors import pixels
from torch import nn

from sign_ext import BackendError, SignTransform, iterative_sign
from sign_ext.engine import backends
from sign_ext.engine.graphed import GRAPHS_KEPT, GraphedEngine, forbid_host_sync
from sign_ext.engine.trajectory import Problem, Trajectory, repeatable
from sign_ext.ops.native import Native
from sign_ext.settings import Settings
from sign_ext.source_layer import Phi, guess_source_layer

STEP = 2000.0


class Recorder:
    """A fake CUDA graph capture: runs the step as a warm-up would, and replays by calling it."""

    def __init__(self):
        self.records = 0
        self.replays = 0

    def __call__(self, step, device):
        self.records += 1
        for _ in range(3):  # what a real warm-up does to the buffers
            step()

        def replay():
            self.replays += 1
            step()

        return replay


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def model():
    return tiny_cnn().eval()


def graphed(model, recorder, steps=4, **options) -> SignTransform:
    sign = SignTransform(model, steps, step_size=STEP, **options)
    sign.engines._engines["graphed"] = GraphedEngine(model, recorder)
    sign.engines.candidates = lambda device: [backends.BackendChoice("graphed", "in this test")]
    return sign


def eager(model, images):
    return iterative_sign(model, images, 4, step_size=STEP, backend="autograd")


def images_of(n, generator, size=(9, 11)):
    return pixels(generator, (n, 3, *size))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.7},
        {"linearize_at": "input"},
        {"momentum": 0.7, "linearize_at": "input", "clamp": (0, 255)},
        {"snapshots": (1, 4)},
    ],
    ids=str,
)
def test_replaying_gives_what_stepping_gives(model, recorder, torch_rng, options):
    images = images_of(5, torch_rng)
    sign = graphed(model, recorder, batch_size=2, **options)
    plain = SignTransform(model, 4, step_size=STEP, batch_size=2, backend="autograd", **options)
    for given in (images, images.flip(0)):  # the second call starts from recorded buffers
        torch.testing.assert_close(sign.transform(given), plain.transform(given), rtol=0, atol=0)
    # One record for full batches and one for the partial one, three batches of four steps a call.
    assert (recorder.records, recorder.replays) == (2, 2 * 3 * 4)


def test_a_bounded_number_of_shapes_is_kept(model, recorder, torch_rng):
    sign = graphed(model, recorder)
    for n in range(1, GRAPHS_KEPT + 3):
        sign.transform(images_of(n, torch_rng))
    assert len(sign.engines._engines["graphed"]._kept) == GRAPHS_KEPT
    before = recorder.records
    sign.transform(images_of(GRAPHS_KEPT + 2, torch_rng))
    assert recorder.records == before  # the latest is still there
    sign.transform(images_of(1, torch_rng))
    assert recorder.records == before + 1  # the oldest is not


def test_moved_weights_are_recorded_anew_and_changed_ones_are_not(model, recorder, torch_rng):
    images = images_of(2, torch_rng)
    sign = graphed(model, recorder)
    sign.transform(images)
    with torch.no_grad():
        model[1].weight.add_(0.1)
    got = sign.transform(images)
    assert recorder.records == 1
    torch.testing.assert_close(
        got, iterative_sign(model, images, 4, step_size=STEP, backend="autograd")
    )
    model[1].weight = torch.nn.Parameter(model[1].weight.detach() * 2)
    got = sign.transform(images)
    assert recorder.records == 2
    torch.testing.assert_close(
        got, iterative_sign(model, images, 4, step_size=STEP, backend="autograd")
    )


class Scaled(torch.nn.Module):
    """Reads a number that no watch of the network sees."""

    scale = 1.0

    def forward(self, x):
        return x * type(self).scale


class Baking(Recorder):
    """A graph keeps the numbers that were there when it was recorded."""

    def __call__(self, step, device):
        scale = Scaled.scale
        replay = super().__call__(step, device)

        def as_recorded():
            now, Scaled.scale = Scaled.scale, scale
            replay()
            Scaled.scale = now

        return as_recorded


def test_a_number_in_a_graph_that_has_changed_is_noticed(monkeypatch, torch_rng):
    monkeypatch.setattr(Scaled, "scale", 1.0)
    model, recorder = nn.Sequential(Scaled(), *tiny_cnn()).eval(), Baking()
    two, three = (images_of(n, torch_rng) for n in (2, 3))
    sign = graphed(model, recorder)
    for images in (two, three):
        torch.testing.assert_close(sign.transform(images), eager(model, images))
    assert recorder.records == 2
    Scaled.scale = 2.0
    torch.testing.assert_close(sign.transform(two), eager(model, two))
    sign.transform(two)
    assert recorder.records == 3
    torch.testing.assert_close(sign.transform(three), eager(model, three))  # of an earlier call
    assert recorder.records == 4
    with torch.no_grad():
        model[2].weight.mul_(1.5)
    Scaled.scale = 3.0  # both at once
    torch.testing.assert_close(sign.transform(two), eager(model, two))
    assert recorder.records == 5


def test_a_changed_structure_is_recorded_anew(model, recorder, torch_rng):
    images = images_of(2, torch_rng)
    sign = graphed(model, recorder)
    before = sign.transform(images)
    convolution = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    handle = convolution.register_forward_hook(lambda module, args, output: 2 * output)
    after = sign.transform(images)
    assert recorder.records == 2
    assert not torch.equal(after, before)
    handle.remove()
    assert torch.equal(sign.transform(images), before)


def test_threads_that_share_the_librarys_switches_restore_them(monkeypatch):
    """The second one begins before the first one ends, and ends after it."""
    cudnn = torch.backends.cudnn
    monkeypatch.setattr(cudnn, "benchmark", True)
    monkeypatch.setattr(cudnn, "deterministic", False)
    entered, leave = threading.Event(), threading.Event()

    def second():
        with repeatable(torch.device("cpu")):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=second)
    with repeatable(torch.device("cpu")):
        other.start()
        assert entered.wait(60)
    assert (cudnn.benchmark, cudnn.deterministic) == (False, True)
    leave.set()
    other.join(60)
    assert (cudnn.benchmark, cudnn.deterministic) == (True, False)


def test_threads_that_share_a_transform_do_not_share_a_trajectory(model, recorder, torch_rng):
    sets = [images_of(3, torch_rng) for _ in range(4)]
    expected = [
        SignTransform(model, 4, step_size=STEP, backend="autograd").transform(i) for i in sets
    ]
    sign = graphed(model, recorder)
    results: dict[int, torch.Tensor] = {}

    def work(i):
        for _ in range(5):
            results[i] = sign.transform(sets[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, images in enumerate(expected):
        torch.testing.assert_close(results[i], images, rtol=0, atol=0)


def test_auto_falls_back_and_says_why_and_a_name_raises(model, torch_rng, monkeypatch):
    images = images_of(2, torch_rng)

    def refuse(step, device):
        raise BackendError("this step waits for the device")

    for backend in ("auto", "graphed"):
        sign = SignTransform(model, 3, step_size=STEP, backend=backend)
        sign.engines._engines["graphed"] = GraphedEngine(model, refuse)
        names = ("graphed", "autograd") if backend == "auto" else ("graphed",)
        tried = [backends.BackendChoice(name, "in this test") for name in names]
        monkeypatch.setattr(sign.engines, "candidates", lambda device, tried=tried: tried)
        if backend == "graphed":
            with pytest.raises(BackendError, match="waits for the device"):
                sign.transform(images)
            continue
        expected = SignTransform(model, 3, step_size=STEP, backend="autograd")
        torch.testing.assert_close(sign.transform(images), expected.transform(images))
        explanation = sign.explain()
        assert explanation.backend == "autograd"
        assert "waits for the device" in explanation.reason


def test_the_rule_tries_what_is_fastest_first(monkeypatch):
    def names(device):
        return [choice.backend for choice in backends.candidates("auto", torch.device(device))]

    monkeypatch.setattr(backends, "NATIVE", Native(None, "not built"))
    assert names("cuda:0") == ["graphed", "autograd"]
    assert names("cpu") == ["autograd"]
    monkeypatch.setattr(backends, "NATIVE", Native(SimpleNamespace(cuda=False), ""))
    assert names("cuda:0") == ["graphed", "autograd"]
    assert names("cpu") == ["fused", "autograd"]
    monkeypatch.setattr(backends, "NATIVE", Native(SimpleNamespace(cuda=True), ""))
    assert names("cuda:0") == ["fused", "graphed", "autograd"]
    assert names("cpu") == ["fused", "autograd"]
    assert backends.choose("autograd", torch.device("cuda", 0)).backend == "autograd"
    with pytest.raises(BackendError, match="CUDA device"):
        backends.choose("graphed", torch.device("cpu"))


# What waits for the device is found before a capture, on any device.


def step_of(model: nn.Module, **options):
    model.eval().requires_grad_(False)
    phi = Phi(model, guess_source_layer(model))
    settings = Settings(step_size=100.0, **options)
    problem = Problem(phi, settings, torch.float32)
    images = torch.rand(2, 3, 32, 32) * 255
    trajectory = Trajectory(problem, images)
    trajectory.start(images)
    return trajectory


class Waits(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return x * self.how(x)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (lambda x: 2.0 if x.sum() > 0 else 1.0, "reads a value back"),
        (lambda x: x.mean().item(), "reads a value back"),
        (lambda x: len(x.flatten().nonzero()), "nonzero"),
        (lambda x: x[x > 0].detach().numel() * 0 + len(x.masked_select(x > 0)), "masked_select"),
        (lambda x: 1.0 if torch.equal(x, x) else 2.0, "compares"),
    ],
)
def test_a_step_that_waits_is_refused(how, words):
    trajectory = step_of(nn.Sequential(Waits(how), *tiny_cnn()))
    trajectory.step()  # it runs
    with pytest.raises(BackendError, match=f"captured.*{words}"):
        forbid_host_sync(trajectory.step)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"momentum": 0.5, "clamp": (0, 255)},
        {"linearize_at": "input"},
        {"precision": "bfloat16"},
    ],
    ids=str,
)
def test_our_own_step_never_waits_and_the_check_does_not_change_it(options):
    trajectory = step_of(basic_cnn(), **options)
    before = trajectory.iterate.clone()
    forbid_host_sync(trajectory.step)
    checked = trajectory.iterate.clone()
    trajectory.start(before)
    trajectory.step()
    torch.testing.assert_close(trajectory.iterate, checked, rtol=0, atol=0)
    assert not torch.equal(checked, before)


@pytest.mark.gpu
class TestOnCuda:
    """Captured graphs against eager steps on the same device."""

    @pytest.mark.parametrize("options", [{}, {"momentum": 0.7}, {"linearize_at": "input"}], ids=str)
    def test_equals_autograd(self, torch_rng, options):
        model = basic_cnn().cuda().eval()
        images = images_of(7, torch_rng, (32, 32)).cuda()
        both = [
            SignTransform(
                model, 5, step_size=STEP, batch_size=3, snapshots=(2, 5), backend=b, **options
            )
            for b in ("graphed", "autograd")
        ]
        for given in (images, images.flip(0)):
            first, second = (sign.transform(given) for sign in both)
            for k in (2, 5):
                moved = (second[k] - given).norm()
                assert (first[k] - second[k]).norm() <= 1e-4 * moved
                assert moved > 0

    def test_changed_weights_are_seen(self, torch_rng):
        model = basic_cnn().cuda().eval()
        images = images_of(4, torch_rng, (32, 32)).cuda()
        sign = SignTransform(model, 3, step_size=STEP, backend="graphed")
        sign.transform(images)
        with torch.no_grad():
            model[1].weight.mul_(1.5)
        expected = iterative_sign(model, images, 3, step_size=STEP, backend="autograd")
        moved = (expected - images).norm()
        assert (sign.transform(images) - expected).norm() <= 1e-4 * moved

    def test_a_step_that_waits_for_the_device_falls_back(self, torch_rng):
        waits = Waits(lambda x: 1.0 if x.sum().item() > 0 else 2.0)
        model = nn.Sequential(waits, *tiny_cnn()).cuda().eval()
        images = images_of(4, torch_rng).cuda()
        sign = SignTransform(model, 3, step_size=STEP)
        expected = iterative_sign(model, images, 3, step_size=STEP, backend="autograd")
        torch.testing.assert_close(sign.transform(images), expected)
        assert "captured" in sign.explain().reason
        assert torch.rand(3, device="cuda").isfinite().all()  # the generator is not mid-capture
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
        with pytest.raises(BackendError, match="captured"):
            iterative_sign(model, images, 3, backend="graphed")

    def test_no_wait_inside_the_loop(self, torch_rng):
        """Everything is queued before the first result is read: no synchronisation in K steps."""
        model = basic_cnn().cuda().eval()
        images = images_of(64, torch_rng, (32, 32)).cuda()
        sign = SignTransform(model, 200, step_size=1.0, backend="graphed")
        sign.transform(images)
        trajectory = sign.engines._engines["graphed"]._kept.values()[0]
        torch.cuda.set_sync_debug_mode("error")
        try:
            trajectory.advance(200)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_memory_comes_back(self, torch_rng):
        model = basic_cnn().cuda().eval()
        images = images_of(16, torch_rng, (32, 32)).cuda()
        used = []
        for _ in range(4):
            iterative_sign(model, images, 2, step_size=STEP, backend="graphed")
            gc.collect()
            torch.cuda.synchronize()
            used.append(torch.cuda.memory_allocated())
        assert used[-1] <= used[1]
