"""Prediction leaves the model alone; accuracies against counting in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sign_ext.evaluation import class_accuracy, predict, present_class_accuracy

# Table 3: right images by class (automobile, bird, cat, dog, frog) and the column "Mean (643)".
COUNTS = (49, 146, 50, 298, 100)
TABLE_3 = {
    "Classical": ((0.8163, 0.5479, 0.6800, 0.3289, 0.8300), 0.5210),
    "mixup": ((0.7551, 0.4726, 0.6800, 0.2919, 0.7900), 0.4759),
    "SIGN": ((0.9184, 0.3973, 0.7200, 0.4497, 0.8000), 0.5490),
}


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(6 * 5 * 3, 4),
    )


class Viewer(nn.Module):
    """Flattens with view(), which channels_last features do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.convolution(images)
        return features.view(len(images), -1)


@pytest.mark.parametrize("batch_size", [1, 4, 11, 512])
def test_predict_is_the_model_in_eval_mode(batch_size: int, torch_rng: torch.Generator) -> None:
    model = network()
    model(torch.rand(20, 3, 7, 5) * 255)  # gives BatchNorm something to keep
    images = torch.randint(0, 256, (11, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    logits = predict(model, images, batch_size=batch_size)
    assert logits.dtype == torch.float32
    assert not logits.is_inference()
    assert model.training
    model.eval()
    with torch.no_grad():
        expected = model(images.float())
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(predict(model, images.float()), expected, rtol=1e-5, atol=1e-4)


def test_predict_restores_every_flag_also_after_an_error() -> None:
    model = network()
    model[1].eval()
    flags = [each.training for each in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, torch.zeros(3, 3, 7, 5))
    assert [each.training for each in model.modules()] == flags
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(3, 3, 9, 9))
    assert [each.training for each in model.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_models_that_view_their_features_work(torch_rng: torch.Generator) -> None:
    model = Viewer()
    images = torch.rand(5, 3, 7, 5, generator=torch_rng) * 255
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(predict(model, images, batch_size=2), expected)


def test_other_dtypes(torch_rng: torch.Generator) -> None:
    images = torch.randint(0, 256, (5, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    for dtype in (torch.float64, torch.bfloat16):
        model = network().to(dtype).eval()
        with torch.no_grad():
            expected = model(images.to(dtype)).float()
        found = predict(model, images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=2e-2, atol=1.0)


def test_predict_refuses() -> None:
    with pytest.raises(ValueError, match="images is empty"):
        predict(network(), torch.zeros(0, 3, 7, 5))
    with pytest.raises(ValueError, match="batch_size=0"):
        predict(network(), torch.zeros(1, 3, 7, 5), batch_size=0)


@pytest.mark.gpu
def test_predict_on_a_gpu(torch_rng: torch.Generator) -> None:
    model = network()
    images = torch.randint(0, 256, (11, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)
    expected = predict(model, images)
    found = predict(model.to("cuda"), images, batch_size=4)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1.0)


def test_class_accuracy_is_counting(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(997, 6)).astype(np.float32)
    labels = rng.choice([0, 1, 2, 4, 5], 997)  # no image of class 3
    overall, per_class = class_accuracy(torch.from_numpy(logits), torch.from_numpy(labels), 6)
    right = logits.argmax(1) == labels
    assert overall == right.sum() / 997
    for each in (0, 1, 2, 4, 5):
        assert per_class[each] == right[labels == each].sum() / (labels == each).sum()
    assert math.isnan(per_class[3])


def test_class_accuracy_refuses() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="empty"):
        class_accuracy(torch.zeros(0, 2), labels[:0], 2)
    with pytest.raises(ValueError, match="shape"):
        class_accuracy(torch.zeros(2, 3), labels, 2)
    with pytest.raises(ValueError, match="NaN or infinite"):
        class_accuracy(torch.tensor([[0.0, float("nan")], [0.0, 1.0]]), labels, 2)


def test_present_class_accuracy_is_counting(rng: np.random.Generator) -> None:
    logits = rng.normal(size=(643, 10)).astype(np.float32)
    labels = rng.choice([1, 2, 3, 5, 6], 643, p=[0.1, 0.2, 0.1, 0.5, 0.1])
    found = present_class_accuracy(torch.from_numpy(logits), torch.from_numpy(labels), 10)
    right = logits.argmax(1) == labels
    assert list(found.per_class) == [1, 2, 3, 5, 6]
    for each, accuracy in found.per_class.items():
        assert accuracy == right[labels == each].sum() / (labels == each).sum()
    overall, per_class = found
    assert overall == right.sum() / 643
    assert found.class_mean == pytest.approx(np.mean(list(per_class.values())))
    # Most predictions are of classes that do not occur, and count as wrong.
    assert np.isin(logits.argmax(1), [0, 4, 7, 8, 9]).sum() > 200


@pytest.mark.parametrize("method", TABLE_3)
def test_the_papers_mean_is_over_images(method: str) -> None:
    accuracies, mean = TABLE_3[method]
    right = [round(a * n) for a, n in zip(accuracies, COUNTS, strict=True)]
    labels = torch.tensor([1, 2, 3, 5, 6]).repeat_interleave(torch.tensor(COUNTS))
    hits = torch.cat([torch.arange(n) < r for n, r in zip(COUNTS, right, strict=True)])
    predictions = torch.where(hits, labels, 9)  # a class that does not occur
    found = present_class_accuracy(torch.eye(10)[predictions], labels, 10)
    assert [round(a, 4) for a in found.per_class.values()] == list(accuracies)
    assert round(found.overall, 4) == mean
    assert found.class_mean == pytest.approx(sum(accuracies) / 5, abs=1e-4)
    assert abs(found.class_mean - mean) > 0.1


def test_present_class_accuracy_refuses() -> None:
    with pytest.raises(ValueError, match="empty"):
        present_class_accuracy(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), 3)
    with pytest.raises(ValueError, match="shape"):
        present_class_accuracy(torch.zeros(2, 4), torch.tensor([0, 1]), 3)
