"""The recorder sees what runs, as it runs, and refuses what no graph can hold."""

from __future__ import annotations

import threading
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from sign_ext.compiler.record import EXACT, READS_WEIGHTS, record
from sign_ext.errors import UnsupportedOperation


class Mixed(nn.Module):
    """Composite and in-place operations, views, several outputs, constants, shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.again = nn.Conv2d(6, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu_(self.norm(self.first(x / 255)))
        a, b = self.again(self.again(y)).chunk(2, 1)
        a += torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
        a[:, 0] = 3.0
        shape = torch.arange(3.0) * 2
        return torch.cat([a, F.hardtanh(b) + shape[:, None, None]], 1).flatten(1)


@pytest.fixture
def network() -> Mixed:
    return Mixed().eval().requires_grad_(False)


def operations(graph: torch.fx.GraphModule) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def test_the_graph_is_that_of_make_fx(network, torch_rng):
    images = torch.rand(2, 3, 7, 9, generator=torch_rng) * 255
    graph = record(network, images)
    with torch.no_grad():
        expected = make_fx(network, tracing_mode="real", pre_dispatch=True)(images)
    assert operations(graph) == operations(expected)
    ours, theirs = (
        [node.meta.get("tensor_meta") for node in g.graph.nodes if node.op == "call_function"]
        for g in (graph, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        if hasattr(b, "shape"):
            assert (a.shape, a.dtype, a.stride) == (b.shape, b.dtype, b.stride)
    others = torch.rand(2, 3, 7, 9, generator=torch_rng) * 255
    assert torch.equal(graph(others), network(others))
    assert torch.equal(graph(others), network(others))  # no constant was written to


def test_the_graph_holds_the_networks_own_tensors(network):
    graph = record(network, torch.rand(2, 3, 7, 9))
    held = {id(t) for t in [*graph.parameters(), *graph.buffers()]}
    own = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    assert {id(t) for t in own} <= held
    assert len([n for n in graph.graph.nodes if n.op == "get_attr"]) == len(held)
    # What else it holds are the constants of the forward pass, no copies of the network's tensors.
    others = [t for t in graph.buffers() if id(t) not in {id(tensor) for tensor in own}]
    assert sum(t.numel() for t in others) <= 3 + 1 < min(t.numel() for t in own)


def test_the_work_for_a_constant_does_not_grow_with_the_network(monkeypatch):
    """Neither tensors nor modules are looked for in the network."""
    walked: list[str] = []
    for name in ("named_parameters", "named_buffers", "named_modules"):
        walk = getattr(nn.Module, name)

        def counted(self, *args, walk=walk, name=name, **options):
            walked.append(name)
            return walk(self, *args, **options)

        monkeypatch.setattr(nn.Module, name, counted)

    def walks(layers: int) -> int:
        walked.clear()
        network = nn.Sequential(*(nn.Linear(3, 3) for _ in range(layers)))
        graph = record(network, torch.rand(2, 3))
        assert len(graph.graph.nodes) == 3 * layers + 2
        return len(walked)

    assert walks(5) == walks(50)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x * x.sum().item(), "aten.item"),
        (lambda x: x if x.sum() > 0 else -x, "aten.is_nonzero"),
        (lambda x: x if torch.equal(x, x + 1) else -x, "aten.equal"),
    ],
    ids=["a number", "a branch", "a comparison"],
)
def test_values_of_images_that_are_read_back_are_refused(function, message):
    with pytest.raises(UnsupportedOperation, match=f"cannot be recorded.*{message}.*depends on"):
        record(function, torch.rand(2, 3))


def test_autocast_that_is_switched_on_is_refused():
    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x.T

    with pytest.raises(UnsupportedOperation, match="switches autocast on"):
        record(function, torch.rand(2, 3))

    def switched_off(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x * 2

    assert operations(record(switched_off, torch.rand(2, 3))) == ["aten.mul.Tensor"]


@pytest.mark.parametrize("outside", [False, True])
def test_what_runs_without_autocast_is_marked(outside):
    def function(x: Tensor) -> Tensor:
        y = x + 1
        with torch.autocast("cpu", enabled=False):
            y = y.chunk(2)[0] * 2
        return y - 1

    with torch.autocast("cpu", enabled=False) if outside else nullcontext():
        graph = record(function, torch.rand(2, 3)).graph
    marks = [node.meta[EXACT] for node in graph.nodes if node.op == "call_function"]
    assert marks == [False, True, True, True, True, False]  # add, chunk and its parts, mul, sub


def test_a_switch_of_gradients_is_in_the_graph():
    def function(x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x * 2
        return x + y

    assert any("_set_grad_enabled" in name for name in operations(record(function, torch.rand(2))))


def test_a_tensor_of_another_class_is_refused():
    class Marked(Tensor):
        pass

    weight = torch.ones(3).as_subclass(Marked)
    with pytest.raises(UnsupportedOperation, match="it has a Marked"):
        record(lambda x: x * weight, torch.rand(2, 3))


def test_whether_numbers_were_read_from_weights():
    weight = torch.full((3,), 2.0)
    assert record(lambda x: x * float(weight[0]), torch.rand(2, 3)).meta[READS_WEIGHTS]
    assert not record(lambda x: x * weight[0], torch.rand(2, 3)).meta[READS_WEIGHTS]


def test_other_threads_are_not_recorded():
    def function(x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: torch.ones(3).exp())
        thread.start()
        thread.join()
        return x * 2

    assert operations(record(function, torch.rand(2, 3))) == ["aten.mul.Tensor"]
