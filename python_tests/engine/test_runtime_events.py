"""The K loop never waits for the device, and the check of that finds what does."""

from __future__ import annotations

import pytest
import torch
from networks import basic_cnn, tiny_cnn
from runtime_events import grown, profiled, waits
from tensors import pixels
from torch import nn

from sign_ext import SignTransform
from sign_ext.engine.fused.trajectory import RecordedTrajectory
from sign_ext.engine.graphed import GraphedTrajectory
from sign_ext.engine.trajectory import Trajectory

ONCE = ["cudaDeviceSynchronize", "Memcpy DtoH (Device -> Pageable)", "cudaStreamSynchronize"]
STEP = ["cudaGraphLaunch", "cudaLaunchKernel", "cudaMemcpyAsync", "Memcpy DtoD (Device -> Device)"]


@pytest.mark.parametrize(
    "name",
    [
        "cudaStreamSynchronize",
        "cudaDeviceSynchronize",
        "cudaEventSynchronize",
        "cuStreamSynchronize",
        "cudaStreamSynchronize_ptsz",
        "cudaMemcpy",
        "Memcpy DtoH (Device -> Pageable)",
        "Memcpy DtoH (Device -> Pinned)",
        "Memcpy HtoD (Pageable -> Device)",
        "aten::_local_scalar_dense",
    ],
)
def test_one_wait_a_step_is_found(name: str) -> None:
    loop = [*STEP, name]
    assert grown(ONCE + 20 * loop, ONCE + 40 * loop) == {name: 20}


def test_what_does_not_wait_may_grow() -> None:
    quiet = [*STEP, "cudaStreamWaitEvent", "cudaEventRecord", "Memset (Device)", "aten::add_"]
    assert grown(ONCE + 20 * quiet, ONCE + 40 * quiet) == {}
    assert sum(waits(ONCE + 20 * quiet).values()) == len(ONCE)


class Waits(nn.Module):
    """Reads a value back in every forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.0 if x.sum().item() > 0 else 2.0)


def more_of(model: nn.Module, images: torch.Tensor, backend: str) -> dict[str, int]:
    """What waits in a call of 40 steps and not in one of 20."""
    found = []
    for steps in (20, 40):
        sign = SignTransform(model, steps, step_size=1.0, batch_size=3, backend=backend)
        sign.transform(images)  # compiled, recorded
        found.append(profiled(lambda sign=sign: sign.transform(images)))
    return grown(*found)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_that_waits_is_found(device: str, torch_rng: torch.Generator) -> None:
    model = nn.Sequential(Waits(), *tiny_cnn()).to(device).eval()
    images = pixels(torch_rng, (5, 3, 9, 11), device)
    found = more_of(model, images, "autograd")
    assert found["aten::_local_scalar_dense"] == 2 * 20  # two batches of 20 more steps
    if device == "cuda":
        assert any("Synchronize" in name for name in found)


@pytest.mark.parametrize(
    ("device", "backend"),
    [
        ("cpu", "autograd"),
        *(
            pytest.param("cuda", name, marks=pytest.mark.gpu)
            for name in ("autograd", "graphed", "fused")
        ),
    ],
)
def test_more_steps_wait_no_more(device: str, backend: str, torch_rng: torch.Generator) -> None:
    model = basic_cnn(8, 12, 6).to(device).eval()
    images = pixels(torch_rng, (5, 3, 8, 12), device)
    assert more_of(model, images, backend) == {}


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("autograd", Trajectory),
        ("graphed", GraphedTrajectory),
        ("fused", RecordedTrajectory),
    ],
)
def test_torch_itself_sees_no_wait_in_the_loop(
    backend: str,
    kind: type[Trajectory],
    monkeypatch: pytest.MonkeyPatch,
    torch_rng: torch.Generator,
) -> None:
    model = basic_cnn().cuda().eval()
    images = pixels(torch_rng, (64, 3, 32, 32), "cuda")
    advanced = []
    advance = kind.advance

    def strict(self: Trajectory, steps: int) -> None:
        advanced.append(steps)
        torch.cuda.set_sync_debug_mode("error")
        try:
            advance(self, steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    sign = SignTransform(model, 100, step_size=1.0, snapshots=(30, 100), backend=backend)
    monkeypatch.setattr(kind, "advance", strict)
    sign.transform(images)
    assert advanced == [30, 70]
