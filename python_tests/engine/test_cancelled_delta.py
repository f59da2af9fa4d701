"""Φ that ends in a LayerNorm: its sum is constant, δ is zero, and autograd has but rounding of it.

Such networks are compiled all the same, a wrong gradient is still refused, and checks of later
calls still see a change.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from sign_ext import BackendError, NegligibleDeltaWarning, SignTransform, pullback_of_ones
from sign_ext.engine.fused import programs

DTYPES = [torch.float32, torch.float64]


class Tokens(nn.Module):
    """Patches, a perceptron, a LayerNorm as initialised, and the first token's classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, 4)
        self.first = nn.Linear(12, 20)
        self.last = nn.Linear(20, 12)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.factor * self.last(nn.functional.gelu(self.first(x)))
        return self.head(self.norm(x)[:, 0])


class Hooked(Tokens):
    """Φ's sum varies by very little, of which a hook on the gradient makes another share."""

    def __init__(self, share: float, factor: float) -> None:
        super().__init__()
        self.share, self.scale = share, factor

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)[:, 0]
        small = tokens.tanh() * 1.0
        if small.requires_grad and self.scale != 1:
            small.register_hook(lambda g: g * self.scale)
        return self.head(self.norm(tokens) + self.share * small)


def network(dtype: torch.dtype, made: nn.Module | None = None) -> nn.Module:
    return (made or Tokens()).to(dtype).eval().requires_grad_(False)


def images(dtype: torch.dtype, highest: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(4, 3, 8, 8, generator=generator, dtype=dtype) * highest


@pytest.fixture
def recorded(monkeypatch) -> list[int]:
    """Grows with each recording."""
    found, trace = [], programs.trace
    monkeypatch.setattr(programs, "trace", lambda *a: found.append(1) or trace(*a))
    return found


@pytest.mark.parametrize("highest", [1.0, 255.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_delta_of_zero_is_compiled_and_told_once(torch_rng, recorded, dtype, highest):
    given = images(dtype, highest)
    sign = SignTransform(network(dtype), 2, step_size=1.0, backend="fused")
    assert "constant" in str(sign.explain(given))
    with pytest.warns(NegligibleDeltaWarning, match="constant") as told:
        results = [sign.transform(given) for _ in range(5)]
    assert len(told) == 1
    assert len(recorded) == 1  # its rounding does not look like a change
    assert all(float((each - given).abs().max()) < 1e-3 for each in results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore::sign_ext.errors.NegligibleDeltaWarning")
def test_weights_with_which_it_is_not_zero_are_followed_and_changes_seen(
    torch_rng, recorded, dtype
):
    model, given = network(dtype), images(dtype)
    sign = SignTransform(model, 1, step_size=1e-3, backend="fused")
    sign.transform(given)
    model.norm.weight.copy_(torch.randn(12))

    def check() -> None:
        got = sign.transform(given).double() - given
        wanted = pullback_of_ones(model, given).double() * 1e-3
        assert float((got - wanted).norm() / wanted.norm()) < 1e-3

    check()
    model.factor = 1.3  # a number that nothing can watch
    before = len(recorded)
    check()
    assert len(recorded) == before + 1


# float32 tolerates a percent, and asks float64 beyond that only.
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 2.0), (torch.float64, 2.0), (torch.float64, 1.001)]
)
@pytest.mark.parametrize("share", [1e-9, 1e-4, 0.1])
@pytest.mark.filterwarnings("ignore::sign_ext.errors.NegligibleDeltaWarning")
def test_a_wrong_gradient_is_refused_however_small_delta_is(torch_rng, dtype, scale, share):
    right, wrong = (network(dtype, Hooked(share, each)) for each in (1.0, scale))
    given = images(dtype)
    SignTransform(right, 1, step_size=1e8, backend="fused").transform(given)
    with pytest.raises(BackendError, match="its gradient is not that of its operations"):
        SignTransform(wrong, 1, step_size=1e8, backend="fused").transform(given)


def test_an_ordinary_network_warns_of_nothing(torch_rng):
    model = network(torch.float32)
    model.norm.weight.copy_(torch.randn(12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SignTransform(model, 2, step_size=1.0, backend="fused").transform(images(torch.float32))


def test_a_later_call_asks_no_more_than_where_the_sum_varies():
    model, few = network(torch.float32), images(torch.float32, 255.0)
    passes: list[int] = []
    model.patches.register_forward_hook(lambda _, args, __: passes.append(len(args[0])))
    sign = SignTransform(model, 2, backend="fused")

    def notes_and_passes() -> tuple[bool, list[int]]:
        passes.clear()
        constant = any("constant" in note for note in sign.explain(few).notes)
        sign.transform(few)
        return constant, list(passes)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegligibleDeltaWarning)
        notes_and_passes()
        constant, kept = notes_and_passes()
        assert constant
        assert kept == [1, 1]  # one pass a call, at a random image
        # With other weights the sum may vary.
        with torch.no_grad():
            model.norm.weight.copy_(torch.linspace(-2, 3, 12))
        constant, changed = notes_and_passes()
        assert not constant
        assert len(changed) > len(kept)
        constant, kept = notes_and_passes()
        assert not constant
        assert kept == [1, 1]
