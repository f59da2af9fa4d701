"""The onchip backend on a GPU, through `SignTransform`."""

from __future__ import annotations

import pytest
import torch
from onchip_cases import small_head

from sign_ext import BackendError, SignTransform
from sign_ext.engine.onchip import check
from sign_ext.models.basic_cnn import basic_cnn
from sign_ext.models.mobilenet_v2 import mobilenet_v2

pytestmark = pytest.mark.gpu


def images_of(*shape):
    return 255 * torch.rand(*shape, device="cuda")


def moves(model, images, backend, precision="bfloat16", **options):
    sign = SignTransform(model, 5, step_size=10, backend=backend, precision=precision, **options)
    return sign, sign.transform(images) - images


@pytest.mark.parametrize(
    ("make", "shape"),
    [(lambda: basic_cnn(10, (3, 32, 32)), (3, 32, 32)), (small_head, (1, 8, 12))],
    ids=["basic_cnn", "small_head"],
)
@pytest.mark.parametrize("count", [16, 64, 300])
def test_equals_fused_as_far_as_bfloat16_goes(make, shape, count):
    torch.manual_seed(0)
    model = make().cuda().eval()
    images = images_of(count, *shape)
    exact = SignTransform(model.double(), 5, step_size=10, backend="autograd")
    expected = exact.transform(images.double()) - images.double()
    model.float()
    errors = {}
    for backend in ("onchip", "fused"):
        _, moved = moves(model, images, backend)
        errors[backend] = float((moved.double() - expected).norm() / expected.norm())
    assert errors["onchip"] < 1.3 * errors["fused"] + 0.01


def test_auto_takes_it_and_says_so():
    model = basic_cnn(10, (3, 32, 32)).cuda().eval()
    images = images_of(16, 3, 32, 32)
    sign, moved = moves(model, images, "auto")
    explanation = sign.explain(images)
    assert explanation.backend == "onchip"
    assert any("4 layers" in line for line in explanation.operations)
    _, by_name = moves(model, images, "onchip")
    assert torch.equal(moved, by_name)
    assert SignTransform(model, 5).explain(images).backend == "fused"  # float32


def test_auto_passes_it_over_where_little_would_be_on_chip():
    model = mobilenet_v2(10, (3, 32, 32)).cuda().eval()
    images = images_of(4, 3, 32, 32)
    sign, _ = moves(model, images, "auto")
    explanation = sign.explain(images)
    assert explanation.backend == "fused"
    assert "on chip" in explanation.reason


def test_a_kernel_that_is_wrong_is_not_used(monkeypatch):
    monkeypatch.setattr(check, "DELTA_RATIO", 0.0)
    monkeypatch.setattr(check, "SUM_ERROR", 0.0)
    model = small_head().cuda().eval()
    images = images_of(4, 1, 8, 12)
    with pytest.raises(BackendError, match="does not match its definition"):
        moves(model, images, "onchip")
    sign, _ = moves(model, images, "auto")
    assert sign.explain(images).backend == "fused"


def test_weights_snapshots_momentum_and_streams():
    model = small_head().cuda().eval()
    images = images_of(40, 1, 8, 12)
    sign = SignTransform(
        model, 6, step_size=5, momentum=0.4, clamp=(0, 255), snapshots=(2, 6),
        backend="onchip", precision="bfloat16", batch_size=16,
    )  # fmt: skip
    before = sign.transform(images)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    after = sign.transform(images)
    assert not torch.equal(before[2], after[2])
    fresh = sign.with_options().transform(images)
    assert torch.equal(after[2], fresh[2])
    assert torch.equal(after[6], fresh[6])
    with torch.cuda.stream(torch.cuda.Stream()):
        again = sign.transform(images)
        torch.cuda.current_stream().synchronize()
    assert torch.equal(again[6], after[6])
