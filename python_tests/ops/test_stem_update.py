"""stem_update_ on the CPU: against autograd and the reference in float64, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stem_update_checks import (
    STEMS,
    Stem,
    check_against_autograd,
    check_against_the_reference,
    check_the_same_bits_every_time,
    check_the_watch,
    problem,
)
from tensors import DTYPES, needs_native
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from sign_ext.ops.stem_update import stem_update_
from sign_ext.ops.watch import new_counts

UPDATES = [stem_update_, stem_update_.reference]
OPTIONAL = ["velocity", "mask", "watch", "counts", "clamp_min", "clamp_max"]
pairs = {
    "small": st.tuples(st.integers(1, 4), st.integers(1, 4)),
    "size": st.tuples(st.integers(1, 20), st.integers(1, 20)),
    "padding": st.tuples(st.integers(0, 4), st.integers(0, 4)),
}
stems = st.builds(
    Stem,
    images=st.integers(1, 3),
    size=pairs["size"],
    channels=st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 8, 16, 22, 32, 33, 64])),
    kernel=pairs["small"],
    stride=pairs["small"],
    padding=pairs["padding"],
    dilation=pairs["small"],
).filter(lambda stem: min(stem.out) > 0 and stem_begins_in_the_image(stem))


def stem_begins_in_the_image(stem: Stem) -> bool:
    """Whether no window lies entirely in the padding after the image."""
    return all(
        (out - 1) * stride - pad < size
        for out, stride, pad, size in zip(
            stem.out, stem.stride, stem.padding, stem.size, strict=True
        )
    )


@needs_native
@given(
    stem=stems,
    dtype=st.sampled_from(DTYPES),
    left_out=st.sets(st.sampled_from(OPTIONAL)).map(
        lambda names: names | {"counts"} if "watch" in names else names
    ),
    numbers=st.integers(0, 2**32 - 1),
)
def test_any_convolution(stem, dtype, left_out, numbers):
    generator = torch.Generator().manual_seed(numbers)
    check_against_the_reference(stem, "cpu", dtype, generator, left_out)


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stem", STEMS)
def test_stems_of_usual_networks(stem, dtype, torch_rng):
    check_against_the_reference(stem, "cpu", dtype, torch_rng, set())


@needs_native
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bits_every_time(threads, torch_rng):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for stem in STEMS:
            check_the_same_bits_every_time(stem, "cpu", torch.float32, torch_rng)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("stem", STEMS)
def test_delta_is_what_autograd_sends_back(update, slope, stem):
    check_against_autograd(update, stem, "cpu", slope)


@pytest.mark.parametrize("update", UPDATES)
def test_padding_on_one_side_alone(update, torch_rng):
    x = torch.randn(2, 3, 8, 10, generator=torch_rng, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(16, 3, 3, 3, generator=torch_rng)
    y = F.conv2d(F.pad(x, (0, 2, 1, 0)), kernel.double(), stride=2)
    g = torch.randn(y.shape, generator=torch_rng).contiguous(memory_format=torch.channels_last)
    (expected,) = torch.autograd.grad(y, x, g.double())
    p = torch.zeros(x.shape).contiguous(memory_format=torch.channels_last)
    weight = kernel.permute(2, 3, 1, 0).contiguous()
    update(p, g, weight, stride=(2, 2), padding=(1, 0))
    torch.testing.assert_close(p.double(), expected, rtol=2e-6, atol=1e-4)


@pytest.mark.parametrize("update", UPDATES)
def test_the_watch(update):
    check_the_watch(update, "cpu")


@pytest.mark.parametrize("update", UPDATES)
def test_crossed_bounds_and_nan(update):
    p = torch.tensor([float("nan"), 0.0, 5.0]).view(1, 1, 1, 3)
    g, weight = torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 1)
    update(p, g, weight, clamp_min=2.0, clamp_max=1.0)
    assert p.isnan().flatten().tolist() == [True, False, False]
    assert p.flatten()[1:].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("update", UPDATES)
def test_no_images(update):
    p, g = (
        torch.zeros(0, channels, 4, 4).contiguous(memory_format=torch.channels_last)
        for channels in (3, 8)
    )
    watch = torch.ones(2)
    counts = torch.zeros(3, dtype=torch.int32)
    update(p, g, torch.ones(1, 1, 3, 8), watch=watch, counts=counts)
    assert watch.tolist() == [1.0, 1.0]
    assert counts.tolist() == [0, 0, 0]


@needs_native
def test_an_image_smaller_than_the_kernel_moves_by_its_velocity_alone():
    p, velocity = torch.full((1, 1, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    g, counts = torch.empty(1, 8, 0, 0), new_counts(p.device)
    stem_update_(
        p, g, torch.ones(3, 3, 1, 8), velocity=velocity, watch=torch.zeros(2), counts=counts,
        momentum=0.5, step_size=4.0, clamp_max=4.0,
    )  # fmt: skip
    assert velocity.eq(0.5).all()
    assert p.eq(4.0).all()
    assert counts[0] == 1


def test_float64_takes_the_reference(torch_rng):
    tensors, options = problem(Stem(), "cpu", torch.float32, torch_rng)
    tensors = {n: t if n in ("mask", "counts") else t.double() for n, t in tensors.items()}
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    stem_update_(**tensors, **options)
    stem_update_.reference(**expected, **options)
    assert torch.equal(tensors["p"], expected["p"])


def broken(**changes: object) -> dict[str, object]:
    tensors, options = problem(Stem(), "cpu", torch.float32, torch.Generator().manual_seed(1))
    everything: dict[str, object] = {**tensors, **options}
    for name, change in changes.items():
        everything[name] = change(everything[name]) if callable(change) else change
    return everything


@needs_native
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (broken(p=lambda p: p.contiguous()), "p must be dense with its channels innermost"),
        (broken(g=lambda g: g.contiguous()), "g must be dense with its channels innermost"),
        (broken(g=lambda g: g[0]), "p must be .N, C, H, W., g"),
        (broken(g=lambda g: g[:1]), "g must have p's batch size"),
        (broken(g=lambda g: g[:, :, :-2].clone()), "g has height and width .7, 11., which no"),
        (broken(stride=(2, 1)), "g has height and width .9, 11., which no"),
        (broken(stride=(0, 1)), "stride, dilation and the kernel's size must be positive"),
        (broken(padding=(-1, 1)), "padding must not be negative"),
        (broken(weight=lambda w: w.double()), "weight must be contiguous float32"),
        (broken(weight=lambda w: w.transpose(2, 3)), "weight must be contiguous float32"),
        (broken(weight=lambda w: w[:, :, :2].clone()), "weight must be .KH, KW, 3, 32."),
        (broken(velocity=lambda v: v.double()), "velocity must be float32"),
        (broken(velocity=lambda v: v[:1]), "velocity must have p's shape"),
        (broken(velocity=lambda v: v.contiguous()), "velocity must be dense"),
        (broken(mask=lambda m: m[:-1]), "mask must be contiguous uint8 of shape .198, 4."),
        (broken(mask=lambda m: m.int()), "mask must be contiguous uint8"),
        (broken(watch=torch.zeros(3)), "watch must be 2 contiguous float32 values"),
        (broken(watch=None), "counts need a watch"),
        (broken(counts=lambda c: c[:2]), "counts must be 3 contiguous int32 values"),
        (broken(counts=lambda c: c.long()), "counts must be 3 contiguous int32 values"),
        (broken(clamp_min=float("nan")), "clamp_min and clamp_max must be numbers"),
    ],
)
def test_bad_arguments_are_refused_and_nothing_is_touched(arguments, message):
    before = {n: a.clone() for n, a in arguments.items() if isinstance(a, torch.Tensor)}
    with pytest.raises(RuntimeError, match=message):
        stem_update_(**arguments)
    for name, tensor in before.items():
        assert torch.equal(arguments[name], tensor)


@needs_native
def test_shared_memory_is_refused():
    weight = torch.ones(1, 1, 1, 1)
    both = torch.zeros(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match="p shares memory with g"):
        stem_update_(both, both, weight)
    with pytest.raises(RuntimeError, match="velocity shares memory with p"):
        stem_update_(both, torch.zeros(1, 1, 4, 4), weight, velocity=both)
    with pytest.raises(RuntimeError, match="watch shares memory with p"):
        stem_update_(both, torch.zeros(1, 1, 4, 4), weight, watch=both.flatten()[:2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.ones(3, 3, 3, 5)}, "weight has shape"),
        ({"mask": torch.ones(3, 1, dtype=torch.uint8)}, "mask must have shape"),
        ({"velocity": torch.ones(3)}, "velocity must have p's shape"),
        ({"watch": torch.ones(3)}, "watch must have 2 elements"),
        ({"watch": None}, "counts need a watch"),
        ({"counts": torch.ones(3)}, "counts must be 3 int32"),
    ],
)
def test_the_reference_refuses_in_words(change, message):
    with pytest.raises(ValueError, match=message):
        stem_update_.reference(**broken(**change))


@needs_native
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bare", [False, True])
def test_opcheck(dtype, bare, torch_rng):
    tensors, _ = problem(Stem(), "cpu", dtype, torch_rng)
    velocity, mask, watch, counts = (
        None if bare else tensors[n] for n in ("velocity", "mask", "watch", "counts")
    )
    arguments = (tensors["p"], tensors["g"], tensors["weight"], velocity, mask, 0.1, watch, counts)
    numbers = (1, 1, 1, 1, 1, 1, 0.5, 0.9, None, 200.0)
    results = torch.library.opcheck(torch.ops.sign_ext.stem_update_, (*arguments, *numbers))
    assert set(results.values()) == {"SUCCESS"}


@needs_native
def test_fake_tensors_are_taken_and_refused():
    with FakeTensorMode():
        p, g = torch.empty(1, 3, 4, 4), torch.empty(1, 8, 4, 4)
        stem_update_(p, g, torch.empty(1, 1, 3, 8))
        with pytest.raises(RuntimeError, match="the channels of p and of g"):
            stem_update_(p, g, torch.empty(1, 1, 4, 8))
