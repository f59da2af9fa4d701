"""On a GPU the allocator's peak of a step is the memory plan's, at batches as they are used."""

from __future__ import annotations

import pytest
import torch
from measured_memory import check_plan, peak_bytes
from tensors import channels_last

from sign_ext import SignTransform
from sign_ext.eval_state import computing
from sign_ext.models import build_model

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [64, 1024])
@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2"])
def test_the_plan_is_the_allocators_peak(name: str, count: int, precision: str) -> None:
    torch.manual_seed(3)
    model = build_model(name, image_shape=(3, 32, 32)).cuda().eval()
    images = channels_last((torch.rand(count, 3, 32, 32) * 255).cuda())
    step = SignTransform(model, precision=precision).step(images)
    with computing(model, precision), torch.no_grad():
        measured = peak_bytes(lambda: step.stem_cotangent(images), images.device)
    check_plan(count * step.memory.peak, measured, images.device, 0.05)
