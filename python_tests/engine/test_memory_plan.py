"""The memory plan is what the allocator sees, and far below what autograd keeps."""

from __future__ import annotations

import pytest
import step_checks
import torch
from families import FAMILIES
from measured_memory import check_plan, peak_bytes
from networks import basic_cnn, lively
from tensors import channels_last
from torch import nn

from sign_ext.compiler.memory_plan import plan_memory
from sign_ext.compiler.schedule import schedule
from sign_ext.eval_state import computing
from sign_ext.source_layer import find_source_layer

COUNT = 16


def network_of(name: str, device: str):
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3)
    size = (32, 32) if name == "basic_cnn" else FAMILIES[name][1]
    model = basic_cnn() if name == "basic_cnn" else FAMILIES[name][0]()
    model = lively(model, generator).eval().requires_grad_(False).to(device)
    images = torch.rand(COUNT, 3, *size, generator=generator).to(device)
    with computing(model):
        source = find_source_layer(model, images[:1])
    return model, channels_last(images), source


@pytest.fixture(scope="module")
def bound(request):
    """A network of (name, device), its images, where Φ is read, and its compiled step."""
    model, images, source = network_of(*request.param)
    return model, images, source, step_checks.bound_step(model, images, source)


# The same objects, in the same order, so that the tests share what is compiled.
NETWORKS = [(name, "cpu") for name in ("basic_cnn", "mobilenet_v2", "inception_resnet_v2")]
OTHERS = [("resnet18", "cpu")]
ON_CUDA = [pytest.param((name, "cuda"), marks=pytest.mark.gpu) for name, _ in [*NETWORKS, *OTHERS]]


def test_the_measure_is_right():
    x = torch.rand(1000)

    def work():
        a = x + 1  # 4000 bytes
        b = torch.cat([a, a])  # 12000
        del a
        return b.exp()  # 8000 + 8000

    assert peak_bytes(work, torch.device("cpu")) == pytest.approx(16000, rel=0.02)


@pytest.mark.parametrize("bound", [*NETWORKS, *OTHERS, *ON_CUDA], indirect=True, ids="-".join)
def test_the_plan_is_the_allocators_peak(bound):
    model, images, _, step = bound
    with computing(model), torch.no_grad():
        measured = peak_bytes(lambda: step.stem_cotangent(images), images.device)
    check_plan(COUNT * step.memory.peak, measured, images.device, 0.05)


def test_a_plan_by_hand():
    """conv 8×4×4 → relu, conv 8×4×4 → relu, mean: two buffers at a time and two bit masks."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 2),
    ).eval()
    images = torch.rand(2, 3, 4, 4)
    with computing(model):
        source = find_source_layer(model, images[:1])
    program = step_checks.bound_step(model, images, source).program
    plan = plan_memory(schedule(program))
    value, mask = 8 * 4 * 4 * 4, 8 * 4 * 4 // 8
    assert program.residue_bytes() == plan.residues == 2 * mask
    # The second value and its bits next to the first value and its bits; the same backward.
    assert plan.peak == 2 * value + 2 * mask


def saved_bytes(model: nn.Module, images: torch.Tensor) -> int:
    """What autograd keeps between forward and backward with frozen weights."""
    seen: dict[int, int] = {}
    weights = {t.untyped_storage().data_ptr() for t in model.state_dict().values()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = images.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        value = model(x)
    del value
    return sum(seen.values())


@pytest.mark.parametrize("bound", NETWORKS, indirect=True, ids="-".join)
def test_residues_are_a_thirtieth_of_what_autograd_saves(bound):
    model, images, _, step = bound
    assert COUNT * step.program.residue_bytes() * 30 <= saved_bytes(model, images)
