"""Algorithm 1 over a set of images: batches, what is reported, and whether anything moved."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from sign_ext import NegligibleDeltaWarning, SignTransform, iterative_sign
from sign_ext.algorithm import walk
from sign_ext.eval_state import computing

LIVE, DEAD = 200.0, -200.0  # what the images of a batch are filled with


def gated() -> nn.Sequential:
    """Φ = relu(A p) with positive A: δ > 0 where the pixels are positive, 0 where negative."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
    nn.init.uniform_(model[1].weight, 0.1, 1.0)
    nn.init.zeros_(model[1].bias)
    return model.eval()


def filled(*values: float) -> Tensor:
    """Two images, one batch, of each value."""
    return torch.cat([torch.full((2, 3, 2, 2), value) for value in values])


def run(images: Tensor, **options) -> tuple[bool, Tensor]:
    """What `walk` says, and p*_K."""
    sign = SignTransform(gated(), 3, batch_size=2, **options)
    result = torch.empty_like(images)

    def write(rows: slice, iterates) -> None:
        result[rows] = iterates[3]

    with computing(sign.model):
        problem = sign._problem(images, torch.float32)[0]
        return walk(problem, sign.engines, images, 2, write), result


@pytest.mark.parametrize("backend", ["autograd", "fused"])
@pytest.mark.parametrize(
    ("values", "moves"),
    [
        ((DEAD,), False),
        ((LIVE,), True),
        ((DEAD, LIVE), True),
        ((LIVE, DEAD), True),
        ((DEAD, LIVE, DEAD), True),
        ((DEAD, DEAD, DEAD, LIVE), True),
        ((LIVE, LIVE), True),
        ((DEAD, DEAD, DEAD), False),
    ],
    ids=lambda value: (
        "-".join("live" if v > 0 else "dead" for v in value) if isinstance(value, tuple) else None
    ),
)
def test_any_batch_that_moves_is_a_move(values, moves, backend):
    images = filled(*values)
    said, result = run(images, backend=backend)
    assert said == moves
    live = images.flatten(1)[:, 0] == LIVE
    assert torch.equal((result != images).flatten(1).any(1), live)
    assert torch.equal(result[~live], images[~live])


@pytest.mark.parametrize("values", [(DEAD, LIVE), (LIVE, DEAD), (DEAD, LIVE, DEAD)])
def test_a_set_with_a_batch_that_moves_is_not_reported_as_unchanged(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NegligibleDeltaWarning)
        iterative_sign(gated(), filled(*values), 3, batch_size=2)


def test_a_set_without_one_is_reported_once():
    sign = SignTransform(gated(), 3, batch_size=2)
    with pytest.warns(NegligibleDeltaWarning, match=r"all 3 of them.*these 6 images") as caught:
        got = sign.transform(filled(DEAD, DEAD, DEAD))
    assert len(caught) == 1
    assert torch.equal(got, filled(DEAD, DEAD, DEAD))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sign.transform(filled(DEAD))


def test_batches_are_reported_as_image_steps_of_the_call():
    seen: list[int] = []
    sign = SignTransform(gated(), 3, batch_size=2, snapshots=(1, 3))
    images = filled(LIVE, LIVE)[:3]
    written: list[tuple[slice, list[int]]] = []
    with computing(sign.model):
        problem = sign._problem(images, torch.float32)[0]
        walk(
            problem,
            sign.engines,
            images,
            2,
            lambda rows, iterates: written.append((rows, list(iterates))),
            seen.append,
        )
    assert seen == [2, 4, 6, 7, 8, 9]
    assert written == [(slice(0, 2), [1, 3]), (slice(2, 3), [1, 3])]
