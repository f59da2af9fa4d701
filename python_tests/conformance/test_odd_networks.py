"""`auto` runs what the plain float32 loop runs: odd networks against a float64 loop."""

from __future__ import annotations

import copy
import re
from contextlib import contextmanager

import pytest
import torch
import torch.distributed
from networks import step_for, tiny_cnn
from odd_networks import HEIGHT, ODD, REFUSED, WIDTH, Headed, features
from torch import Tensor, nn

import sign_ext.engine.fused.step
from sign_ext import SignTransform, SourceLayerError, iterative_sign


def loop(phi: nn.Module, p: Tensor, steps: int, step_size: float | None) -> Tensor:
    """Algorithm 1 in plain autograd; without a step size, δ."""
    for _ in range(steps):
        x = p.clone().requires_grad_()
        (delta,) = torch.autograd.grad(phi(x).sum(), x)
        if step_size is None:
            return delta
        p = p + step_size * delta
    return p


def check(model: nn.Module, phi: nn.Module, images: Tensor, **options) -> SignTransform:
    dtype = next(model.parameters()).dtype
    exact = copy.deepcopy(phi).double().eval().requires_grad_(False)
    step_size = step_for(loop(exact, images.double(), 1, None), 3.0)
    plain = loop(copy.deepcopy(phi).eval(), images.to(dtype), 2, step_size)  # it works
    sign = SignTransform(model, 2, step_size=step_size, **options)
    got = sign.transform(images)
    moved = loop(exact, images.double(), 2, step_size) - images.double()
    error = (got.double() - images.double() - moved).norm() / moved.norm()
    bound = {torch.float16: 3e-2, torch.bfloat16: 0.2}.get(dtype, 2e-4)
    assert error <= bound, f"{error:.2e}"
    assert plain.isfinite().all()
    return sign


@pytest.mark.parametrize("name", ODD)
def test_equals_a_float64_loop(name, torch_rng):
    model, phi = ODD[name]()
    images = torch.rand(4, 3, HEIGHT, WIDTH, generator=torch_rng) * 255
    check(model, phi, images)


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_says_why_and_what_to_do(name, torch_rng):
    build, message = REFUSED[name]
    with pytest.raises(SourceLayerError, match=message):
        iterative_sign(build(), torch.rand(4, 3, HEIGHT, WIDTH, generator=torch_rng), 1)


@pytest.mark.parametrize(("name", "layer"), [("arc_face", "0.6"), ("distilled", "norm")])
def test_the_layer_that_the_error_names_works(name, layer, torch_rng):
    model = REFUSED[name][0]()
    images = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch_rng) * 255
    if name == "arc_face":
        check(model, model[0], images, layer=layer)
    else:  # the sum over a LayerNorm is constant, which is said
        with pytest.warns(UserWarning, match="constant"):
            iterative_sign(model, images, 1, layer=layer)


@pytest.fixture(autouse=True)
def _weights(seed: int) -> None:
    torch.manual_seed(seed)


def pixels(images: int, generator: torch.Generator) -> Tensor:
    return torch.rand(images, 3, HEIGHT, WIDTH, generator=generator) * 255


@pytest.mark.parametrize("backend", ["auto", "autograd", "fused"])
@pytest.mark.parametrize("name", ["functional_convolution", "perceptron"])
def test_no_backend_depends_on_the_types_of_modules(name, backend, torch_rng):
    model, phi = ODD[name]()
    sign = check(model, phi, pixels(3, torch_rng), backend=backend)
    answer = sign.explain(pixels(3, torch_rng))
    assert answer.backend == ("autograd" if backend == "autograd" else "fused")
    has_convolution = name == "functional_convolution"
    expected = "channels_last" if has_convolution or backend != "autograd" else "contiguous_format"
    assert answer.layout == expected


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("group_norm_then_view", "channels_last fails: .*view"),
        ("half_network_then_view", "channels_last fails: .*view"),
        ("strides_written_by_hand", r"δ differs by \d+% in channels_last"),
    ],
)
def test_the_images_own_layout_is_explained(name, why, torch_rng):
    model, _ = ODD[name]()
    answer = SignTransform(model, 1, backend="autograd").explain(pixels(3, torch_rng))
    assert (answer.backend, answer.layout) == ("autograd", "contiguous_format")
    (note,) = [note for note in answer.notes if "layout" in note]
    assert re.search(why, note)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_images_in_any_layout(layout, torch_rng):
    model, phi = ODD["prelu_then_convolution"]()
    images = pixels(4, torch_rng).contiguous(memory_format=layout)
    check(model, phi, images)
    check(model, phi, images.transpose(2, 3).contiguous().transpose(2, 3))
    check(model, phi, images[:1].expand(3, -1, -1, -1))


class Fussy(nn.Module):
    """Runs on one image in any layout, and on several in the contiguous one only."""

    def __init__(self):
        super().__init__()
        self.features = features()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2 and not x.is_contiguous():
            raise RuntimeError("not my layout")
        return self.features(x * (1 if bool(x.mean() > -1e9) else 2))


def test_a_layout_that_fails_in_a_step_is_ruled_out(torch_rng):
    body = Fussy()
    sign = check(Headed(body, nn.Linear(8, 3)), body.features, pixels(5, torch_rng))
    assert any("not my layout" in note for note in sign.explain(pixels(5, torch_rng)).notes)


def test_a_compiled_step_that_raises_is_replaced(monkeypatch, torch_rng):
    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(sign_ext.engine.fused.step.Step, "_run", broken)
    body = features()
    seen: list[int] = []
    sign = check(Headed(body, nn.Linear(8, 3)), body, images := pixels(5, torch_rng))
    assert "fused was tried: ZeroDivisionError: a defect" in sign.explain(images).reason
    sign.transform(images, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 10
    with pytest.raises(ZeroDivisionError):
        SignTransform(sign.model, 2, backend="fused").transform(images)


def test_what_a_progress_function_raises_is_no_failure_of_a_backend(torch_rng):
    def stop(done: int, total: int) -> None:
        raise InterruptedError("enough")

    sign = SignTransform(tiny_cnn(), 3)
    images = torch.rand(2, 3, 9, 9, generator=torch_rng)
    with pytest.raises(InterruptedError, match="enough"):
        sign.transform(images, progress=stop)
    assert sign.explain(images).backend == "fused"


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("tune", [False, True])
@pytest.mark.parametrize("backend", ["auto", "fused", "autograd"])
def test_any_default_dtype(backend, tune, torch_rng):
    body = features()
    images = pixels(3, torch_rng)
    with default_dtype(torch.float64):
        sign = check(
            Headed(body, nn.Linear(8, 3)).float(), body, images, backend=backend, tune=tune
        )
        assert sign.explain(images).backend == ("autograd" if backend == "autograd" else "fused")


def test_a_batch_size_that_an_export_has_fixed(torch_rng):
    model, phi = ODD["exported_body"]()  # batches of 4
    check(model, phi, pixels(8, torch_rng), batch_size=4)
    assert SignTransform(model, 1, batch_size=4).explain(pixels(8, torch_rng)).products == 1
    for batch_size, number in ((4, 6), (None, 5)):
        with pytest.raises(Exception, match=r".") as caught:
            iterative_sign(model, pixels(number, torch_rng), 1, batch_size=batch_size)
        told = [str(caught.value), *getattr(caught.value, "__notes__", [])]
        assert any("pass batch_size=B and a multiple of B images" in text for text in told)


@contextmanager
def one_process():
    """A process group of this process alone."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def compiled_by(calls: list[object]):
    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    return backend


@pytest.mark.parametrize("how", ["wrapper", "in place", "in place inside", "forward"])
def test_a_compiled_module_inside_is_passed_by(how, torch_rng):
    body, compiled = features(), []
    plain = copy.deepcopy(body)
    model = Headed(body, nn.Linear(8, 3))
    options = {"backend": compiled_by(compiled)}
    if how == "wrapper":
        model.body = torch.compile(body, **options)
    elif how == "forward":
        body.forward = torch.compile(body.forward, **options)
    else:
        (model if how == "in place" else body).compile(**options)
    images = pixels(3, torch_rng)
    sign = check(model, plain, images)
    answer = sign.explain(images)
    assert answer.backend == "fused", answer.reason
    assert not compiled
    model.eval()(images)  # as before, it is compiled for its owner
    assert compiled
    torch._dynamo.reset()


def test_ddp_inside_is_passed_by(torch_rng):
    body = nn.Sequential(*tiny_cnn()[:-1])
    plain = copy.deepcopy(body)
    images = torch.rand(3, 3, 9, 9, generator=torch_rng) * 255
    with one_process():
        model = nn.Sequential(nn.parallel.DistributedDataParallel(body), nn.Linear(28, 3))
        sign = check(model, plain, images)
        assert sign.explain(images).backend == "fused"
        assert "forward" not in vars(model[0])


def test_sharded_by_fsdp(torch_rng):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    body = features()
    plain = copy.deepcopy(body)
    images = pixels(3, torch_rng)
    with one_process():
        model = nn.Sequential(body, nn.Linear(8, 3))
        mesh = init_device_mesh("cpu", (1,))
        fully_shard(body[5], mesh=mesh)
        fully_shard(model, mesh=mesh)
        weights = [type(p.data) for p in model.parameters()]
        sign = check(model, plain, images)
        assert [type(p.data) for p in model.parameters()] == weights  # sharded as before
        assert "fully_shard" in sign.explain(images).reason
        model(images).sum().backward()  # it trains on
        assert all(p.grad is not None for p in model.parameters())
