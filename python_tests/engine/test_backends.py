"""Which backend runs: `explain` and `transform` get one answer, and asking changes nothing."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from networks import tiny_cnn
from tensors import pixels
from torch import Tensor, nn

from sign_ext import BackendError, NegligibleDeltaWarning, SignTransform
from sign_ext.compiler.memory_plan import MemoryPlan
from sign_ext.engine import backends, batch
from sign_ext.engine.graphed import GraphedEngine
from sign_ext.errors import UnsupportedOperation
from sign_ext.ops.native import NATIVE

STEP = 2000.0
needs_native = pytest.mark.skipif(not NATIVE.loaded, reason="auto tries fused where it is native")


class Softened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.logcumsumexp(1) * 100


def unknown() -> nn.Sequential:
    """A network with an operation that the compiler does not know."""
    return nn.Sequential(nn.Conv2d(3, 3, 3), Softened(), *tiny_cnn()).eval()


def images_of(torch_rng, n: int = 3) -> Tensor:
    return pixels(torch_rng, (n, 3, 9, 11))


def refused_for(sign: SignTransform, monkeypatch, is_bad) -> None:
    """Make the compiler refuse the batches whose first image `is_bad`."""
    original = sign.engines.fused._compiled

    def compiled(problem, images, *most_islands):
        if is_bad(images[0]):
            raise UnsupportedOperation("its gradient is not that of its operations")
        return original(problem, images, *most_islands)

    monkeypatch.setattr(sign.engines.fused, "_compiled", compiled)


@needs_native
def test_explaining_a_batch_that_cannot_run_leaves_later_ones_alone(torch_rng, monkeypatch):
    good = images_of(torch_rng)
    bad = good.flip(0)
    sign = SignTransform(tiny_cnn().eval(), 2, step_size=STEP)
    refused_for(sign, monkeypatch, lambda image: torch.equal(image, bad[0]))
    assert sign.explain(bad).backend == "autograd"
    assert "not that of its operations" in sign.explain(bad).reason
    assert sign.explain(good).backend == "fused"
    started: list[str] = []
    for name, engine in sign.engines._engines.items():
        start = engine.start
        monkeypatch.setattr(engine, "start", lambda *a, n=name, s=start: started.append(n) or s(*a))
    sign.transform(good)
    assert started == ["fused"]
    assert sign.explain().backend == "fused"


@needs_native
@pytest.mark.parametrize("make", [tiny_cnn, unknown])
def test_a_transform_says_and_does_the_same_with_and_without_asking(torch_rng, make):
    torch.manual_seed(5)
    images, model = images_of(torch_rng), make().eval()
    plain = SignTransform(model, 2, step_size=STEP)
    asked = SignTransform(model, 2, step_size=STEP)
    for given in (images[:1], images, images[:, :, :8, :8]):
        asked.explain(given)
    asked.explain()
    assert asked.engines._failures == {}
    assert torch.equal(asked.transform(images), plain.transform(images))
    assert asked.engines._failures == plain.engines._failures
    for given in (images, None):
        after, before = asked.explain(given), plain.explain(given)
        assert (after.backend, after.reason) == (before.backend, before.reason)


@needs_native
@pytest.mark.parametrize("make", [tiny_cnn, unknown])
def test_what_is_explained_first_is_what_runs(torch_rng, monkeypatch, make):
    images = images_of(torch_rng)
    sign = SignTransform(make().eval(), 2, step_size=STEP)
    told = sign.explain(images)
    started: list[str] = []
    engine = sign.engines._engines[told.backend]
    start = engine.start
    monkeypatch.setattr(engine, "start", lambda *a: started.append(told.backend) or start(*a))
    sign.transform(images)
    assert started == [told.backend]
    assert sign.explain(images).reason == told.reason
    assert sign.explain().reason == told.reason


def test_explaining_keeps_the_warning_for_the_call(torch_rng):
    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    images = images_of(torch_rng)
    sign = SignTransform(model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "constant" in str(sign.explain(images))
        sign.source_layer(images)
        sign.images_at_once(images)
    with pytest.warns(NegligibleDeltaWarning, match=r"constant.*layer=NAME"):
        sign.transform(images)


def test_a_backend_by_name_that_cannot_run_raises_for_both(torch_rng):
    images = images_of(torch_rng)
    sign = SignTransform(unknown(), 2, backend="fused", strict=True)
    for ask in (sign.explain, sign.transform):
        with pytest.raises(BackendError, match=r"aten\.logcumsumexp\.default"):
            ask(images)
    with pytest.raises(BackendError, match="needs model and images on a CUDA device"):
        SignTransform(tiny_cnn(), 2, backend="graphed").explain()


def test_what_shows_in_recording_is_remembered_by_the_call(torch_rng, monkeypatch):
    images = images_of(torch_rng)
    tries: list[int] = []

    def record(step, device):
        tries.append(1)
        raise BackendError("this step waits for the device")

    model = tiny_cnn().eval()
    sign = SignTransform(model, 2, step_size=STEP, batch_size=1)
    sign.engines._engines["graphed"] = GraphedEngine(model, record)
    tried = [backends.BackendChoice(name, "in this test") for name in ("graphed", "autograd")]
    monkeypatch.setattr(sign.engines, "candidates", lambda device: tried)
    assert sign.explain(images).backend == "graphed"  # nothing recorded yet
    sign.transform(images)
    assert len(tries) == 1  # not once a batch
    told = sign.explain(images)
    assert told.backend == "autograd"
    assert "graphed was tried: this step waits" in told.reason
    assert sign.engines.last_choice(images.device) == backends.BackendChoice(
        "autograd", told.reason, {"graphed": "this step waits for the device"}
    )


def test_asking_for_a_batch_size_settles_none(monkeypatch):
    """What is asked about first has another memory plan: the call that follows gets its own."""
    chip = SimpleNamespace(multi_processor_count=132, total_memory=140 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    monkeypatch.setattr(batch, "free_memory", lambda device: 140 << 30)
    plans = [MemoryPlan(peak, 0, 0, 0, 0, 0) for peak in (10**9, 10**6, 10**6)]
    sizes = batch.Batches(SimpleNamespace(memory=lambda problem, images: plans.pop(0)), None)
    problem = SimpleNamespace(model_dtype=torch.float32)
    images = SimpleNamespace(shape=torch.Size((1, 3, 32, 32)), device=torch.device("cuda", 0))
    asked = sizes.rule(problem, images)

    class Call(SimpleNamespace):
        def __len__(self) -> int:
            return 50_000

    settled = sizes.size(problem, Call(shape=images.shape, device=images.device))
    assert settled > asked
    assert sizes.rule(problem, images) == settled
    assert len(plans) == 1
