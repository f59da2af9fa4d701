"""A whole evaluation recomputed by hand from what the model was shown."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext.data import ImageSet
from sign_ext.evaluation import evaluate


class Recorder(nn.Module):
    """Gives logits that depend on the pixels, and keeps everything it is shown."""

    def __init__(self, weights: np.ndarray) -> None:
        super().__init__()
        self.linear = nn.Linear(weights.shape[1], len(weights), bias=False)
        self.linear.weight.data.copy_(torch.from_numpy(weights))
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        self.shown.append(images.detach().clone().contiguous())
        return self.linear(images.flatten(1))


@pytest.fixture
def test_set(rng: np.random.Generator) -> ImageSet:
    """131 images (more than two blocks, and odd) without a zero pixel, three classes of four."""
    images = rng.integers(1, 256, (131, 3, 9, 11), dtype=np.uint8)
    labels = rng.integers(0, 3, 131)
    names = ("a", "b", "c", "none")
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels), names, "x/test")


@pytest.fixture
def model(rng: np.random.Generator) -> Recorder:
    return Recorder(rng.normal(size=(4, 297)) / 100)


def test_numbers_are_those_of_a_loop_by_hand(test_set: ImageSet, model: Recorder) -> None:
    draws = 4
    found = evaluate(model, test_set, draws=draws, seed=3, batch_size=50)
    assert max(map(len, model.shown)) <= 50
    shown = torch.cat(model.shown).numpy().astype(np.float64).reshape(1 + 2 * draws, 131, 3, 9, 11)
    pixels, labels = test_set.images.numpy(), test_set.labels.numpy()
    weights = model.linear.weight.detach().numpy().astype(np.float64)

    right = (shown.reshape(9, 131, -1) @ weights.T).argmax(2) == labels
    accuracies = right.mean(1)
    np.testing.assert_array_equal(shown[0], pixels)
    assert found.accuracy == pytest.approx(accuracies[0], abs=1e-12)
    answers = found.answers.values
    np.testing.assert_array_equal(answers["correct"], right[0])
    np.testing.assert_array_equal(answers["pixels_off"], right[1 : 1 + draws].sum(0))
    np.testing.assert_array_equal(answers["noise"], right[1 + draws :].sum(0))
    assert found.answers.draws == draws
    logits = shown[0].reshape(131, -1) @ weights.T
    odds = np.exp(logits - logits.max(1, keepdims=True))
    of_label = (odds / odds.sum(1, keepdims=True))[np.arange(131), labels]
    np.testing.assert_allclose(answers["probability"], of_label, rtol=1e-4, atol=1e-37)
    assert "answers" not in found.to_dict()
    for label, name in enumerate("abc"):
        assert found.per_class[name] == pytest.approx(right[0, labels == label].mean(), abs=1e-12)
    assert math.isnan(found.per_class["none"])

    off, noisy = shown[1 : 1 + draws], shown[1 + draws :]
    assert ((off == 0).all(2).sum((2, 3)) == 50).all()
    np.testing.assert_array_equal(np.where(off == 0, pixels, off), [pixels] * draws)
    noise = noisy - pixels
    assert abs(noise.std() - 10) < 5 * 10 / math.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 5 * 10 / math.sqrt(noise.size)
    for kind in (off == 0, noise):
        flat = {each.tobytes() for each in kind}
        assert len(flat) == draws  # every draw is another one
        assert len({image.tobytes() for draw in kind for image in draw}) == draws * 131

    assert len(set(accuracies[1 : 1 + draws])) > 1
    assert found.pixels_off_mean == pytest.approx(accuracies[1 : 1 + draws].mean())
    assert found.pixels_off_std == pytest.approx(accuracies[1 : 1 + draws].std(ddof=1))
    assert found.noise_mean == pytest.approx(statistics.fmean(accuracies[1 + draws :]))
    assert found.noise_std == pytest.approx(statistics.stdev(accuracies[1 + draws :]))
    assert (found.draws, found.images) == (draws, 131)


def test_the_batch_size_changes_nothing(test_set: ImageSet, model: Recorder) -> None:
    shown = []
    for batch_size in (7, 64, 100, 1000):
        model.shown.clear()
        evaluate(model, test_set, draws=2, batch_size=batch_size)
        assert max(map(len, model.shown)) <= batch_size
        shown.append(torch.cat(model.shown))
    assert all(torch.equal(shown[0], other) for other in shown[1:])


def test_seeds(test_set: ImageSet, model: Recorder) -> None:
    def shown(seed: int) -> Tensor:
        model.shown.clear()
        evaluate(model, test_set, draws=2, seed=seed)
        return torch.cat(model.shown[1:])

    one, again, other = shown(1), shown(1), shown(2)
    assert torch.equal(one, again)
    # Not one image of one seed's draws is among the other's.
    first = {image.numpy().tobytes() for image in one}
    assert not first & {image.numpy().tobytes() for image in other}


def test_everything_is_left_as_it_was(test_set: ImageSet, model: Recorder) -> None:
    model.train()
    weights, pixels = model.linear.weight.detach().clone(), test_set.images.clone()
    state = torch.get_rng_state()
    evaluate(model, test_set, draws=1)
    assert model.training
    assert torch.equal(model.linear.weight, weights)
    assert torch.equal(test_set.images, pixels)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_counts_every_image(test_set: ImageSet, model: Recorder) -> None:
    calls: list[tuple[int, int]] = []
    evaluate(model, test_set, draws=3, batch_size=64, progress=lambda *call: calls.append(call))
    done = [each for each, _ in calls]
    assert {total for _, total in calls} == {7 * 131}
    assert done == sorted(set(done))
    assert done[-1] == 7 * 131
    assert len(calls) == 7 * 3


def test_one_draw_has_no_deviation(test_set: ImageSet, model: Recorder) -> None:
    found = evaluate(model, test_set, draws=1)
    assert math.isnan(found.pixels_off_std)
    as_json = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert as_json["pixels_off_std"] is None
    assert as_json["per_class"]["none"] is None
    assert as_json["accuracy"] == found.accuracy
    assert as_json["images"] == 131


def test_refusals(test_set: ImageSet, model: Recorder) -> None:
    with pytest.raises(ValueError, match="'x/test' is empty"):
        evaluate(model, test_set.subset([]))
    for name, value in (("draws", 0), ("batch_size", 0), ("seed", -1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            evaluate(model, test_set, **{name: value})
    model.linear.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluate(model, test_set)


def test_other_strengths_of_corruption(test_set: ImageSet, model: Recorder) -> None:
    evaluate(model, test_set, draws=1, num_off=7, sigma=2.5)
    shown = torch.cat(model.shown).view(3, 131, 3, 9, 11)
    assert ((shown[1] == 0).all(1).sum((1, 2)) == 7).all()
    noise = (shown[2] - test_set.images).double()
    assert abs(float(noise.std()) - 2.5) < 5 * 2.5 / math.sqrt(2 * noise.numel())
    model.shown.clear()
    none = evaluate(model, test_set, draws=2, num_off=0, sigma=0)
    assert none.pixels_off_mean == none.noise_mean == none.accuracy
    model.shown.clear()
    for options, message in (({"num_off": 100}, "n=100"), ({"sigma": -1.0}, "sigma=-1.0")):
        with pytest.raises(ValueError, match=message):
            evaluate(model, test_set, **options)
    assert not model.shown  # refused before any work
