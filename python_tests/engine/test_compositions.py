"""Random networks in plain torch, compiled, against a naive loop of autograd in float64.

What the compiler has a rule for and what runs as an island is its own affair: values, memory and
what the caller owns have to be right either way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from compositions import Composition, compositions
from hypothesis import HealthCheck, assume, given, settings
from measured_memory import peak_bytes
from networks import step_for
from torch import Tensor, nn

from sign_ext import SignTransform
from sign_ext.compiler.ir.island import Island
from sign_ext.errors import BackendError, SourceLayerError
from sign_ext.eval_state import computing

Result = TypeVar("Result")
STEPS = 3
EXACT = 1e-9  # relative, in float64
# PyTorch's own derivatives of these have constants in float32, whatever the dtype.
COARSE, COARSE_NAMES = 1e-7, ("ardsigmoid", "CELU")
LEAST = 1e-3  # norm of a δ below which it is mostly what cancels
# What may be refused: a Φ that does not depend on the images, or whose sum is constant.
REFUSED = ("does not depend on the images", "normalised to a constant total")


def naive_delta(model: nn.Module, p: Tensor) -> Tensor:
    """Σ ∂Φ/∂p, Φ being what the classifier reads.

    One image is taken twice: PyTorch's BatchNorm on a CPU, which InstanceNorm calls, has a wrong
    derivative for a batch of one with permuted strides.
    """
    if len(p) == 1:
        return naive_delta(model, p.repeat(2, 1, 1, 1))[:1]
    found: list[Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    x = p.clone().requires_grad_()
    try:
        model(x)
        (delta,) = torch.autograd.grad(found[0].sum(), x)
    finally:
        hook.remove()
    return delta


def naive(model: nn.Module, p: Tensor, steps: int, step_size: float) -> Tensor:
    """Algorithm 1."""
    for _ in range(steps):
        p = p + step_size * naive_delta(model, p)
    return p


def differentiable(composition: Composition) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in float64, its images and δ there; those that autograd refuses are not taken."""
    model, images = composition.build()
    model, images = model.double(), images.double()
    try:
        delta = naive_delta(model, images)
    except RuntimeError as error:
        assume("modified by an inplace" not in str(error))
        assume("does not require grad" not in str(error))
        assume("leaf Variable" not in str(error))
        raise
    assume(bool(delta.isfinite().all()) and 1e-8 < float(delta.abs().max()) < 1e8)
    return model, images, delta


def off(got: Tensor, wanted: Tensor, least: float = 0.0) -> float:
    """Relative L2 error; infinite where `got` is not finite."""
    error = float((got.double() - wanted.double()).norm())
    return error / max(float(wanted.double().norm()), least) if error == error else float("inf")


def unless_refused(work: Callable[[], Result]) -> Result | None:
    """What some work gives, or None where the compiler refuses a network as it may."""
    try:
        return work()
    except (BackendError, SourceLayerError) as error:
        if not any(reason in str(error) for reason in REFUSED):
            raise
        return None


def check_exact(composition: Composition) -> SignTransform | None:
    """δ, three steps, the same bits again, another batch; nothing of the caller's is changed."""
    model, images, delta = differentiable(composition)
    step_size = step_for(delta, 0.05)
    before = copy.deepcopy(model.state_dict())
    given_images = images.clone()
    sign = SignTransform(model, STEPS, step_size=step_size, backend="fused")
    got = unless_refused(lambda: sign.transform(images))
    if got is None:
        return None
    most = COARSE if any(name in repr(composition) for name in COARSE_NAMES) else EXACT
    assert off(sign.step(images).pullback_of_ones(images), delta, LEAST) <= most
    wanted = naive(model, images, STEPS, step_size)
    assert off(got - images, wanted - images, LEAST * step_size) <= 10 * most
    assert torch.equal(got, sign.transform(images))
    more = torch.cat([images.flip(0), images * 0.7, images[:1] + 0.1])
    moved = naive(model, more, 1, step_size) - more
    again = sign.with_options(steps=1).transform(more)
    assert off(again - more, moved, LEAST * step_size) <= 10 * most
    assert torch.equal(images, given_images)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True)
    )
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    answer = sign.explain(images)
    assert answer.backend == "fused"
    assert 0 <= sum(island.share for island in answer.islands) <= 1 + 1e-9
    assert str(answer)
    return sign


def check_rounding(composition: Composition) -> None:
    """float32 at its tolerance: the median of three batches, since rounding decides signs."""
    exact, images, _ = differentiable(composition)
    model = copy.deepcopy(exact).float()
    sign = SignTransform(model, 1, backend="fused")
    ours, eager = [], []
    for batch in (images, images.flip(0) * 0.9, images + 0.05):
        wanted = naive_delta(exact, batch)
        step = unless_refused(lambda batch=batch: sign.step(batch.float()))
        if step is None:
            return
        ours.append(off(step.pullback_of_ones(batch.float()), wanted, LEAST))
        eager.append(off(naive_delta(model, batch.float()), wanted, LEAST))
    assert sorted(ours)[1] <= max(1e-4, 10 * sorted(eager)[1]), f"{ours}, eager {eager}"


OPTIONS = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}


@settings(max_examples=25, **OPTIONS)
@given(compositions(5))
def test_a_network_walks_as_in_a_naive_loop(composition: Composition) -> None:
    check_exact(composition)


@settings(max_examples=15, **OPTIONS)
@given(compositions(4))
def test_a_network_is_as_exact_as_eager_in_float32(composition: Composition) -> None:
    check_rounding(composition)


def peaks(composition: Composition) -> tuple[float, int, bool] | None:
    """Bytes an image at a step's peak: measured and planned; and whether there are islands.

    The difference of two batches is taken, since libraries have scratch memory of their own.
    """
    model, images, _ = differentiable(composition)
    model, found = model.float(), []
    counts = (64, 512)
    for count in counts:
        batch = images.float().repeat(count, 1, 1, 1)[:count]
        batch = batch.contiguous(memory_format=torch.channels_last)
        step = unless_refused(
            lambda batch=batch: SignTransform(model, 1, backend="fused").step(batch)
        )
        if step is None:
            return None
        with computing(model), torch.no_grad():
            found.append(peak_bytes(lambda step=step, x=batch: step.delta(x), batch.device))
    islands = any(isinstance(op, Island) for op in step.program.ops)
    return (found[1] - found[0]) / (counts[1] - counts[0]), step.memory.peak, islands


@pytest.mark.slow
@settings(max_examples=40, **OPTIONS)
@given(compositions(5))
def test_no_step_takes_more_memory_than_planned(composition: Composition) -> None:
    """But for temporaries of PyTorch's operators, which islands have more of than others."""
    found = peaks(composition)
    if found is not None:
        measured, planned, islands = found
        assert measured <= (2.0 if islands else 1.5) * planned + 64


@pytest.mark.slow
@settings(max_examples=100, **OPTIONS)
@given(compositions(9))
def test_deeper_networks(composition: Composition) -> None:
    if check_exact(composition) is not None:
        check_rounding(composition)
