"""Recorded steps on a GPU: many shapes, changed and moved weights, streams, threads, devices."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from tensors import pixels
from torch import Tensor, nn

from sign_ext import SignTransform, iterative_sign

pytestmark = pytest.mark.gpu
BACKENDS = ["graphed", "fused"]
STEP = 2000.0


def images_of(count: int, generator: torch.Generator, size: tuple[int, int] = (9, 11)) -> Tensor:
    return pixels(generator, (count, 3, *size), "cuda")


def plain(model: nn.Module, images: Tensor, steps: int = 4) -> Tensor:
    """p*_K without a graph."""
    return iterative_sign(model, images, steps, step_size=STEP, backend="autograd")


def agree(got: Tensor, wanted: Tensor, images: Tensor) -> None:
    # A wrong graph, or a right one at the wrong time, is off by much more. Rounding in another
    # algorithm may flip one ReLU, which is less.
    moved = (wanted - images).norm()
    assert moved > 1
    assert (got - wanted).norm() <= 1e-2 * moved


@pytest.fixture
def model() -> nn.Sequential:
    return tiny_cnn().cuda().eval()


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_shapes_come_and_go(
    backend: str, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    """More shapes than are kept, three times over: most are dropped and recorded again."""
    sign = SignTransform(model, 4, step_size=STEP, backend=backend)
    sizes = [(9, 11), (8, 8), (15, 7)]
    given = [images_of(count, torch_rng, size) for count in (1, 2, 5, 31) for size in sizes]
    wanted = [plain(model, images) for images in given]
    for _ in range(3):
        for images, want in zip(given, wanted, strict=True):
            agree(sign.transform(images), want, images)
    assert len(sign.engines._engines[backend]._kept) == 4


def wide_products(seed: int) -> nn.Sequential:
    """Products with long sums and few rows, which cuBLAS splits and adds up in its workspace."""
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(3 * 32 * 32, 4096), nn.ReLU(), nn.Linear(4096, 48)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(48, 10)).cuda().eval()


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_steps_replayed_at_once_do_not_disturb_each_other(
    backend: str, torch_rng: torch.Generator
) -> None:
    """Each has its own cuBLAS memory: the same bits at the same time as one after the other."""
    given = [images_of(count, torch_rng, (32, 32)) for count in (16, 24)]
    signs = [SignTransform(wide_products(i), 300, step_size=0.1, backend=backend) for i in (1, 2)]
    wanted = [sign.transform(images) for sign, images in zip(signs, given, strict=True)]
    trajectories = []
    for sign, images in zip(signs, given, strict=True):
        (kept,) = sign.engines._engines[backend]._kept.values()
        trajectory = getattr(kept, "trajectory", kept)
        trajectory.start(images)
        trajectories.append(trajectory)
    assert trajectories[0]._replay._stream is not trajectories[1]._replay._stream
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    for _ in range(300):
        for stream, trajectory in zip(streams, trajectories, strict=True):
            with torch.cuda.stream(stream):
                trajectory.advance(1)
    torch.cuda.synchronize()
    for trajectory, want in zip(trajectories, wanted, strict=True):
        assert torch.equal(trajectory.iterate, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropping_one_step_leaves_the_other_its_memory(
    backend: str, torch_rng: torch.Generator
) -> None:
    images = images_of(16, torch_rng, (32, 32))
    stays, goes = (SignTransform(wide_products(i), 20, backend=backend) for i in (1, 2))
    want = stays.transform(images)
    goes.transform(images)
    del goes
    gc.collect()
    torch.cuda.empty_cache()
    filled = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(64)]
    assert torch.equal(stays.transform(images), want)
    del filled


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [1, 3, 64, 65, 257])
def test_batches_of_every_size(backend: str, count: int, torch_rng: torch.Generator) -> None:
    model = basic_cnn(8, 12, 6).cuda().eval()
    images = images_of(count, torch_rng, (8, 12))
    got = iterative_sign(model, images, 4, step_size=STEP, batch_size=64, backend=backend)
    agree(got, plain(model, images), images)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_changed_between_calls_are_seen(
    backend: str, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    images = images_of(5, torch_rng)
    sign = SignTransform(model, 4, step_size=STEP, batch_size=2, backend=backend)
    seen = [sign.transform(images)]
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)

    def trained() -> None:
        nn.functional.mse_loss(model(images), torch.ones(5, 4).cuda()).backward()
        optimizer.step()

    def loaded() -> None:
        model.load_state_dict({k: v * 1.25 for k, v in model.state_dict().items()})

    def replaced() -> None:
        model[1].weight = nn.Parameter(model[1].weight.detach() * 1.5)

    def statistics() -> None:
        model[2].running_mean.add_(0.5)

    for change in (trained, loaded, replaced, statistics):
        change()
        got = sign.transform(images)
        agree(got, plain(model, images), images)
        assert not torch.equal(got, seen[-1])
        seen.append(got)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_moved_model_is_recorded_anew(
    backend: str, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    images = images_of(5, torch_rng)
    sign = SignTransform(model, 4, step_size=STEP, backend=backend)
    first = sign.transform(images)
    model.cpu()
    # Takes the memory that the weights had.
    other = [torch.rand(1 << 20, device="cuda") for _ in range(8)]
    model.cuda()
    again = sign.transform(images)
    agree(again, first, images)
    del other


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_model_elsewhere_than_its_images_is_refused(
    backend: str, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    images = images_of(3, torch_rng)
    sign = SignTransform(model, 2, step_size=STEP, backend=backend)
    before = sign.transform(images)
    with pytest.raises(ValueError, match="images are on cpu, the model is on cuda"):
        sign.transform(images.cpu())
    model.cpu()
    with pytest.raises(ValueError, match="images are on cuda:0, the model is on cpu"):
        sign.transform(images)
    model.cuda()
    agree(sign.transform(images), before, images)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [True, False])
def test_two_streams(
    backend: str, shared: bool, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    """Calls alternate between two streams, by one transform or one each."""
    given = [images_of(40, torch_rng), images_of(40, torch_rng)]
    wanted = [plain(model, images) for images in given]
    first = SignTransform(model, 4, step_size=STEP, backend=backend)
    second = first if shared else SignTransform(model, 4, step_size=STEP, backend=backend)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = [[], []]
    for _ in range(20):
        for i, sign in enumerate((first, second)):
            with torch.cuda.stream(streams[i]):
                results[i].append(sign.transform(given[i]))
    torch.cuda.synchronize()
    for found, want, images in zip(results, wanted, given, strict=True):
        for each in found:
            agree(each, want, images)


@pytest.mark.parametrize("backend", BACKENDS)
def test_images_that_are_still_being_written_are_waited_for(
    backend: str, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    """The images are written on the caller's stream after a long delay."""
    images = images_of(5, torch_rng)
    wanted = plain(model, images)
    sign = SignTransform(model, 4, step_size=STEP, backend=backend)
    sign.transform(images)
    late = torch.zeros_like(images)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        late.copy_(images)
        got = sign.transform(late)
    stream.synchronize()
    agree(got, wanted, images)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shared", [True, False])
def test_two_threads(
    backend: str, shared: bool, model: nn.Sequential, torch_rng: torch.Generator
) -> None:
    """Threads record and replay at the same time, each on its own stream."""
    given = [[images_of(count, torch_rng) for count in (3, 8)] for _ in range(2)]
    wanted = [[plain(model, images) for images in each] for each in given]
    first = SignTransform(model, 4, step_size=STEP, backend=backend)
    signs = [first, first if shared else SignTransform(model, 4, step_size=STEP, backend=backend)]
    results: dict[int, list[list[Tensor]]] = {0: [], 1: []}
    together = threading.Barrier(2)
    torch.cuda.synchronize()

    def work(i: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            together.wait()
            for _ in range(10):
                results[i].append([signs[i].transform(images) for images in given[i]])
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in (0, 1):
        assert len(results[i]) == 10
        for found in results[i]:
            for each, want, images in zip(found, wanted[i], given[i], strict=True):
                agree(each, want, images)
