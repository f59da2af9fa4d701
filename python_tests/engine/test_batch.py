"""How many images at a time: the rule on numbers, and how a transform applies it."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import tiny_cnn
from tensors import pixels
from torch import nn

from sign_ext import SignTransform
from sign_ext.compiler.memory_plan import MemoryPlan
from sign_ext.engine import batch as rule
from sign_ext.engine.batch import Batches, Need, batch_that_fits, images_at_once, need_of

# Multiprocessors and bytes of memory.
H200, A100, LAPTOP = (132, 141 * 10**9), (108, 40 * 10**9), (24, 8 * 10**9)
# Bytes an image of the memory plans in float32: at the peak, and of the largest tensor.
BASIC_CNN, INCEPTION = (
    MemoryPlan(266_240, 0, 0, 0, 0, 131_072),
    MemoryPlan(8_473_096, 0, 0, 0, 0, 5_531_904),
)
NEEDS = st.builds(
    Need,
    positions=st.integers(1, 10**7),
    bytes=st.integers(1, 10**10),
    tensor=st.integers(0, 10**10),
)


def of(shape: tuple[int, ...], plan: MemoryPlan | None) -> Need:
    return need_of(torch.empty(1, *shape, device="meta"), torch.float32, plan)


@pytest.mark.parametrize(
    ("shape", "plan", "expected"),
    [
        # Where a plan says that they fit: 32 images of 32×32, or one of 299×299, a multiprocessor.
        ((3, 32, 32), BASIC_CNN, (132 * 32, 108 * 32, 24 * 32)),
        ((3, 299, 299), INCEPTION, (132, 108, 24)),
        # Without a plan 4 kB a position: 4.2 MB an image of 32×32, 370 MB an image of 299×299.
        ((3, 32, 32), None, (132 * 32, 108 * 16, 24 * 16)),
        ((3, 299, 299), None, (95, 26, 5)),
        # 41 of 28×28 would be useful, 32 is the power of two; small ones are bounded.
        ((1, 28, 28), None, (132 * 32, 108 * 16, 24 * 16)),
        ((1, 2, 2), None, (132 * 64, 108 * 64, 24 * 64)),
        ((3, 224, 224), BASIC_CNN, (132, 108, 24)),
        ((3, 64, 64), BASIC_CNN, (132 * 8, 108 * 8, 24 * 8)),
        # Volumes: 16 × 32 × 32 positions.
        ((1, 16, 32, 32), BASIC_CNN, (132 * 2, 108 * 2, 24 * 2)),
    ],
)
def test_known_devices(shape, plan, expected):
    need = of(shape, plan)
    got = tuple(images_at_once(n, memory // rule.SHARE, need) for n, memory in (H200, A100, LAPTOP))
    assert got == expected


def test_what_an_image_needs():
    plan = MemoryPlan(1000, 0, 0, 0, 0, 600)
    images = torch.empty(7, 3, 4, 5, device="meta")
    assert need_of(images, torch.float32, plan) == Need(20, 1000 + 4 * 60 * 4, 600)
    assert need_of(images, torch.float64, None) == Need(20, 4 * 60 * 8 + 2 * 4096 * 20)


@given(st.integers(1, 200), st.integers(1, 2**40), NEEDS)
def test_it_fits_and_fills(processors, memory, need):
    count = images_at_once(processors, memory, need)
    if count > 1:
        assert count * need.bytes <= memory
        assert count * need.tensor <= 2**31
    if count >= processors:
        each, rest = divmod(count, processors)
        assert rest == 0
        assert each & (each - 1) == 0
        assert each <= 64
        assert each == 1 or each * need.positions <= 2**15
    assert images_at_once(processors, 2 * memory, need) >= count


@given(st.integers(1, 10_000), st.integers(1, 200), st.integers(0, 2**40), NEEDS)
def test_less_memory_than_the_rule_assumes(batch, processors, free, need):
    count = batch_that_fits(batch, need, processors, free)
    assert 1 <= count <= batch
    assert count == 1 or count * need.bytes <= free
    if batch * need.bytes <= free:
        assert count == batch


class Images:
    """A fake batch of images on a CUDA device."""

    def __init__(self, count: int) -> None:
        self.shape = torch.Size((count, 3, 32, 32))
        self.device = torch.device("cuda", 0)

    def __len__(self) -> int:
        return self.shape[0]


PROBLEM = SimpleNamespace(model_dtype=torch.float32)
A_NEED = 266_240 + 16 * 3072


@pytest.fixture
def free(monkeypatch):
    """An H200 whose free memory the test sets."""
    chip = SimpleNamespace(multi_processor_count=132, total_memory=H200[1])
    found = SimpleNamespace(bytes=10**11)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: chip)
    monkeypatch.setattr(rule, "free_memory", lambda device: found.bytes)
    return found


def batches(asked: int | None = None) -> Batches:
    planner = SimpleNamespace(memory=lambda problem, images: BASIC_CNN)
    return Batches(planner, asked)


def test_never_more_than_there_are_images(free):
    sizes = batches()
    assert sizes.rule(PROBLEM, Images(1)) == 4224
    assert [sizes.size(PROBLEM, Images(n)) for n in (1, 4223, 4224, 50_000)] == [
        1,
        4223,
        4224,
        4224,
    ]


def test_short_memory_makes_batches_smaller_and_warns(free):
    free.bytes = 1000 * A_NEED
    sizes = batches()
    with pytest.warns(RuntimeWarning, match="4,224 images.*using 528 at a time.*batch_size"):
        assert sizes.size(PROBLEM, Images(50_000)) == 528  # 4 for each multiprocessor
    free.bytes = 10**11  # the same call, the same batches
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sizes.size(PROBLEM, Images(50_000)) == 528
        assert sizes.size(PROBLEM, Images(900)) == 900
        free.bytes = 0  # in the next call the memory of the recorded step is not free
        assert sizes.size(PROBLEM, Images(900)) == 900


def test_the_callers_number_is_used_whatever_is_free(free):
    free.bytes = 0
    sizes = batches(asked=77)
    assert sizes.rule(PROBLEM, Images(1)) == 77
    assert sizes.size(PROBLEM, Images(50_000)) == 77


def test_a_cpu_takes_128(torch_rng):
    images = torch.rand(300, 3, 8, 8, generator=torch_rng)
    sign = SignTransform(tiny_cnn().eval())
    assert sign.images_at_once(images[:1]) == 128
    assert sign.with_options(batch_size=5).images_at_once(images) == 5


class Unknown(nn.Module):
    def forward(self, x):
        return x.logcumsumexp(1) * 100


def test_the_plan_is_the_compiled_steps_where_there_is_one(torch_rng):
    images = torch.rand(2, 3, 8, 8, generator=torch_rng)
    for unknown, strict in ((False, True), (True, True), (True, False)):
        model = nn.Sequential(Unknown(), *tiny_cnn()) if unknown else tiny_cnn()
        compiled = not (unknown and strict)
        sign = SignTransform(model.eval(), backend="fused", strict=strict)
        plan = sign.engines.memory(sign._problem(images, torch.float32)[0], images)
        assert (plan is not None) == compiled
        if plan is not None:
            assert plan == sign.step(images).memory
            assert 0 < plan.largest <= plan.peak
    sign = SignTransform(tiny_cnn().eval(), backend="autograd")
    assert sign.engines.memory(sign._problem(images, torch.float32)[0], images) is None


@pytest.mark.gpu
def test_a_device_is_filled(torch_rng):
    chip = torch.cuda.get_device_properties(0)
    images = pixels(torch_rng, (3, 3, 32, 32), "cuda")
    count = SignTransform(tiny_cnn().cuda().eval()).images_at_once(images)
    assert count % chip.multi_processor_count == 0
    assert count >= 8 * chip.multi_processor_count
