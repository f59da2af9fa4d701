"""Sets of δ have one scale, against their definition."""

from __future__ import annotations

import pytest
import torch

from sign_ext.change import describe_change
from sign_ext.data import ImageSet
from sign_ext.experiments.stages.networks import delta_set
from sign_ext.experiments.stages.stage import Outcome
from sign_ext.store import save_transformed


def test_delta_sets_share_one_factor_of_the_largest_k(tmp_path, torch_rng):
    train = ImageSet(
        torch.randint(0, 256, (6, 3, 5, 4), generator=torch_rng, dtype=torch.uint8),
        torch.arange(6) % 2,
        ("a", "b"),
        "train",
    )
    test = train.subset([0, 3])
    late = {
        s.name: s.float() + 3 * torch.randn(s.images.shape, generator=torch_rng) for s in (train,)
    }
    outcomes = []
    for name, part, moved in (
        ("train", train, late["train"]),
        ("test", test, late["train"][[0, 3]] * 1.5),
    ):
        folder = tmp_path / name
        steps = {2: part.float() + 77.0, 10: moved}
        save_transformed(folder, steps, part.labels, recipe={})
        numbers = {"change": {"10": describe_change(moved, part.images)}}
        outcomes.append(Outcome(None, folder, numbers, 0.0))
    whole = delta_set(outcomes[0], train, scaled_by=outcomes[0])
    assert float(whole.images.double().square().mean().sqrt()) == pytest.approx(64.0, rel=1e-5)
    factor = 64.0 / outcomes[0].numbers["change"]["10"]["rms"]
    some = delta_set(outcomes[1], test, scaled_by=outcomes[0])
    expected = (late["train"][[0, 3]] * 1.5 - test.float()) * factor
    torch.testing.assert_close(some.images, expected)
