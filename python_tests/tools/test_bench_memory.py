"""The benchmarks' measurements agree with bytes and operations counted by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))

import memory  # noqa: E402
import peers  # noqa: E402
import roofline  # noqa: E402

from sign_ext.benchmarking.loops import Run  # noqa: E402

CPU = torch.device("cpu")
KIB = 1024


def test_memory_per_image_is_separated_from_the_fixed_part() -> None:
    def build() -> Run:
        def run(images: torch.Tensor) -> torch.Tensor:
            buffers = [images + 1, images + 2, torch.empty(48 * KIB, dtype=torch.uint8)]
            result = images.clone()
            del buffers
            return result

        return run

    image = 3 * 8 * 8 * 4
    assert memory.step_rows(build, torch.zeros(4, 3, 8, 8)) == {
        "peak": 4 * 2 * image + 48 * KIB,
        "per_image": 2 * image + 12 * KIB,
        "per_further_image": 2 * image,
    }


def test_saved_tensors_by_hand() -> None:
    phi = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 1))
    images = torch.rand(2, 3, 8, 8)
    # With trainable weights the second convolution saves its input, the ReLU's output.
    hidden = 2 * 5 * 8 * 8 * 4
    assert memory.saved_bytes(phi, images) == hidden
    # Frozen: the ReLU still saves its output for its own backward pass.
    assert memory.saved_bytes(phi.requires_grad_(False), images) == hidden
    linear = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 7, 1))
    assert memory.saved_bytes(linear, images) == 2 * 5 * 6 * 6 * 4


def test_operations_and_bytes_of_a_layer_by_hand() -> None:
    phi = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten())
    phi.append(nn.Linear(6 * 8 * 8, 10, bias=False)).eval()
    conv, linear, rest = roofline.layers_of(phi, torch.zeros(2, 4, 8, 8), "float32")
    assert conv.flop == 2 * (2 * 2 * 6 * 64 * 4 * 9)
    assert linear.flop == 2 * (2 * 2 * 384 * 10)
    assert rest == roofline.Layer(0, 0)
    assert conv.moved == 2 * 4 * (2 * 4 * 64 + 2 * 6 * 64 + 6 * 4 * 9)
    assert roofline.layers_of(phi, torch.zeros(2, 4, 8, 8), "bfloat16")[0].moved == conv.moved // 2
    machine = roofline.Machine(flop_per_s=1e3, bytes_per_s=1e9)
    assert roofline.floor([conv, linear], machine) == pytest.approx((conv.flop + linear.flop) / 1e3)
    slow_memory = roofline.Machine(flop_per_s=1e12, bytes_per_s=10.0)
    assert roofline.floor([conv], slow_memory) == pytest.approx(conv.moved / 10)


def test_measured_rates_are_plausible() -> None:
    assert 1e7 < roofline.matmul_rate("float32", CPU, seconds=0.0) < 1e15
    assert 1e7 < roofline.copy_rate(CPU, count=2**20, seconds=0.0) < 1e15


def test_folding_does_not_change_the_result() -> None:
    torch.manual_seed(0)
    phi = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 2, 1))
    images = torch.rand(2, 3, 8, 8)
    phi(images)  # moves the running statistics
    expected = phi.eval()(images)
    assert peers.fold(phi) == 1
    assert not any(isinstance(module, nn.BatchNorm2d) for module in phi.modules())
    torch.testing.assert_close(phi(images), expected)
