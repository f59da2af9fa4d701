"""A warning where bfloat16 is emulated, and nowhere else."""

from __future__ import annotations

import platform
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sign_ext import SignTransform, SlowPrecisionWarning, iterative_sign, slow_precision
from sign_ext.data import ImageSet
from sign_ext.training import TrainSettings, train

CPU = torch.device("cpu")


@pytest.fixture
def network(torch_rng: torch.Generator) -> nn.Sequential:
    found = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 3 * 5, 4))
    return found.eval()


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 5, 7, generator=torch_rng) * 255


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_precision, "emulates_bfloat16", lambda device: device.type == "cpu")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_precision, "emulates_bfloat16", lambda device: False)


def test_the_processors_own_list_of_instructions_agrees() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() not in ("x86_64", "AMD64") or not cpuinfo.exists():
        pytest.skip("/proc/cpuinfo of an x86 processor lists its instructions")
    lines = cpuinfo.read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    if {"avx512_bf16", "amx_bf16"} & set(flags):
        assert not slow_precision.emulates_bfloat16(CPU)
    if not [flag for flag in flags if flag.startswith(("avx512", "avx_ne_convert", "avx10"))]:
        assert slow_precision.emulates_bfloat16(CPU)


def told(work: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()  # type: ignore[operator]
    found = [each for each in caught if each.category is SlowPrecisionWarning]
    assert all(each.filename == __file__ for each in found)  # points at the caller's line
    return [str(each.message) for each in found]


@pytest.mark.usefixtures("emulated")
def test_told_once_for_each_transform(network: nn.Sequential, images: Tensor) -> None:
    sign = SignTransform(network, 2, precision="bfloat16")
    assert told(lambda: [sign(images), sign(images)]) == [
        "this processor has no instructions for bfloat16, so PyTorch emulates it, which takes many "
        "times as long as float32. Use precision='float32' (--precision float32 on the command "
        "line)."
    ]


@pytest.mark.usefixtures("emulated")
def test_a_network_in_bfloat16_is_told_what_it_can_do(
    network: nn.Sequential, images: Tensor
) -> None:
    found = told(lambda: iterative_sign(network.bfloat16(), images.bfloat16(), 1))
    assert len(found) == 1
    assert found[0].endswith("Use model.float().")


@pytest.mark.usefixtures("emulated")
def test_float32_is_not_told(network: nn.Sequential, images: Tensor) -> None:
    assert not told(lambda: iterative_sign(network, images, 1))


@pytest.mark.usefixtures("computed")
def test_not_told_where_there_are_instructions(network: nn.Sequential, images: Tensor) -> None:
    assert not told(lambda: iterative_sign(network, images, 1, precision="bfloat16"))


@pytest.mark.parametrize(("precision", "times"), [("bfloat16", 1), ("float32", 0)])
@pytest.mark.usefixtures("emulated")
def test_training_is_told(
    network: nn.Sequential, images: Tensor, precision: str, times: int
) -> None:
    pictures = ImageSet(images, torch.tensor([0, 3]), ("a", "b", "c", "d"), "two")
    settings = TrainSettings(epochs=1, batch_size=2, precision=precision)
    assert len(told(lambda: train(network, pictures, pictures, settings))) == times
