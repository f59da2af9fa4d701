"""The reference itself, where p*_K is known in closed form."""

from __future__ import annotations

import pytest
import torch

from sign_ext.reference import iterative_sign_reference


def test_the_reference_on_a_linear_map(torch_rng):
    """Φ = Ax has δ = the column sums of A everywhere: p*_K is known in closed form."""
    a = torch.randn(7, 12, generator=torch_rng, dtype=torch.float64)
    p = torch.rand(2, 12, generator=torch_rng, dtype=torch.float64)
    got = iterative_sign_reference(lambda x: x @ a.T, p, 5, step_size=0.5, momentum=0.8)
    travelled = sum(0.8**j for k in range(5) for j in range(k + 1)) * 0.5
    torch.testing.assert_close(got, p + travelled * a.sum(0))


def test_the_reference_on_a_quadratic():
    """Φ = x²/2 has δ = x: p* grows by (1 + step) a step at the iterate, linearly at the input."""
    p = torch.tensor([[3.0]], dtype=torch.float64)
    at_iterate = iterative_sign_reference(lambda x: x**2 / 2, p, 4, step_size=0.1)
    at_input = iterative_sign_reference(
        lambda x: x**2 / 2, p, 4, step_size=0.1, linearize_at="input"
    )
    assert at_iterate.item() == pytest.approx(3 * 1.1**4)
    assert at_input.item() == pytest.approx(3 * 1.4)
